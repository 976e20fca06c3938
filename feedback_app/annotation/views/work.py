"""The work report as a page: what each person judged on each day, one's own for an annotator, everybody's above."""

from datetime import timedelta
from urllib.parse import urlencode

from django.http import HttpResponse
from django.shortcuts import render
from django.utils import timezone
from django.views.decorators.http import require_safe

from feedback_app.annotation.forms import DaysForm
from feedback_app.annotation.work_report import work_report, work_totals
from feedback_app.projects.models import Member
from feedback_app.projects.pages import ProjectRequest, project_page

DAYS = 28


@require_safe
@project_page(Member.Role.ANNOTATOR)
def work(request: ProjectRequest) -> HttpResponse:
    """Show the last four weeks, or the days asked for, and where the same is as a file."""
    first = timezone.now().date() - timedelta(days=DAYS - 1)
    form = DaysForm(request.GET if request.GET else {"since": first.isoformat()})
    own = request.role == Member.Role.ANNOTATOR
    chosen = form.cleaned_data if form.is_valid() else {"since": first, "until": None}
    rows = work_report(project=request.project, annotator=request.user if own else None, **chosen)
    file = urlencode({"file": "csv"} | {name: day.isoformat() for name, day in chosen.items() if day is not None})
    context = {"form": form, "rows": rows, "totals": work_totals(rows), "own": own, "file": file}
    return render(request, "annotation/work.html", context, status=200 if form.is_valid() else 422)
