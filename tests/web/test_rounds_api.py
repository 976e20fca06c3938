"""Rounds over HTTP: who may, what is answered, and every act from the state that allows it."""

from typing import Any
from uuid import uuid4

import pytest
from django.test import Client

from feedback_app.accounts.models import User
from feedback_app.projects.models import Member, Project
from feedback_app.rounds.models import Round, RoundStep
from feedback_app.rounds.recipes import Recipe
from feedback_app.rounds.services import cancel_round, publish_recipe, queue_fed_rounds, start_round
from tests.factories import make_judgment, make_project, make_task, make_token, make_user

pytestmark = pytest.mark.django_db


def client_of(project: Project, role: Member.Role = Member.Role.MANAGER) -> Client:
    return Client(headers={"authorization": f"Token {make_token(make_user(project, role))}"})


@pytest.fixture
def project() -> Project:
    project = make_project(slug="tea")
    make_judgment(make_task(project), make_user(project))
    return project


def post(client: Client, path: str, body: dict[str, Any] | None = None) -> Any:
    return client.post(f"/api/v1/{path}", body or {}, content_type="application/json")


def test_a_manager_starts_a_round_and_reads_it(project: Project) -> None:
    manager = client_of(project)
    answer = post(manager, "projects/tea/rounds/")
    assert answer.status_code == 201
    shown = answer.json()
    assert {key: shown[key] for key in ("number", "project", "state", "simulated", "parent", "policy", "error")} == {
        "number": 1, "project": "tea", "state": "queued", "simulated": False, "parent": "tea-v0", "policy": None,
        "error": "",
    }  # fmt: skip
    assert [step["name"] for step in shown["steps"]] == ["export", "reward", "ppo", "evaluate", "gate", "push"]
    assert {step["state"] for step in shown["steps"]} == {"pending"}
    held = Round.objects.get()
    RoundStep.objects.filter(round=held, name="ppo").update(progress=[{"update": 1, "objective/kl": 0.5}])
    again = manager.get(f"/api/v1/rounds/{shown['id']}/").json()
    assert again["steps"][2]["progress"] == [{"update": 1, "objective/kl": 0.5}]


def test_a_second_round_is_a_conflict_and_so_is_one_with_nothing_to_learn_from(project: Project) -> None:
    manager = client_of(project)
    assert post(manager, "projects/tea/rounds/").status_code == 201
    answer = post(manager, "projects/tea/rounds/")
    assert answer.status_code == 409
    assert "active already" in answer.json()["detail"][0]
    empty = make_project(slug="empty")
    answer = post(client_of(empty), "projects/empty/rounds/")
    assert answer.status_code == 409
    assert "no judgments" in answer.json()["detail"][0]


def test_simulated_judgments_are_learned_from_with_real_ones_only_when_asked_for() -> None:
    project = make_project(slug="mixed", overlap=2)
    task = make_task(project)
    make_judgment(task, make_user(project, kind=User.Kind.SIMULATED))
    make_judgment(task, make_user(project))
    manager = client_of(project)
    answer = post(manager, "projects/mixed/rounds/")
    assert answer.json()["simulated"] is False
    assert answer.json()["recipe"]["judgments"].get("simulated", "exclude") == "exclude"
    cancel_round(round_id=answer.json()["id"], cancelled_by=None)
    answer = post(manager, "projects/mixed/rounds/", {"simulated": True})
    assert answer.json()["simulated"] is True
    assert answer.json()["recipe"]["judgments"]["simulated"] == "include"


def test_a_project_that_only_rehearses_learns_from_simulated_judgments_alone() -> None:
    project = make_project(slug="rehearsal")
    make_judgment(make_task(project), make_user(project, kind=User.Kind.SIMULATED))
    answer = post(client_of(project), "projects/rehearsal/rounds/")
    assert answer.status_code == 201
    assert answer.json()["simulated"] is True
    assert answer.json()["recipe"]["judgments"]["simulated"] == "only"


def test_only_managers_start_and_steer_and_only_reviewers_and_above_watch(project: Project) -> None:
    held = start_round(project=project)
    paths = ["projects/tea/rounds/", *(f"rounds/{held.pk}/{act}/" for act in ("cancel", "pause", "retry", "approve"))]
    for role in (Member.Role.ANNOTATOR, Member.Role.REVIEWER):
        client = client_of(project, role)
        assert {post(client, path).status_code for path in paths} == {403}
        watched = client.get(f"/api/v1/rounds/{held.pk}/").status_code
        assert watched == (200 if role == Member.Role.REVIEWER else 403)
    stranger = client_of(make_project())
    assert {post(stranger, path).status_code for path in paths} == {404}
    assert stranger.get(f"/api/v1/rounds/{held.pk}/").status_code == 404
    assert {post(Client(), path).status_code for path in paths} == {401}
    held.refresh_from_db()
    assert held.state == "queued"


def test_what_is_not_there_is_a_404(project: Project) -> None:
    manager = client_of(project)
    held = start_round(project=project)
    assert manager.get(f"/api/v1/rounds/{uuid4()}/").status_code == 404
    assert post(manager, f"rounds/{uuid4()}/cancel/").status_code == 404
    assert post(manager, f"rounds/{held.pk}/explode/").status_code == 404
    assert post(manager, "projects/nowhere/rounds/").status_code == 404


@pytest.mark.parametrize(
    ("act", "before", "after"),
    [
        ("cancel", "queued", "cancelled"),
        ("cancel", "paused", "cancelled"),
        ("cancel", "waiting_for_judgments", "cancelled"),
        ("cancel", "waiting_for_approval", "cancelled"),
        ("cancel", "running", "running"),
        ("pause", "queued", "paused"),
        ("pause", "running", "running"),
        ("resume", "paused", "queued"),
        ("retry", "failed", "queued"),
        ("retry", "cancelled", "queued"),
        ("retry", "rejected", "queued"),
        ("approve", "waiting_for_approval", "queued"),
        ("reject", "waiting_for_approval", "rejected"),
    ],
)
def test_each_act_moves_a_round_from_the_state_that_allows_it(
    project: Project, act: str, before: str, after: str
) -> None:
    held = start_round(project=project)
    Round.objects.filter(pk=held.pk).update(state=before)
    answer = post(client_of(project), f"rounds/{held.pk}/{act}/")
    assert (answer.status_code, answer.json()["state"]) == (200, after)
    # A running one is asked, and its worker does it: see the loop's tests.
    asked = {"cancel": "cancel_requested", "pause": "pause_requested"}
    if before == "running":
        assert answer.json()[asked[act]] is True


@pytest.mark.parametrize("act", ["pause", "resume", "cancel", "approve", "reject"])
def test_an_act_that_the_state_does_not_allow_is_a_conflict_and_changes_nothing(project: Project, act: str) -> None:
    held = start_round(project=project)
    Round.objects.filter(pk=held.pk).update(state=Round.State.SUCCEEDED)
    answer = post(client_of(project), f"rounds/{held.pk}/{act}/")
    assert answer.status_code == 409
    assert answer.json()["detail"] == ["round 1 is succeeded: this cannot be done now"]
    held.refresh_from_db()
    assert held.state == "succeeded"


def test_a_retry_beside_another_active_round_or_from_no_step_is_a_conflict(project: Project) -> None:
    held = start_round(project=project)
    Round.objects.filter(pk=held.pk).update(state=Round.State.FAILED)
    manager = client_of(project)
    answer = post(manager, f"rounds/{held.pk}/retry/", {"step": "learn"})
    assert answer.status_code == 409
    assert answer.json()["detail"][0].startswith("step: one of export, ")
    start_round(project=project)
    answer = post(manager, f"rounds/{held.pk}/retry/")
    assert answer.status_code == 409
    assert "another round of this project is active" in answer.json()["detail"][0]


def test_why_a_person_rejected_is_kept(project: Project) -> None:
    held = start_round(project=project)
    Round.objects.filter(pk=held.pk).update(state=Round.State.WAITING_FOR_APPROVAL)
    answer = post(client_of(project), f"rounds/{held.pk}/reject/", {"reason": "It flatters."})
    assert answer.json()["error"] == "It flatters."


def test_a_round_waits_for_the_judgments_that_its_recipe_wants() -> None:
    project = make_project(slug="young")
    publish_recipe(project=project, recipe=Recipe(minimum_judgments=2))
    answer = post(client_of(project), "projects/young/rounds/")
    assert (answer.status_code, answer.json()["state"]) == (201, "waiting_for_judgments")
    annotator = make_user(project)
    make_judgment(make_task(project), annotator)
    make_judgment(make_task(project), make_user(project, kind=User.Kind.SIMULATED))
    assert queue_fed_rounds() == []  # one of the two does not count
    make_judgment(make_task(project), annotator)
    assert [held.project.slug for held in queue_fed_rounds()] == ["young"]
    assert queue_fed_rounds() == []
    assert Round.objects.get().state == "queued"
