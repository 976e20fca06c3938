"""Review: disagreements first; accepted, overruled by a verdict of one's own, or sent back and edited."""

from typing import Any

import pytest
from django.core.exceptions import PermissionDenied, ValidationError

from feedback_app.annotation.errors import VerdictInvalid
from feedback_app.annotation.models import Adjudication, Review
from feedback_app.annotation.reviews import disagreement_of, sent_back, waiting_reviews
from feedback_app.annotation.services import review_judgment, revise_judgment
from feedback_app.projects.models import Member
from tests.factories import canonical_ids, make_judgment, make_project, make_task, make_user

pytestmark = pytest.mark.django_db


def test_disagreement_is_the_mean_over_couples() -> None:
    # a and b agree, both differ from c on the one pair: shares 1, 0, 0.
    assert disagreement_of([[0, 1], [0, 1], [1, 0]]) == pytest.approx(2 / 3)
    assert disagreement_of([[0, 1]]) is None


def test_disagreements_wait_first() -> None:
    project = make_project(overlap=2)
    agreed, disagreed = make_task(project), make_task(project)
    a, b = make_user(project), make_user(project)
    make_judgment(agreed, a, (0, 1))
    make_judgment(disagreed, a, (0, 1))
    make_judgment(agreed, b, (0, 1))
    make_judgment(disagreed, b, (1, 0))
    assert [(task.task_id, task.disagreement) for task in waiting_reviews(project=project)] == [
        (disagreed.pk, 1.0),
        (agreed.pk, 0.0),
    ]


def test_an_accepted_judgment_waits_no_more() -> None:
    project = make_project()
    judgment = make_judgment(make_task(project), make_user(project))
    review_judgment(judgment_id=judgment.pk, reviewer=make_user(project, Member.Role.REVIEWER), outcome="accepted")
    assert waiting_reviews(project=project) == []


def test_overruling_leaves_the_judgment_and_stores_the_reviewers_verdict() -> None:
    project = make_project()
    task = make_task(project)
    judgment = make_judgment(task, make_user(project), (0, 1))
    reviewer = make_user(project, Member.Role.REVIEWER)
    verdict = {"ranking": [[pk] for pk in reversed(canonical_ids(task))]}
    review_judgment(
        judgment_id=judgment.pk, reviewer=reviewer, outcome="overruled", comment="It is wrong.", verdict=verdict
    )
    judgment.refresh_from_db()
    assert judgment.ranks == [0, 1]
    adjudication = Adjudication.objects.get(task=task)
    assert (adjudication.ranks, adjudication.rationale) == ([1, 0], "It is wrong.")
    assert waiting_reviews(project=project) == []


def test_one_sent_back_and_edited_waits_again_and_first() -> None:
    project = make_project()
    author = make_user(project)
    task = make_task(project)
    judgment = make_judgment(task, author)
    other = make_judgment(make_task(project), author)
    reviewer = make_user(project, Member.Role.REVIEWER)
    review_judgment(judgment_id=judgment.pk, reviewer=reviewer, outcome="sent_back", comment="Read the end again.")
    assert [held.review.comment for held in sent_back(project=project, annotator_id=author.pk)] == [
        "Read the end again."
    ]
    assert [held.task_id for held in waiting_reviews(project=project)] == [other.task_id]
    revise_judgment(
        judgment_id=judgment.pk, editor=author, body={"ranking": [[pk] for pk in reversed(canonical_ids(task))]}
    )
    assert Review.objects.get(judgment=judgment).outcome == Review.Outcome.REVISED
    assert [held.task_id for held in waiting_reviews(project=project)] == [judgment.task_id, other.task_id]


@pytest.mark.parametrize(
    ("given", "field"),
    [
        ({"outcome": "perhaps"}, "outcome"),
        ({"outcome": "sent_back"}, "comment"),
        ({"outcome": "accepted", "comment": "x" * 4001}, "comment"),
        ({"outcome": "overruled"}, "verdict"),
        ({"outcome": "accepted", "verdict": {}}, "verdict"),
    ],
)
def test_what_a_review_lacks_is_named(given: dict[str, Any], field: str) -> None:
    project = make_project()
    judgment = make_judgment(make_task(project), make_user(project))
    with pytest.raises(ValidationError) as refused:
        review_judgment(judgment_id=judgment.pk, reviewer=make_user(project, Member.Role.REVIEWER), **given)
    assert list(refused.value.message_dict) == [field]


def test_a_verdict_that_the_protocol_does_not_take_changes_nothing() -> None:
    project = make_project()
    judgment = make_judgment(make_task(project), make_user(project))
    with pytest.raises(VerdictInvalid):
        review_judgment(
            judgment_id=judgment.pk, reviewer=make_user(project, Member.Role.REVIEWER), outcome="overruled",
            verdict={"ranking": [["nobody"]]},
        )  # fmt: skip
    assert not Review.objects.exists()


def test_nobody_reviews_their_own() -> None:
    project = make_project()
    author = make_user(project, Member.Role.REVIEWER)
    judgment = make_judgment(make_task(project), author)
    with pytest.raises(PermissionDenied):
        review_judgment(judgment_id=judgment.pk, reviewer=author, outcome="accepted")
