"""Reliability, agreement and policies' scores against closed forms and made-up annotators whose truth is known."""

import math
import random

import pytest

from feedback_app.annotation.models import Judgment
from feedback_app.annotation.quality import fleiss_kappa, measure_quality
from feedback_app.annotation.reliability import annotator_reliability, check_scores, policy_scores
from feedback_app.annotation.services import submit_judgment
from feedback_app.annotation.services.queue import next_task
from feedback_app.annotation.work_report import work_report
from tests.factories import canonical_ids, make_judgment, make_project, make_task, make_tasks, make_user


def test_fleiss_kappa_of_a_worked_example() -> None:
    # Ten subjects, 14 raters, five categories, as worked through in the literature on Fleiss' kappa: 0.210.
    table = [
        (0, 0, 0, 0, 14), (0, 2, 6, 4, 2), (0, 0, 3, 5, 6), (0, 3, 9, 2, 0), (2, 2, 8, 1, 1),
        (7, 7, 0, 0, 0), (3, 2, 6, 3, 0), (2, 5, 3, 2, 2), (6, 5, 2, 1, 0), (0, 2, 2, 3, 7),
    ]  # fmt: skip
    assert fleiss_kappa(table) == pytest.approx(0.210, abs=5e-4)


def test_fleiss_kappa_says_nothing_where_nothing_can_differ() -> None:
    assert fleiss_kappa([(1, 0)]) is None
    assert fleiss_kappa([(2, 0), (3, 0)]) is None


@pytest.mark.django_db
def test_agreement_by_strength_counts_each_judgment_at_its_own() -> None:
    project = make_project(overlap=2)
    a, b = make_user(project), make_user(project)
    # Task 1: a says first with 3, b agrees with 1. Task 2: a says first with 3, b says second with 1.
    for second in ((0, 1), (1, 0)):
        task = make_task(project)
        make_judgment(task, a, (0, 1), strength=3)
        make_judgment(task, b, second, strength=1)
    assert measure_quality(project=project)["agreement_by_strength"] == [
        {"strength": 1, "agreement": 0.5, "n": 2},
        {"strength": 3, "agreement": 0.5, "n": 2},
    ]


@pytest.mark.django_db
def test_who_guesses_is_known_from_the_others() -> None:
    project = make_project(overlap=4)
    people = {name: make_user(project, username=name) for name in ("sure", "good", "fair", "guess")}
    chance = random.Random(7)
    right = {"sure": 1.0, "good": 0.95, "fair": 0.85, "guess": 0.5}
    for task in make_tasks(project, 120):
        truth = chance.random() < 0.5
        for name, person in people.items():
            first = truth if chance.random() < right[name] else not truth
            make_judgment(task, person, (0, 1) if first else (1, 0))
    found = annotator_reliability(project=project)
    # 120 tasks: a share of 0.5 is known to 0.5 +- 0.09 (two standard errors), and the model adds little to that.
    assert found["sure"] > found["fair"] > found["guess"]
    for name, share in right.items():
        assert found[name] == pytest.approx(share, abs=0.12)


@pytest.mark.django_db
def test_nobody_is_rated_where_no_pair_was_judged_twice() -> None:
    project = make_project()
    make_judgment(make_task(project), make_user(project))
    assert annotator_reliability(project=project) == {}
    assert check_scores(project=project) == {}


@pytest.mark.django_db
def test_two_policies_are_apart_by_the_log_odds_of_their_wins() -> None:
    project = make_project()
    person = make_user(project)
    # 60 wins of 80: with a pull of 0.1 towards equal, log(60 / 20) = 1.0986 apart.
    for number, task in enumerate(make_tasks(project, 80)):
        make_judgment(task, person, (0, 1) if number < 60 else (1, 0))
    best, worst = policy_scores(project=project)
    assert (best.policy, worst.policy) == ("model-0", "model-1")
    assert best.score - worst.score == pytest.approx(math.log(3), abs=0.02)
    assert best.low < best.score < best.high
    assert (best.pairs, worst.pairs) == (80, 80)
    # The interval of a share of 60 in 80 is 0.75 +- 0.095; half the log-odds at its ends: 0.32 and 0.85.
    assert best.low == pytest.approx(0.32, abs=0.08)
    assert best.high == pytest.approx(0.85, abs=0.12)


@pytest.mark.django_db
def test_a_tie_is_half_a_win_for_each() -> None:
    project = make_project()
    person = make_user(project)
    for task in make_tasks(project, 4):
        make_judgment(task, person, (0, 0))
    assert [round(score.score, 6) for score in policy_scores(project=project)] == [0.0, 0.0]


@pytest.mark.django_db
def test_the_work_report_counts_by_person_and_day() -> None:
    project = make_project(overlap=1)
    a, b = make_user(project, username="a"), make_user(project, username="b")
    tasks = make_tasks(project, 3)
    for task in tasks[:2]:
        make_judgment(task, a)
    held = next_task(project=project, annotator=b)
    assert held is not None
    submit_judgment(
        task_id=held.id, annotator=b, body={"ranking": [[pk] for pk in canonical_ids(tasks[2])], "lead_time": 60.0}
    )
    Judgment.objects.filter(annotator=a).update(active_seconds=45.0)
    rows = {row["annotator"]: row for row in work_report(project=project)}
    assert (rows["a"]["judged"], rows["a"]["counted"], rows["a"]["active_minutes"]) == (2, 2, 1.5)
    assert rows["b"]["judged"] == 1
    assert [row["annotator"] for row in work_report(project=project, annotator=b)] == ["b"]
