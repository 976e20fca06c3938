"""Home: every project one works in, what waits there, and what today has brought so far."""

from dataclasses import dataclass

from django.contrib.auth.decorators import login_required
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.views.decorators.http import require_GET

from feedback_app.accounts.models import User
from feedback_app.annotation.work import WAITING_AT_MOST, Work, work_by_project
from feedback_app.projects.models import Member, Project
from feedback_app.projects.permissions import RANK
from feedback_app.projects.selectors import projects_of
from feedback_app.serving.models import Deployment


@dataclass(frozen=True, kw_only=True)
class _Row:
    """A project with what its row says; paused is the reason, None where the user works on."""

    project: Project
    work: Work
    runs_it: bool
    paused: str | None
    live: Deployment | None


@require_GET
@login_required
def home(request: HttpRequest) -> HttpResponse:
    """List the projects with their work, those with something to judge first."""
    user = request.user
    assert isinstance(user, User)  # login_required has let nobody else through
    rows = _rows(user)
    return render(
        request,
        "annotation/home.html",
        {
            "rows": sorted(rows, key=lambda row: (not row.work.begun, not row.work.waiting, row.project.name)),
            "judged": sum(row.work.judged for row in rows),
            "active_seconds": sum(row.work.active_seconds for row in rows),
            "most": WAITING_AT_MOST,
            "may_create": user.is_superuser,
        },
    )


def _rows(user: User) -> list[_Row]:
    projects = list(projects_of(user=user))
    members = {member.project_id: member for member in Member.objects.filter(user=user)}
    live = {item.project_id: item for item in Deployment.objects.filter(project__in=projects).select_related("live")}
    work = work_by_project(user=user, projects=projects)
    rows = []
    for project in projects:
        member = members.get(project.pk)
        reviewer = member is not None and RANK[Member.Role(member.role)] >= RANK[Member.Role.REVIEWER]
        rows.append(
            _Row(
                project=project,
                work=work[project.pk],
                runs_it=user.is_superuser or reviewer,
                paused=member.pause_reason if member is not None and member.paused_at is not None else None,
                live=live.get(project.pk),
            )
        )
    return rows
