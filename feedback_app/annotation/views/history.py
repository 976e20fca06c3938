"""One's own judgments, newest first, each opened again in the judging page as a revision."""

from datetime import date

from django.core.paginator import Paginator
from django.db.models import Avg, Count, Q, Sum
from django.http import HttpResponse
from django.shortcuts import render
from django.utils.dateparse import parse_date
from django.views.decorators.http import require_GET

from feedback_app.annotation.models import Judgment
from feedback_app.annotation.verdicts import letters_of
from feedback_app.annotation.work import history_of
from feedback_app.projects.models import Member
from feedback_app.projects.pages import ProjectRequest, project_page

PAGE = 50


@require_GET
@project_page(Member.Role.ANNOTATOR)
def history(request: ProjectRequest) -> HttpResponse:
    """List the caller's own judgments; ?day=2026-11-25 shows one day's, and a day that is none is said so."""
    asked = request.GET.get("day", "").strip()
    day = _read_day(asked)
    found = history_of(user=request.user, project=request.project, day=day)
    page = Paginator(found, PAGE).get_page(request.GET.get("page"))
    summary = found.order_by().aggregate(
        judged=Count("id"),
        surplus=Count("id", filter=Q(surplus=True)),
        active=Sum("active_seconds"),
        mean=Avg("active_seconds"),
    )
    return render(
        request,
        "annotation/history.html",
        {
            "page": page,
            "rows": [_row(judgment) for judgment in page],
            "summary": summary,
            "asked": asked,
            "day": day,
            "day_invalid": bool(asked) and day is None,
        },
        status=422 if asked and day is None else 200,
    )


def _read_day(text: str) -> date | None:
    try:
        return parse_date(text)
    except ValueError:
        return None


def _row(judgment: Judgment) -> dict[str, object]:
    review = getattr(judgment, "review", None)
    return {
        "judgment": judgment,
        "prompt": judgment.task.prompt.messages[-1]["content"] if judgment.task.prompt.messages else "",
        "verdict": letters_of(judgment.ranks, judgment.assignment.shown_order),
        "review": review,
        "sent_back": review is not None and review.outcome == "sent_back",
    }
