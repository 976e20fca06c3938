"""A project's schedules: added, turned on and off, taken away."""

from django.core.exceptions import ValidationError
from django.db import transaction

from feedback_app.accounts.models import User
from feedback_app.accounts.services import record_audit
from feedback_app.projects.models import Project
from feedback_app.rounds.models import Schedule
from feedback_app.rounds.schedules import parse_cron

# Rounds closer together than this would only wait for each other.
SHORTEST_INTERVAL_S = 300
# What the columns hold; no project waits for so many judgments or seconds.
MOST = 2**31 - 1


@transaction.atomic
def add_schedule(
    *,
    project: Project,
    kind: str,
    every: int | None = None,
    cron: str = "",
    minimum_judgments: int = 1,
    added_by: User | None = None,
) -> Schedule:
    """Add a schedule; every counts judgments, or seconds for an interval.

    Raises:
        ValidationError: names the field that does not fit the kind.
    """
    if kind not in Schedule.Kind.values:
        raise ValidationError({"kind": f"one of {', '.join(Schedule.Kind.values)}"})
    if not 0 <= minimum_judgments <= MOST:
        raise ValidationError({"minimum_judgments": f"from 0 to {MOST}"})
    least = {Schedule.Kind.JUDGMENTS: 1, Schedule.Kind.INTERVAL: SHORTEST_INTERVAL_S}.get(Schedule.Kind(kind))
    if least is not None and (every is None or not least <= every <= MOST):
        raise ValidationError({"every": f"from {least} to {MOST}"})
    if kind == Schedule.Kind.CRON:
        try:
            parse_cron(cron)
        except ValueError as error:
            raise ValidationError({"cron": str(error).removeprefix("cron: ")}) from error
    made = Schedule.objects.create(
        project=project,
        kind=kind,
        every=every if least is not None else None,
        cron=cron if kind == Schedule.Kind.CRON else "",
        minimum_judgments=minimum_judgments,
    )
    record_audit(actor=added_by, action="schedule.add", subject=str(made), project_slug=project.slug)
    return made


@transaction.atomic
def turn_schedule(*, schedule: Schedule, on: bool, turned_by: User | None = None) -> None:
    """Turn a schedule on or off; turned on, an interval counts from when it was added, as before."""
    schedule.enabled = on
    schedule.save(update_fields=["enabled"])
    record_audit(
        actor=turned_by, action="schedule.on" if on else "schedule.off", subject=str(schedule),
        project_slug=schedule.project.slug,
    )  # fmt: skip


@transaction.atomic
def remove_schedule(*, schedule: Schedule, removed_by: User | None = None) -> None:
    """Take a schedule away; the rounds that it started stay."""
    subject, slug = str(schedule), schedule.project.slug
    schedule.delete()
    record_audit(actor=removed_by, action="schedule.remove", subject=subject, project_slug=slug)
