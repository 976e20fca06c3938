"""The work report: what each person judged on each day, and what became of it."""

import csv
import io
from collections.abc import Iterable
from datetime import date
from typing import Any

from django.db.models import Count, Q, Sum
from django.db.models.functions import TruncDate

from feedback_app.accounts.models import User
from feedback_app.annotation.models import Judgment, Review
from feedback_app.projects.models import Project

COLUMNS = (
    "annotator", "day", "judged", "counted", "surplus", "voided", "active_minutes", "accepted", "overruled",
    "sent_back",
)  # fmt: skip


def work_report(
    *, project: Project, annotator: User | None = None, since: date | None = None, until: date | None = None
) -> list[dict[str, Any]]:
    """Return a row a person and day (UTC), newest day first; active minutes are those that the server vouches for.

    Of one annotator where one is given; from since up to and with until.
    """
    judgments = Judgment.objects.filter(project=project).exclude(origin=Judgment.Origin.IMPORTED)
    if annotator is not None:
        judgments = judgments.filter(annotator=annotator)
    if since is not None:
        judgments = judgments.filter(created_at__date__gte=since)
    if until is not None:
        judgments = judgments.filter(created_at__date__lte=until)
    rows = (
        judgments.annotate(day=TruncDate("created_at"))
        .values("annotator__username", "day")
        .annotate(
            judged=Count("id"),
            counted=Count("id", filter=Q(surplus=False, voided_at=None)),
            surplus=Count("id", filter=Q(surplus=True)),
            voided=Count("id", filter=Q(voided_at__isnull=False)),
            seconds=Sum("active_seconds"),
            accepted=Count("id", filter=Q(review__outcome=Review.Outcome.ACCEPTED)),
            overruled=Count("id", filter=Q(review__outcome=Review.Outcome.OVERRULED)),
            sent_back=Count("id", filter=Q(review__outcome__in=[Review.Outcome.SENT_BACK, Review.Outcome.REVISED])),
        )
        .order_by("-day", "annotator__username")
    )
    return [_row(row) for row in rows]


def _row(row: dict[str, Any]) -> dict[str, Any]:
    shown = {"annotator": row["annotator__username"], "active_minutes": round((row["seconds"] or 0.0) / 60, 1)} | row
    return {name: shown[name] for name in COLUMNS}


SUMS = COLUMNS[2:]


def work_totals(rows: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return one row a person with the sums of their days, by name."""
    found: dict[str, dict[str, Any]] = {}
    for row in rows:
        total = found.setdefault(row["annotator"], {"annotator": row["annotator"], "days": 0, **dict.fromkeys(SUMS, 0)})
        total["days"] += 1
        for name in SUMS:
            total[name] += row[name]
    return sorted(found.values(), key=lambda total: str(total["annotator"]))


def work_csv(rows: Iterable[dict[str, Any]]) -> str:
    """Return the report as a file for spreadsheets; a name that one would run as a formula is written as text."""
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS)
    writer.writeheader()
    writer.writerows(
        {key: f"'{value}" if str(value).startswith(("=", "+", "-", "@")) else value for key, value in row.items()}
        for row in rows
    )
    return text.getvalue()
