"""Schedules: each kind by its own field, the next start, and what it still waits for."""

from datetime import UTC, datetime, timedelta

import pytest
from celery.schedules import crontab
from django.test import Client

from feedback_app.projects.models import Member, Project
from feedback_app.rounds.models import Schedule
from feedback_app.rounds.next_start import cron_times, next_starts
from feedback_app.rounds.services.scheduling import add_schedule
from tests.factories import make_project
from tests.web.judged import judged_rows, run_rows
from tests.web.round_rows import browser_of, page, press, round_at

pytestmark = pytest.mark.django_db


@pytest.fixture
def project() -> Project:
    return make_project("loop")


@pytest.fixture
def manager(project: Project) -> Client:
    return browser_of(project, Member.Role.MANAGER)


SCHEDULE = {"kind": "judgments", "judgments": "200", "hours": "24", "cron": "0 2 * * *", "minimum_judgments": "50"}


def test_each_kind_of_schedule_reads_its_own_field(manager: Client, project: Project) -> None:
    for kind in ("judgments", "interval", "cron"):
        assert press(manager, "rounds/schedules/add/", **SCHEDULE | {"kind": kind}).status_code == 302
    stored = list(Schedule.objects.filter(project=project).order_by("pk").values_list("kind", "every", "cron"))
    assert stored == [("judgments", 200, ""), ("interval", 24 * 3600, ""), ("cron", None, "0 2 * * *")]


@pytest.mark.parametrize(
    ("given", "field"),
    [
        ({"kind": "judgments", "judgments": ""}, "judgments"),
        ({"kind": "interval", "hours": "0.01"}, "hours"),
        ({"kind": "cron", "cron": "every day"}, "cron"),
        ({"kind": "cron", "cron": "99 2 * * *"}, "cron"),
        ({"kind": "never"}, "kind"),
        ({"minimum_judgments": "-1"}, "minimum_judgments"),
        ({"minimum_judgments": "3000000000"}, "minimum_judgments"),  # more than an integer's column holds
        ({"judgments": "3000000000"}, "judgments"),
        ({"kind": "interval", "hours": "1e300"}, "hours"),
    ],
)
def test_a_schedule_that_makes_no_sense_is_named_at_its_field(
    manager: Client, given: dict[str, str], field: str
) -> None:
    answer = press(manager, "rounds/schedules/add/", **SCHEDULE | given)
    assert answer.status_code == 422
    assert list(answer.context["form"].errors) == [field]
    assert not Schedule.objects.exists()


def test_a_schedule_says_what_it_waits_for(manager: Client, project: Project) -> None:
    add_schedule(project=project, kind="judgments", every=40)
    run_rows(project, judged_rows(10))
    assert [start.why for start in next_starts(project=project)] == ["new judgments: 30 of 40"]
    text = page(manager, "rounds/schedules/")
    assert "30 / 40" in text
    run_rows(project, judged_rows(14)[10:])
    assert [start.why for start in next_starts(project=project)] == ["it starts within seconds"]
    round_at(project, "running", "ppo")
    # The judgments were made before the round began: nothing new has come since.
    assert [start.why for start in next_starts(project=project)] == ["new judgments: 0 of 40"]


def test_a_schedule_is_turned_off_on_and_taken_away(manager: Client, project: Project) -> None:
    schedule = add_schedule(project=project, kind="interval", every=3600)
    path = f"rounds/schedules/{schedule.pk}/"
    press(manager, path, do="off")
    assert [start.why for start in next_starts(project=project)] == ["it is turned off"]
    press(manager, path, do="on")
    assert Schedule.objects.get().enabled
    assert press(manager, path, do="explode").status_code == 422
    press(manager, path, do="remove")
    assert not Schedule.objects.exists()


def test_the_next_start_of_an_interval_and_of_a_calendar(project: Project) -> None:
    now = datetime(2026, 11, 25, 12, 30, tzinfo=UTC)  # a Wednesday
    hourly = add_schedule(project=project, kind="interval", every=3600)
    Schedule.objects.filter(pk=hourly.pk).update(created_at=now - timedelta(minutes=90))
    add_schedule(project=project, kind="cron", cron="15 2 * * 1")
    slotted, calendar = sorted(
        next_starts(project=project, now=now), key=lambda start: start.schedule.kind != "interval"
    )
    # An hour after its making it was due, and no round was started then: it is due now.
    assert slotted.at == now
    # Monday the 30th is the next one.
    assert calendar.at == datetime(2026, 11, 30, 2, 15, tzinfo=UTC)


def test_cron_times_run_over_the_end_of_months_and_years() -> None:
    yearly = crontab(minute="0", hour="0", day_of_month="29", month_of_year="2")
    assert next(cron_times(yearly, datetime(2026, 11, 25, tzinfo=UTC))) == datetime(2028, 2, 29, tzinfo=UTC)
    twice = crontab(minute="0", hour="6,18")
    times = cron_times(twice, datetime(2026, 12, 31, 18, 0, tzinfo=UTC))
    assert [next(times), next(times)] == [datetime(2027, 1, 1, 6, tzinfo=UTC), datetime(2027, 1, 1, 18, tzinfo=UTC)]


def test_an_empty_list_of_schedules_says_what_one_does(manager: Client) -> None:
    assert "Rounds start only when somebody starts them" in page(manager, "rounds/schedules/")
