"""What the overview answers in one look: are we collecting, is it good, what is live, what happens next."""

from dataclasses import dataclass
from datetime import date, timedelta
from typing import Any

from django.db.models import Count, Q
from django.db.models.functions import TruncDate
from django.utils import timezone

from feedback_app.annotation.browsing import newest_sampling, prompt_counts, task_counts
from feedback_app.annotation.figures import share_with_interval
from feedback_app.annotation.models import Judgment
from feedback_app.annotation.quality import measure_quality
from feedback_app.annotation.verdict_table import KINDS
from feedback_app.projects.models import Project
from feedback_app.rounds import reports
from feedback_app.rounds.models import Round, Simulation
from feedback_app.rounds.next_start import next_starts
from feedback_app.rounds.selectors import active_round, usable_judgments
from feedback_app.rounds.services import recipe_of
from feedback_app.rounds.standing import standing_of

DAYS = 28
BAR_STEP, BAR_WIDTH, BAR_HEIGHT = 10, 8, 80
PACE_DAYS = 7
ACTIVE_MINUTES = 15
# Measured while the page is made up to so many judgments, and after it above.
AT_ONCE = 5_000


@dataclass(frozen=True, kw_only=True)
class Day:
    """One day's judgments by people and by simulated annotators, and how the bar of each is drawn."""

    day: date
    people: int
    simulated: int
    x: int
    people_height: int
    simulated_height: int

    @property
    def people_y(self) -> int:
        return BAR_HEIGHT - self.people_height

    @property
    def simulated_y(self) -> int:
        return BAR_HEIGHT - self.people_height - self.simulated_height


def days_of(*, project: Project, today: date | None = None) -> list[Day]:
    """Return the last 28 days, oldest first; imported judgments were made elsewhere and are no pace of ours."""
    today = today or timezone.now().date()
    first = today - timedelta(days=DAYS - 1)
    simulated = Q(origin=Judgment.Origin.SIMULATED)
    found = {
        row["day"]: row
        for row in Judgment.objects.filter(
            project=project, voided_at=None, task__kind__in=KINDS, created_at__date__gte=first
        )
        .exclude(origin=Judgment.Origin.IMPORTED)
        .annotate(day=TruncDate("created_at"))
        .values("day")
        .annotate(people=Count("pk", filter=~simulated), simulated=Count("pk", filter=simulated))
        .order_by()
    }
    none = {"people": 0, "simulated": 0}
    rows = [found.get(first + timedelta(days=place), none) for place in range(DAYS)]
    most = max((row["people"] + row["simulated"] for row in rows), default=0)

    def height(count: int) -> int:
        return max(1, round(BAR_HEIGHT * count / most)) if count else 0

    return [
        Day(
            day=first + timedelta(days=place), people=row["people"], simulated=row["simulated"], x=BAR_STEP * place,
            people_height=height(row["people"]), simulated_height=height(row["simulated"]),
        )
        for place, row in enumerate(rows)
    ]  # fmt: skip


def collecting(*, project: Project) -> dict[str, Any]:
    """Return how the judging goes: by day, today, the pace of a week, who is at it, and what waits."""
    days = days_of(project=project)
    since = timezone.now() - timedelta(minutes=ACTIVE_MINUTES)
    recent = Judgment.objects.filter(project=project, voided_at=None)
    recent = recent.exclude(origin=Judgment.Origin.IMPORTED)
    week = [day.people + day.simulated for day in days[-PACE_DAYS:]]
    people = recent.aggregate(
        now=Count("annotator", distinct=True, filter=Q(created_at__gte=since)),
        week=Count("annotator", distinct=True, filter=Q(created_at__date__gte=days[-PACE_DAYS].day)),
    )
    return {
        "days": days,
        "today": days[-1].people + days[-1].simulated,
        "week": sum(week),
        "pace": sum(week) / PACE_DAYS,
        "has_simulated": any(day.simulated for day in days),
        "active_now": people["now"],
        "active_week": people["week"],
        "imported": Judgment.objects.filter(project=project, origin=Judgment.Origin.IMPORTED, voided_at=None).count(),
        "tasks": task_counts(project=project),
        "width": BAR_STEP * DAYS,
        "height": BAR_HEIGHT,
    }


def is_quick_to_measure(*, project: Project) -> bool:
    """Say whether the agreement can be measured while the page is made."""
    return Judgment.objects.filter(project=project, voided_at=None)[: AT_ONCE + 1].count() <= AT_ONCE


def agreement(*, project: Project) -> dict[str, Any]:
    """Return how far the annotators agree."""
    measured = measure_quality(project=project)
    return {
        "alpha": measured["krippendorff_alpha"],
        "agreed": share_with_interval(measured["pairwise_agreement"], measured["pairwise_agreement_n"]),
        "judgments": measured["judgments"],
        "tasks": measured["tasks"],
        "annotators": len(measured["annotators"]),
        "simulated": measured["simulated"],
    }


def next_up(*, project: Project) -> dict[str, Any]:
    """Return what happens next: the active round with its step, or the next start; prompts; a simulation under way."""
    held = active_round(project=project)
    newest = Round.objects.filter(project=project).order_by("-number").first()
    simulated = recipe_of(project=project).config["judgments"].get("simulated", "exclude")
    usable, apart = (usable_judgments(project=project, simulated=kind) for kind in (simulated, "only"))
    since = {} if newest is None else {"created_at__gt": newest.created_at}
    return {
        "round": _active(held) if held else None,
        "newest": newest if held is None else None,
        "starts": [start for start in next_starts(project=project) if start.schedule.enabled],
        "new_judgments": usable.filter(**since).count(),
        "new_simulated": apart.filter(**since).count() if simulated == "exclude" else 0,
        "prompts": prompt_counts(project=project),
        "sampling": newest_sampling(project=project),
        "simulation": Simulation.objects.filter(project=project).first(),
    }


def _active(held: Round) -> dict[str, Any]:
    strip = reports.strip_of(held)
    step = reports.running_step(held)
    now = next((report for report in strip if step is not None and report.step.pk == step.pk), None)
    like = reports.newest_finished(project=held.project, before=held)
    return {
        "held": held,
        "strip": strip,
        "now": now,
        "standing": standing_of(held),
        "seconds_left": reports.seconds_left(strip, like),
        "left_of_step": like is None,
    }
