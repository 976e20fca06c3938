"""When a schedule starts the next round, and why it has not started one yet."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, time, timedelta

from celery.schedules import crontab
from django.utils import timezone
from django.utils.translation import gettext as _

from feedback_app.projects.models import Project
from feedback_app.rounds.models import Schedule, ScheduleSlot
from feedback_app.rounds.schedules import due_slot, new_judgments, parse_cron
from feedback_app.rounds.selectors import active_round

# The 29th of February that falls on a Monday comes within 28 years; nobody waits for that.
FARTHEST_DAYS = 366 * 4


@dataclass(frozen=True, kw_only=True)
class NextStart:
    """A schedule's next start: at is None where judgments decide, and why is empty where only time has to pass."""

    schedule: Schedule
    at: datetime | None
    new: int
    needed: int
    why: str

    @property
    def share(self) -> float:
        return min(1.0, self.new / self.needed) if self.needed else 1.0


def schedules_of(*, project: Project) -> list[Schedule]:
    """Return a project's schedules, those that start rounds first."""
    return list(Schedule.objects.filter(project=project).select_related("project").order_by("-enabled", "created_at"))


def next_starts(*, project: Project, now: datetime | None = None) -> list[NextStart]:
    """Return the next start of each schedule of a project."""
    now = now or timezone.now()
    busy = active_round(project=project)
    return [_next_start(schedule, now, busy.number if busy else None) for schedule in schedules_of(project=project)]


def _next_start(schedule: Schedule, now: datetime, busy: int | None) -> NextStart:
    new = new_judgments(schedule)
    needed = schedule.minimum_judgments
    if schedule.kind == Schedule.Kind.JUDGMENTS:
        needed = max(needed, schedule.every or 0)
    due = _is_due(schedule, now)
    return NextStart(
        schedule=schedule, at=_next_time(schedule, now, due), new=new, needed=needed,
        why=_why(schedule, due, busy, new, needed),
    )  # fmt: skip


def _is_due(schedule: Schedule, now: datetime) -> bool:
    """Say whether its time has come, whatever else it waits for."""
    if schedule.kind == Schedule.Kind.JUDGMENTS:
        return True
    slot = due_slot(schedule, now)
    return slot is not None and not ScheduleSlot.objects.filter(schedule=schedule, slot=slot).exists()


def _why(schedule: Schedule, due: bool, busy: int | None, new: int, needed: int) -> str:
    if not schedule.enabled:
        return _("it is turned off")
    if new < needed:
        return _("new judgments: %(new)d of %(needed)d") % {"new": new, "needed": needed}
    if busy is not None:
        return _("round %(number)d has not ended yet") % {"number": busy}
    return _("it starts within seconds") if due else ""


def _next_time(schedule: Schedule, now: datetime, due: bool) -> datetime | None:
    if schedule.kind == Schedule.Kind.JUDGMENTS:
        return None
    if due:
        return now
    if schedule.kind == Schedule.Kind.INTERVAL:
        every = timedelta(seconds=max(1, schedule.every or 1))
        return schedule.created_at + every * ((now - schedule.created_at) // every + 1)
    return next(cron_times(parse_cron(schedule.cron), now), None)


def cron_times(cron: crontab, after: datetime) -> Iterator[datetime]:
    """Yield the minutes that a cron names, in UTC, from the first one after a moment on."""
    start = after.astimezone(UTC)
    for days in range(FARTHEST_DAYS):
        day = (start + timedelta(days=days)).date()
        fits = day.day in cron.day_of_month and day.month in cron.month_of_year
        if not fits or day.isoweekday() % 7 not in cron.day_of_week:
            continue
        for hour in sorted(cron.hour):
            for minute in sorted(cron.minute):
                moment = datetime.combine(day, time(hour, minute), tzinfo=UTC)
                if moment > start:
                    yield moment
