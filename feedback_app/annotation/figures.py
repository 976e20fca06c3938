"""Quality as a page draws it: intervals beside shares, a square of kappas, each annotator's pace day by day."""

from collections.abc import Mapping, Sequence
from datetime import date, timedelta
from typing import Any

from django.db.models import Count
from django.db.models.functions import TruncDate
from django.utils import timezone

from feedback_app.annotation.models import Judgment
from feedback_app.annotation.quality import annotator_names
from feedback_app.annotation.verdict_table import KINDS
from feedback_app.intervals import wilson_interval
from feedback_app.projects.models import Project

DAYS = 28
SPARK_HEIGHT = 28
WEEKS = 26


def share_with_interval(share: float | None, n: int) -> dict[str, Any] | None:
    """Return a share with its interval, also in hundredths as a drawing takes them; None where nothing was counted.

    beside_half: the interval leaves out one half, so that chance alone is a poor explanation.
    """
    interval = wilson_interval(share, n)
    if interval is None or share is None:
        return None
    low, high = interval
    return {
        "share": share, "low": low, "high": high, "n": n, "beside_half": low > 0.5 or high < 0.5,
        "at": round(100 * share, 1), "from": round(100 * low, 1), "width": round(100 * (high - low), 1),
    }  # fmt: skip


def kappa_square(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return a line for each annotator with a cell for each: kappa, n, and the step of its colour from 1 to 9."""
    names = sorted({row["a"] for row in rows} | {row["b"] for row in rows})
    cells: dict[tuple[str, str], dict[str, Any]] = {}
    for row in rows:
        kappa = row["kappa"]
        step = None if kappa is None else min(9, max(1, 1 + int(9 * max(kappa, 0.0))))
        cells[row["a"], row["b"]] = cells[row["b"], row["a"]] = {"kappa": kappa, "n": row["n"], "step": step}
    return [{"name": a, "cells": [{"self": a == b} | cells.get((a, b), {}) for b in names]} for a in names]


def pace_of(*, project: Project, simulated: bool, today: date | None = None) -> dict[str, list[int]]:
    """Return how many judgments each annotator made on each of the last 28 days, oldest day first, by name."""
    today = today or timezone.now().date()
    first = today - timedelta(days=DAYS - 1)
    judgments = Judgment.objects.filter(
        project=project, voided_at=None, task__kind__in=KINDS, created_at__date__gte=first
    )
    same = judgments.filter(origin=Judgment.Origin.SIMULATED)
    chosen = same if simulated else judgments.exclude(origin=Judgment.Origin.SIMULATED)
    rows = list(
        chosen.annotate(day=TruncDate("created_at"))
        .values_list("annotator_id", "day")
        .annotate(n=Count("pk"))
        .order_by()
    )
    names = annotator_names({annotator for annotator, _day, _n in rows})
    paces: dict[str, list[int]] = {name: [0] * DAYS for name in names.values()}
    for annotator, day, count in rows:
        if first <= day <= today:
            paces[names[annotator]][(day - first).days] = count
    return paces


def spark_bars(counts: Sequence[int]) -> list[dict[str, Any]]:
    """Return a bar's place and height for each day, the busiest day as high as the drawing."""
    most = max(counts, default=0)
    return [
        {"x": 4 * place, "y": SPARK_HEIGHT - height, "height": height, "count": count}
        for place, count in enumerate(counts)
        if (height := round(SPARK_HEIGHT * count / most) if most else 0) or count
    ]


def weeks_drawn(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return the newest weeks' shares with their intervals, and where each stands in a drawing of 100 by 100.

    The oldest week is at the left, full agreement at the top; a week without a figure is a gap.
    """
    days = [date.fromisoformat(row["week"]) for row in rows]
    first = max(days[0], days[-1] - timedelta(weeks=WEEKS - 1)) if days else date.min
    span = max(8, (days[-1] - first).days // 7 + 1) if days else 1
    drawn = []
    for row, day in zip(rows, days, strict=True):
        figure = share_with_interval(row["agreement"], row["n"])
        if figure is None or day < first:
            continue
        x = 100 * ((day - first).days // 7) / span
        top = round(100 * (1 - figure["high"]), 1)
        drawn.append(figure | {"day": day, "x": round(x, 2), "step": round(100 / span, 2), "top": top,
                               "y": round(100 - figure["at"], 1)})  # fmt: skip
    return drawn
