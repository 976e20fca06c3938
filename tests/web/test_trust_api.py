"""Review, gold, trust and the work report over HTTP: who may, what comes back, what is refused by name."""

from typing import Any

import pytest
from django.test import Client

from feedback_app.annotation.models import Adjudication, GoldAnswer, Judgment, Task
from feedback_app.projects.models import Member, Project
from feedback_app.projects.services import publish_guidelines
from tests.factories import canonical_ids, make_judgment, make_project, make_task, make_tasks, make_token, make_user

pytestmark = pytest.mark.django_db


def client_of(project: Project, role: Member.Role) -> Client:
    token = make_token(make_user(project, role))
    return Client(headers={"Authorization": f"Token {token}"})


def post(client: Client, path: str, body: dict[str, Any]) -> Any:
    return client.post(path, body, content_type="application/json")


def test_a_reviewer_overrules_what_waits() -> None:
    project = make_project()
    task = make_task(project)
    judgment = make_judgment(task, make_user(project, username="anna"))
    client = client_of(project, Member.Role.REVIEWER)
    waiting = client.get(f"/api/v1/projects/{project.slug}/reviews/").json()["tasks"]
    assert [(held["task"], held["judgments"][0]["annotator"]) for held in waiting] == [(str(task.pk), "anna")]
    verdict = {"ranking": [[pk] for pk in reversed(canonical_ids(task))]}
    answer = post(
        client,
        f"/api/v1/judgments/{judgment.pk}/review/",
        {"outcome": "overruled", "comment": "No.", "verdict": verdict},
    )
    assert (answer.status_code, answer.json()["outcome"]) == (201, "overruled")
    assert Adjudication.objects.get().ranks == [1, 0]
    assert client.get(f"/api/v1/projects/{project.slug}/reviews/").json()["tasks"] == []


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"outcome": 3}, "outcome"),
        ({"verdict": []}, "verdict"),
        ({"outcomes": "accepted"}, "outcomes"),
        ({}, "outcome"),
    ],
)
def test_a_review_that_cannot_be_read_names_the_field(body: dict[str, Any], field: str) -> None:
    project = make_project()
    judgment = make_judgment(make_task(project), make_user(project))
    answer = post(client_of(project, Member.Role.REVIEWER), f"/api/v1/judgments/{judgment.pk}/review/", body)
    assert (answer.status_code, list(answer.json())) == (400, [field])


@pytest.mark.parametrize(("role", "status"), [(Member.Role.ANNOTATOR, 403), (Member.Role.REVIEWER, 403)])
def test_only_a_manager_makes_gold(role: Member.Role, status: int) -> None:
    project = make_project()
    task = make_task(project)
    body = {"verdict": {"ranking": [[pk] for pk in canonical_ids(task)]}}
    assert post(client_of(project, role), f"/api/v1/tasks/{task.pk}/gold/", body).status_code == status
    made = post(client_of(project, Member.Role.MANAGER), f"/api/v1/tasks/{task.pk}/gold/", body)
    assert made.status_code == 201
    assert GoldAnswer.objects.get().ranks == [0, 1]


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "verdict"),
        ({"verdict": {}}, "ranking"),
        ({"verdict": {}, "kind": "normal"}, "kind"),
        ({"verdict": {}, "tolerance": True}, "tolerance"),
    ],
)
def test_gold_that_cannot_be_made_names_the_field(body: dict[str, Any], field: str) -> None:
    project = make_project()
    task = make_task(project)
    answer = post(client_of(project, Member.Role.MANAGER), f"/api/v1/tasks/{task.pk}/gold/", body)
    assert (answer.status_code, list(answer.json())) == (400, [field])


def test_annotators_see_their_own_work_alone_and_no_other_figures() -> None:
    project = make_project()
    author = make_user(project, username="author")
    make_judgment(make_task(project), author)
    make_judgment(make_task(project), make_user(project, username="other"))
    client = Client(headers={"Authorization": f"Token {make_token(author)}"})
    assert [row["annotator"] for row in client.get(f"/api/v1/projects/{project.slug}/work/").json()] == ["author"]
    for path in ("reviews", "trust"):
        assert client.get(f"/api/v1/projects/{project.slug}/{path}/").status_code == 403


def test_a_manager_takes_the_report_as_a_file_no_spreadsheet_runs() -> None:
    project = make_project()
    make_judgment(make_task(project), make_user(project, username="@evil"))
    client = client_of(project, Member.Role.MANAGER)
    text = client.get(f"/api/v1/projects/{project.slug}/work/?file=csv").content.decode()
    head, row = text.strip().split("\r\n")
    assert head.startswith("annotator,day,judged")
    assert row.startswith("'@evil,")
    refused = client.get(f"/api/v1/projects/{project.slug}/work/?since=yesterday")
    assert (refused.status_code, list(refused.json())) == (400, ["since"])


def test_trust_figures_come_whole() -> None:
    project = make_project(overlap=2)
    task = make_task(project)
    for name in ("a", "b"):
        make_judgment(task, make_user(project, username=name))
    found = client_of(project, Member.Role.REVIEWER).get(f"/api/v1/projects/{project.slug}/trust/").json()
    assert set(found["reliability"]) == {"a", "b"}
    assert [score["policy"] for score in found["policies"]] == ["model-0", "model-1"]


def test_judgments_are_voided_by_the_version_they_were_made_under_and_their_tasks_changed_in_bulk() -> None:
    project = make_project(guidelines="One.")
    first, second = make_tasks(project, 2)
    ann = make_user(project, username="ann")
    under_one = make_judgment(first, ann)
    publish_guidelines(project=project, text="Two.")
    under_two = make_judgment(second, ann)
    client, base = client_of(project, Member.Role.MANAGER), f"/api/v1/projects/{project.slug}"
    asked = {"annotator": "ann", "guidelines": 1, "since": "2026-01-01T00:00:00Z", "reason": "The rule was wrong."}
    answer = post(client, f"{base}/judgments/void/", asked)
    assert answer.json() == {"judgments": [str(under_one.pk)], "tasks_reopened": 1}
    assert Judgment.objects.get(voided_at=None) == under_two

    ids = [str(first.pk), str(second.pk), str(make_task(make_project()).pk)]  # the last one is another project's
    answer = post(client, f"{base}/tasks/change/", {"tasks": ids, "do": "overlap", "number": 3})
    assert answer.json() == {"changed": 2}
    assert list(Task.objects.order_by("overlap").values_list("overlap", flat=True)) == [1, 3, 3]


@pytest.mark.parametrize(
    ("path", "body", "field"),
    [
        ("judgments/void/", {"reason": "x"}, "judgments"),
        ("judgments/void/", {"judgments": ["x"], "reason": "x"}, "judgments"),
        ("judgments/void/", {"annotator": "nobody", "reason": "x"}, "annotator"),
        ("judgments/void/", {"guidelines": 9, "reason": "x"}, "guidelines"),
        ("judgments/void/", {"since": "2026-13-45T00:00:00", "reason": "x"}, "since"),
        ("judgments/void/", {"protocol": 1, "reason": ""}, "reason"),
        ("judgments/void/", {"protocol": 1, "reason": "a\0b"}, "reason"),
        ("judgments/void/", {"annotator": "a\0b", "reason": "x"}, "annotator"),
        ("tasks/change/", {"tasks": [], "do": "overlap", "number": 0}, "number"),
        ("tasks/change/", {"tasks": "all", "do": "archive"}, "tasks"),
        ("tasks/change/", {"tasks": [], "do": "delete"}, "do"),
    ],
)
def test_what_cannot_be_voided_or_changed_names_the_field(path: str, body: dict[str, Any], field: str) -> None:
    project = make_project()
    make_judgment(make_task(project), make_user(project))
    answer = post(client_of(project, Member.Role.MANAGER), f"/api/v1/projects/{project.slug}/{path}", body)
    assert (answer.status_code, list(answer.json())) == (400, [field])
    assert not Judgment.objects.exclude(voided_at=None).exists()
