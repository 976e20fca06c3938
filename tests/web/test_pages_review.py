"""The reviewers' room by its forms alone: what waits, what each decision does, and what is refused in words."""

import pytest
from django.test import Client

from feedback_app.annotation.models import Adjudication, GoldAnswer, Review, Task
from feedback_app.projects.models import Member, Project
from tests.factories import make_judgment, make_project, make_task, make_user

pytestmark = pytest.mark.django_db


def signed_in(project: Project, role: Member.Role) -> Client:
    client = Client()
    client.force_login(make_user(project, role))
    return client


def test_nothing_waits_is_said_and_disagreements_come_first() -> None:
    project = make_project(overlap=2)
    client = signed_in(project, Member.Role.REVIEWER)
    assert "Nothing waits for a reviewer" in client.get(f"/p/{project.slug}/review/").content.decode()
    task = make_task(project)
    make_judgment(task, make_user(project, username="anna"), (0, 1))
    make_judgment(task, make_user(project, username="bert"), (1, 0))
    page = client.get(f"/p/{project.slug}/review/").content.decode()
    assert "anna" in page
    assert "1.00" in page


def test_accepting_goes_on_to_the_next() -> None:
    project = make_project()
    first, second = make_task(project), make_task(project)
    judgments = [make_judgment(task, make_user(project)) for task in (first, second)]
    client = signed_in(project, Member.Role.REVIEWER)
    answer = client.post(
        f"/p/{project.slug}/review/{second.pk}/decide/", {"judgment": str(judgments[1].pk), "outcome": "accepted"}
    )
    assert (answer.status_code, answer["Location"]) == (302, f"/p/{project.slug}/review/{first.pk}/")
    assert Review.objects.get().outcome == "accepted"


def test_overruling_takes_the_form_s_verdict() -> None:
    project = make_project()
    task = make_task(project)
    judgment = make_judgment(task, make_user(project), (0, 1))
    client = signed_in(project, Member.Role.REVIEWER)
    path = f"/p/{project.slug}/review/{task.pk}/decide/"
    unfinished = client.post(path, {"judgment": str(judgment.pk), "outcome": "overruled", "rank_0": "1"})
    assert unfinished.status_code == 422
    assert not Adjudication.objects.exists()
    whole = {"judgment": str(judgment.pk), "outcome": "overruled", "rank_0": "1", "rank_1": "0", "strength": "2"}
    assert client.post(path, whole).status_code == 302
    adjudication = Adjudication.objects.get()
    assert (adjudication.ranks, adjudication.strength) == ([1, 0], 2)


def test_sending_back_needs_a_comment_and_keeps_what_was_typed() -> None:
    project = make_project()
    task = make_task(project)
    judgment = make_judgment(task, make_user(project))
    client = signed_in(project, Member.Role.REVIEWER)
    path = f"/p/{project.slug}/review/{task.pk}/decide/"
    refused = client.post(path, {"judgment": str(judgment.pk), "outcome": "sent_back", "comment": " "})
    assert refused.status_code == 422
    assert "say what to look at again" in refused.content.decode()
    assert client.post(path, {"judgment": "no id", "outcome": "accepted"}).status_code == 404


def test_gold_is_made_by_managers_alone() -> None:
    project = make_project()
    task = make_task(project)
    path = f"/p/{project.slug}/review/{task.pk}/gold/"
    verdict = {"rank_0": "0", "rank_1": "1", "kind": "qualification", "explanation": "The first is right."}
    assert signed_in(project, Member.Role.REVIEWER).post(path, verdict).status_code == 403
    manager = signed_in(project, Member.Role.MANAGER)
    assert manager.post(path, {"rank_0": "0"}).status_code == 422
    assert manager.post(path, verdict).status_code == 302
    made = GoldAnswer.objects.get()
    assert (made.ranks, made.task.kind) == ([0, 1], Task.Kind.QUALIFICATION)


def test_a_reviewer_sees_no_decision_on_their_own_judgment() -> None:
    project = make_project()
    task = make_task(project)
    reviewer = make_user(project, Member.Role.REVIEWER)
    make_judgment(task, reviewer)
    client = Client()
    client.force_login(reviewer)
    page = client.get(f"/p/{project.slug}/review/{task.pk}/").content.decode()
    assert "somebody else reviews it" in page
    assert 'value="accepted"' not in page
