"""The list of rounds and one round: what is said at each point of its way, who may press what, curves and time left."""

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from django.test import Client
from django.utils import timezone

from feedback_app.accounts.models import AuditEntry
from feedback_app.projects.models import Member, Project
from feedback_app.rounds.curves import charts_of, polyline
from feedback_app.rounds.models import Round, Schedule, ScheduleSlot
from feedback_app.rounds.reports import round_by_number, seconds_left, strip_of
from tests.factories import make_project
from tests.web.judged import judged_rows, run_rows
from tests.web.round_rows import GATE, browser_of, page, policy_of, ppo_lines, press, reward_lines, round_at

pytestmark = pytest.mark.django_db


@pytest.fixture
def project() -> Project:
    return make_project("loop")


@pytest.fixture
def manager(project: Project) -> Client:
    return browser_of(project, Member.Role.MANAGER)


def test_no_round_yet_says_what_a_round_is_and_needs(manager: Client) -> None:
    text = page(manager, "rounds/")
    assert "No round yet" in text
    assert "Start a round" in text


def test_a_round_starts_by_its_button_and_its_page_opens(manager: Client, project: Project) -> None:
    run_rows(project, judged_rows(10))
    answer = press(manager, "rounds/start/", simulated="on")
    assert answer["location"] == "/p/loop/rounds/1/"
    held = Round.objects.get(project=project)
    assert (held.state, held.simulated) == ("queued", True)
    assert "Waiting for a worker" in page(manager, "rounds/1/")


def test_a_start_that_is_refused_says_why(manager: Client, project: Project) -> None:
    refused = press(manager, "rounds/start/")
    assert refused.status_code == 409
    assert "there are no judgments to learn from" in refused.content.decode()
    run_rows(project, judged_rows(10))
    press(manager, "rounds/start/")
    assert "is active already" in press(manager, "rounds/start/").content.decode()


def test_the_list_shows_state_policy_and_interval(manager: Client, project: Project) -> None:
    policy_of(round_at(project, "succeeded"), 1)
    round_at(project, "failed", "ppo", error="ppo ended with exit code 1: boom")
    text = page(manager, "rounds/")
    assert "loop-v1" in text
    assert "61 % to 80 %" in text
    assert "Reward model: done" in text or "reward model: done" in text
    assert "failed" in text


def test_many_rounds_cost_no_more_queries_than_few(
    manager: Client, project: Project, django_assert_max_num_queries: Callable[[int], Any]
) -> None:
    for _ in range(12):
        round_at(project, "failed", "ppo")
    with django_assert_max_num_queries(14):
        page(manager, "rounds/")


SAID = {
    "queued": ("", "Waiting for a worker"),
    "running": ("ppo", "Pause after this step"),
    "paused": ("", "Paused; no worker is held"),
    "waiting_for_judgments": ("", "It starts by itself once there"),
    "waiting_for_approval": ("gate", "waits for a manager"),
    "succeeded": ("", "which went live"),
    "rejected": ("gate", "The old policy goes on answering"),
    "failed": ("ppo", "PPO failed"),
    "cancelled": ("", "Cancelled. Its checkpoint is kept"),
}


@pytest.mark.parametrize("state", SAID)
def test_every_state_says_what_it_is_and_only_active_ones_look_again(
    manager: Client, project: Project, state: str
) -> None:
    at, said = SAID[state]
    held = round_at(project, state, at, error="ppo ended with exit code 1: no space left", gate=GATE)
    if state == "succeeded":
        policy_of(held, 1)
    text = page(manager, "rounds/1/")
    assert said in text
    assert ("every 2s" in text) == (state in Round.ACTIVE)


def test_only_a_round_that_a_schedule_started_started_by_itself(manager: Client, project: Project) -> None:
    round_at(project, "succeeded")  # nobody's, as one started by command
    by_schedule = round_at(project, "succeeded")
    schedule = Schedule.objects.create(project=project, kind="interval", every=3600)
    ScheduleSlot.objects.create(schedule=schedule, slot="interval 1", round=by_schedule)
    assert "started by itself" not in page(manager, "rounds/1/")
    assert "started by itself" in page(manager, "rounds/2/")


def test_a_failure_says_what_was_kept_and_what_to_press(manager: Client, project: Project) -> None:
    round_at(project, "failed", "ppo", ppo=4, error="ppo was ended by a signal (exit code -9): no log")
    text = page(manager, "rounds/1/")
    assert "It was killed, most likely for want of memory" in text
    assert "What is finished is kept: export, reward model." in text
    assert press(manager, "rounds/1/act/", do="retry").status_code == 302
    held = Round.objects.get()
    assert held.state == "queued"
    # Nothing of the PPO step is forgotten: a worker goes on from its checkpoint.
    assert len(held.steps.get(name="ppo").progress) == 4


def test_a_round_is_done_again_from_a_chosen_step(manager: Client, project: Project) -> None:
    round_at(project, "failed", "ppo", error="boom")
    press(manager, "rounds/1/act/", do="retry", step="reward")
    states = dict(Round.objects.get().steps.values_list("name", "state"))
    assert (states["export"], states["reward"], states["ppo"]) == ("done", "pending", "pending")


def test_a_round_is_rejected_with_a_reason_and_not_without(manager: Client, project: Project) -> None:
    round_at(project, "waiting_for_approval", "gate", gate=GATE)
    refused = press(manager, "rounds/1/act/", do="reject", reason=" ")
    assert refused.status_code == 422
    assert "reason" in refused.context["reject_form"].errors
    press(manager, "rounds/1/act/", do="reject", reason="It flatters.")
    held = Round.objects.get()
    assert (held.state, held.error) == ("rejected", "It flatters.")
    assert "It flatters" in page(manager, "rounds/1/")


def test_an_approved_round_is_queued_again_and_says_by_whom(manager: Client, project: Project) -> None:
    round_at(project, "waiting_for_approval", "gate", gate=GATE)
    press(manager, "rounds/1/act/", do="approve")
    held = Round.objects.get()
    assert held.state == "queued"
    assert f"Approved by {held.gate['approved_by']}" in page(manager, "rounds/1/")
    assert AuditEntry.objects.filter(action="round.approve").count() == 1


def test_what_cannot_be_done_now_is_refused_in_words(manager: Client, project: Project) -> None:
    round_at(project, "succeeded")
    refused = press(manager, "rounds/1/act/", do="pause")
    assert refused.status_code == 409
    assert "this cannot be done now" in refused.content.decode()
    assert press(manager, "rounds/1/act/", do="explode").status_code == 422


def test_reviewers_watch_and_managers_alone_steer(project: Project) -> None:
    round_at(project, "running", "ppo", ppo=3)
    reviewer = browser_of(project, Member.Role.REVIEWER)
    text = page(reviewer, "rounds/1/")
    assert "/p/loop/rounds/1/act/" not in text
    assert press(reviewer, "rounds/1/act/", do="cancel").status_code == 403
    assert Round.objects.get().state == "running"


def test_a_running_round_renews_its_moving_parts_and_reloads_once_it_stands_otherwise(
    manager: Client, project: Project
) -> None:
    held = round_at(project, "running", "ppo", ppo=3)
    key = manager.get("/p/loop/rounds/1/").context["key"]
    part = manager.get(f"/p/loop/rounds/1/?key={key}", headers={"hx-request": "true"})
    assert b"3 / 10" in part.content
    assert b"<html" not in part.content
    assert b"<form" not in part.content  # nothing that somebody may be typing into is replaced
    assert "hx-refresh" not in part.headers
    Round.objects.filter(pk=held.pk).update(cancel_requested=True)
    part = manager.get(f"/p/loop/rounds/1/?key={key}", headers={"hx-request": "true"})
    assert part["hx-refresh"] == "true"


def test_a_worker_that_is_silent_is_said_to_be(manager: Client, project: Project) -> None:
    held = round_at(project, "running", "ppo")
    Round.objects.filter(pk=held.pk).update(lease_until=timezone.now() - timedelta(minutes=1))
    assert "Its worker has not been heard of" in page(manager, "rounds/1/")


def test_evaluation_and_gate_stand_in_words_with_intervals(manager: Client, project: Project) -> None:
    round_at(project, "waiting_for_approval", "gate", gate=GATE)
    text = page(manager, "rounds/1/")
    assert "Reward model agrees with people" in text
    assert "people: 62 % of the pairs; rank correlation of score and length 0.43" in text
    assert "Reward model agrees where people chose the shorter" in text
    assert "66 % to 80 %" in text
    assert "67 %" in text  # the rule that the longer answer wins, beside it
    assert "5.4 nats a response; at most 60" in text


def test_a_round_of_another_project_is_not_found(manager: Client) -> None:
    round_at(make_project("other"), "succeeded")
    assert manager.get("/p/loop/rounds/1/").status_code == 404


def test_curves_are_aligned_with_the_parents_behind(manager: Client, project: Project) -> None:
    first = round_at(project, "succeeded")
    policy = policy_of(first, 1)
    round_at(project, "running", "ppo", ppo=4, parent=policy)
    answer = manager.get("/p/loop/rounds/2/curves/").json()
    charts = {chart["key"]: chart for chart in answer["charts"]}
    kl = charts["kl"]
    assert kl["x"] == list(range(1, 11))
    behind, own = kl["lines"]
    assert (behind["behind"], own["behind"]) == (True, False)
    assert own["y"] == [0.2, 0.4, 0.6, 0.8, None, None, None, None, None, None]
    assert behind["y"][-1] == 2.0
    accuracy = charts["reward_accuracy"]
    # Measured at every fourth of eight updates, for PPO's reward model and for the judge.
    assert (accuracy["x"], [line["y"] for line in accuracy["lines"]]) == ([4, 8], [[0.6, 0.7], [0.6, 0.7]])


def test_a_chart_is_drawn_and_said_without_a_script(project: Project) -> None:
    held = round_at(project, "running", "ppo", ppo=2)
    found = round_by_number(project=project, number=held.number)
    assert found is not None
    kl = next(chart for chart in charts_of(held=found, parent=None) if chart["key"] == "kl")
    # Two of ten updates: a ninth of the width, from the bottom to the top.
    assert kl["svg"] == [{"behind": False, "points": "0.0,120.0 33.3,0.0"}]
    assert "2 of 10 updates. this round: from 0.200 to 0.400" in kl["said"]


def test_a_flat_line_and_a_single_point_can_be_drawn() -> None:
    assert polyline({1: 5.0, 2: 5.0}, (1, 2, 5.0, 5.0)) == "0.0,120.0 300.0,120.0"
    assert polyline({1: 5.0}, (1, 2, 5.0, 5.0)) == "0.0,120.0 2.0,120.0"


def test_time_left_is_measured_and_later_steps_are_taken_from_another_round(project: Project) -> None:
    like = round_at(project, "succeeded")
    held = round_at(project, "running", "ppo", ppo=6)
    found, done = (round_by_number(project=project, number=number) for number in (held.number, like.number))
    assert found is not None
    # Four updates of six seconds, and a minute for each of evaluation, gate and push.
    assert seconds_left(strip_of(found), done) == pytest.approx(4 * 6 + 3 * 60)
    assert seconds_left(strip_of(found), None) == pytest.approx(24)


def test_a_second_reward_model_counts_before_it_has_begun(project: Project) -> None:
    held = round_at(project, "running", "reward")
    held.steps.filter(name="reward").update(progress=reward_lines("reward", 8))
    found = round_by_number(project=project, number=held.number)
    assert found is not None
    report = strip_of(found)[1]
    # The judge is still to come, and taken to be as long.
    assert (report.done, report.total, report.percent) == (8, 16, 50)


def test_nothing_is_promised_before_the_first_update(project: Project) -> None:
    held = round_at(project, "running", "ppo", ppo=0)
    found = round_by_number(project=project, number=held.number)
    assert found is not None
    assert seconds_left(strip_of(found), None) is None
    assert ppo_lines(0) == []
