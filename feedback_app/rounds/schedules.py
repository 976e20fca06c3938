"""Start rounds by themselves: a slot is a row that exists once, so that two beats start one round."""

import logging
from datetime import UTC, datetime, timedelta

from celery.schedules import ParseException, crontab
from django.db import IntegrityError, connection, transaction

from feedback_app.rounds.leases import DATABASE_AWAY
from feedback_app.rounds.models import Round, Schedule, ScheduleSlot
from feedback_app.rounds.selectors import usable_judgments
from feedback_app.rounds.services import RoundRefused, recipe_of, start_round

logger = logging.getLogger(__name__)
# A start by the calendar that fell into a restart, or into a round's last minutes, is made up for.
CATCH_UP_MINUTES = 15


def parse_cron(text: str) -> crontab:
    """Return a schedule of five fields (minute hour day-of-month month day-of-week, UTC); raises ValueError."""
    parts = text.split()
    if len(parts) != 5:
        raise ValueError("cron: five fields are needed: minute hour day-of-month month day-of-week")
    minute, hour, day, month, weekday = parts
    try:
        return crontab(minute=minute, hour=hour, day_of_month=day, month_of_year=month, day_of_week=weekday)
    except (ParseException, ValueError) as error:
        raise ValueError(f"cron: {error}") from error


def new_judgments(schedule: Schedule) -> int:
    """Return how many judgments that a round learns from have come since the project's last round began."""
    recipe = recipe_of(project=schedule.project)
    simulated = recipe.config["judgments"].get("simulated", "exclude")
    judgments = usable_judgments(project=schedule.project, simulated=simulated)
    last = Round.objects.filter(project=schedule.project, elsewhere={}).order_by("-number").first()
    return judgments.filter(created_at__gt=last.created_at).count() if last else judgments.count()


def due_slot(schedule: Schedule, now: datetime) -> str | None:
    """Return the name of the slot that is due now, None where none is."""
    if schedule.kind == Schedule.Kind.JUDGMENTS:
        rounds = Round.objects.filter(project=schedule.project, elsewhere={}).count()
        enough = schedule.every is not None and new_judgments(schedule) >= schedule.every
        return f"after round {rounds}" if enough else None
    if schedule.kind == Schedule.Kind.INTERVAL:
        passed = int((now - schedule.created_at).total_seconds()) // max(1, schedule.every or 1)
        return f"interval {passed}" if passed > 0 else None
    return _cron_slot(schedule, now)


def _cron_slot(schedule: Schedule, now: datetime) -> str | None:
    """Return the newest minute that the calendar names, as far back as one is made up for."""
    cron = parse_cron(schedule.cron)
    this = now.astimezone(UTC).replace(second=0, microsecond=0)
    for back in range(CATCH_UP_MINUTES + 1):
        minute = this - timedelta(minutes=back)
        if back and minute < schedule.created_at:
            return None  # it was added after that
        if (
            minute.minute in cron.minute and minute.hour in cron.hour and minute.day in cron.day_of_month
            and minute.month in cron.month_of_year and minute.isoweekday() % 7 in cron.day_of_week
        ):  # fmt: skip
            return minute.strftime("%Y-%m-%dT%H:%M")
    return None


def database_now() -> datetime:
    """Return the time by the database's clock, which is one for all machines."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT clock_timestamp()")
        moment: datetime = cursor.fetchone()[0]
        return moment


def start_due_rounds() -> list[Round]:
    """Start a round for every slot that is due and not taken; why one did not start is logged and asked again."""
    started = []
    now = database_now()
    for schedule in Schedule.objects.filter(enabled=True, project__archived_at=None).select_related("project"):
        try:
            held = _start_if_due(schedule, now)
        except DATABASE_AWAY:
            raise
        except Exception:  # a fault in one project's round must not keep every other from being started and rung for
            logger.exception("schedule project=%s could not be looked at", schedule.project.slug)
            continue
        started += [held] if held is not None else []
    return started


def _start_if_due(schedule: Schedule, now: datetime) -> Round | None:
    slot = due_slot(schedule, now)
    # A slot that was taken stays due until the next one: asked first, for it is asked at every tick.
    if slot is None or ScheduleSlot.objects.filter(schedule=schedule, slot=slot).exists():
        return None
    if new_judgments(schedule) < schedule.minimum_judgments:
        return None
    try:
        with transaction.atomic():
            taken = ScheduleSlot.objects.create(schedule=schedule, slot=slot)
            taken.round = start_round(project=schedule.project)
            taken.save(update_fields=["round"])
    except IntegrityError:
        return None  # another beat has started this one
    except RoundRefused as refused:
        logger.info("schedule project=%s slot=%s: %s", schedule.project.slug, slot, refused)
        return None
    return taken.round
