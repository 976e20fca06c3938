"""Schedules: a slot starts one round however many beats there are, and only for judgments that a round learns from."""

import threading
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from feedback_app.accounts.models import User
from feedback_app.projects.models import Project
from feedback_app.rounds.models import Recipe as StoredRecipe
from feedback_app.rounds.models import Round, Schedule, ScheduleSlot
from feedback_app.rounds.recipes import Recipe
from feedback_app.rounds.schedules import due_slot, new_judgments, parse_cron, start_due_rounds
from feedback_app.rounds.services import RoundRefused, publish_recipe, recipe_of, start_round
from tests.factories import make_judgment, make_project, make_task, make_user

pytestmark = pytest.mark.django_db


def judged_project(judgments: int, kind: User.Kind = User.Kind.PERSON) -> Project:
    project = make_project()
    judge_more(project, judgments, kind)
    return project


def judge_more(project: Project, judgments: int, kind: User.Kind = User.Kind.PERSON) -> None:
    annotator = make_user(project, kind=kind)
    for _ in range(judgments):
        make_judgment(make_task(project), annotator)


def end_rounds() -> None:
    Round.objects.update(state=Round.State.SUCCEEDED)


def test_every_n_judgments_starts_a_round_and_counts_anew() -> None:
    project = judged_project(2)
    Schedule.objects.create(project=project, kind="judgments", every=3)
    assert start_due_rounds() == []
    judge_more(project, 1)
    [held] = start_due_rounds()
    assert (held.number, held.state) == (1, "queued")
    assert start_due_rounds() == []
    end_rounds()
    judge_more(project, 2)
    assert start_due_rounds() == []
    judge_more(project, 1)
    assert [held.number for held in start_due_rounds()] == [2]


def test_a_slot_that_is_due_while_a_round_runs_is_asked_again_when_it_is_over() -> None:
    project = judged_project(3)
    Schedule.objects.create(project=project, kind="judgments", every=3)
    start_due_rounds()
    judge_more(project, 3)
    assert start_due_rounds() == []
    assert ScheduleSlot.objects.count() == 1
    end_rounds()
    assert len(start_due_rounds()) == 1


def test_a_fault_in_one_projects_schedule_keeps_no_other_from_starting() -> None:
    broken, well = judged_project(3), judged_project(3)
    for project in (broken, well):
        Schedule.objects.create(project=project, kind="judgments", every=3)
    recipe_of(project=broken)
    StoredRecipe.objects.filter(project=broken).update(config={})  # a KeyError where its judgments are asked for
    assert [held.project for held in start_due_rounds()] == [well]


def test_a_recipe_that_breaks_a_rule_of_today_refuses_the_round_in_words() -> None:
    project = judged_project(3)
    stored = recipe_of(project=project)
    StoredRecipe.objects.filter(pk=stored.pk).update(config=stored.config | {"of_long_ago": 1})
    with pytest.raises(RoundRefused, match=r"^of_long_ago: unknown key"):
        start_round(project=project)


def test_a_slot_that_is_taken_is_not_asked_for_again_at_each_tick() -> None:
    schedule = Schedule.objects.create(project=judged_project(1), kind="interval", every=3600)
    Schedule.objects.update(created_at=schedule.created_at - timedelta(seconds=3700))
    assert len(start_due_rounds()) == 1
    with CaptureQueriesContext(connection) as asked:
        assert start_due_rounds() == []
    assert not [query["sql"] for query in asked if query["sql"].startswith("INSERT") or "annotation_" in query["sql"]]


def test_an_interval_has_one_slot_each_time_it_has_passed() -> None:
    project = judged_project(1)
    schedule = Schedule.objects.create(project=project, kind="interval", every=3600)
    now = schedule.created_at
    assert due_slot(schedule, now + timedelta(seconds=3599)) is None
    assert due_slot(schedule, now + timedelta(seconds=3600)) == "interval 1"
    assert due_slot(schedule, now + timedelta(seconds=7199)) == "interval 1"
    assert due_slot(schedule, now + timedelta(seconds=7200)) == "interval 2"
    Schedule.objects.update(created_at=timezone.now() - timedelta(seconds=3700))
    assert len(start_due_rounds()) == 1
    end_rounds()
    judge_more(project, 1)
    assert start_due_rounds() == []  # the slot is taken


def test_a_calendar_has_one_slot_each_matching_minute_and_makes_up_for_a_restart() -> None:
    monday = datetime(2026, 11, 23, 4, 30, 12, tzinfo=UTC)
    schedule = Schedule(kind="cron", cron="30 4 * * 1", created_at=monday - timedelta(days=1))
    assert due_slot(schedule, monday) == "2026-11-23T04:30"
    assert due_slot(schedule, monday + timedelta(seconds=40)) == "2026-11-23T04:30"
    assert due_slot(schedule, monday - timedelta(minutes=1)) is None
    # Nobody may have looked at half past four: the same slot is due for a quarter of an hour, and taken once.
    assert due_slot(schedule, monday + timedelta(minutes=15)) == "2026-11-23T04:30"
    assert due_slot(schedule, monday + timedelta(minutes=16)) is None
    schedule.created_at = monday + timedelta(minutes=2)
    assert due_slot(schedule, monday + timedelta(minutes=3)) is None
    schedule.created_at = monday - timedelta(days=1)
    assert due_slot(schedule, monday + timedelta(days=1)) is None
    sunday = Schedule(kind="cron", cron="* * * * 0", created_at=monday - timedelta(days=9))
    assert due_slot(sunday, monday - timedelta(days=1)) == "2026-11-22T04:30"


@pytest.mark.parametrize("text", ["", "* * * *", "60 * * * *", "a * * * *", "* * * * * *"])
def test_a_calendar_that_cannot_be_read_says_so(text: str) -> None:
    with pytest.raises(ValueError, match=r"^cron: "):
        parse_cron(text)


def test_what_no_round_learns_from_starts_none() -> None:
    simulated = judged_project(5, kind=User.Kind.SIMULATED)
    schedule = Schedule.objects.create(project=simulated, kind="judgments", every=3)
    assert new_judgments(schedule) == 0
    assert start_due_rounds() == []
    publish_recipe(project=simulated, recipe=Recipe(judgments={"simulated": "include"}))
    assert new_judgments(schedule) == 5
    [held] = start_due_rounds()
    assert held.simulated


@pytest.mark.parametrize("change", [{"enabled": False}, {"minimum_judgments": 4}])
def test_a_schedule_that_is_off_or_wants_more_judgments_starts_none(change: dict[str, Any]) -> None:
    project = judged_project(3)
    Schedule.objects.create(project=project, kind="judgments", every=3, **change)
    assert start_due_rounds() == []


def test_an_archived_project_starts_none() -> None:
    project = judged_project(3)
    Schedule.objects.create(project=project, kind="judgments", every=3)
    Project.objects.filter(pk=project.pk).update(archived_at=timezone.now())
    assert start_due_rounds() == []


@pytest.mark.django_db(transaction=True)
def test_two_beats_at_once_start_one_round() -> None:
    for _ in range(5):
        project = judged_project(3)
        Schedule.objects.create(project=project, kind="judgments", every=3)
        started: list[Round] = []
        together = threading.Barrier(4)

        def beat(started: list[Round] = started, together: threading.Barrier = together) -> None:
            together.wait()
            try:
                started.extend(start_due_rounds())
            finally:
                connection.close()

        beats = [threading.Thread(target=beat) for _ in range(4)]
        for thread in beats:
            thread.start()
        for thread in beats:
            thread.join()
        assert [held.project_id for held in started] == [project.pk]
        assert Round.objects.filter(project=project).count() == 1
        assert ScheduleSlot.objects.filter(schedule__project=project).count() == 1
