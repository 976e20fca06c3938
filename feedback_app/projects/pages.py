"""What every page of a project shares: who may open it, and the rooms that its bar leads to."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from typing import Any, Concatenate, ParamSpec

from django.contrib.auth.decorators import login_required
from django.http import HttpRequest, HttpResponseBase
from django.utils.functional import Promise
from django.utils.translation import gettext_lazy as _
from django_htmx.middleware import HtmxDetails

from feedback_app.accounts.models import User
from feedback_app.projects.models import Member, Project
from feedback_app.projects.permissions import RANK, get_project_for, require_role

P = ParamSpec("P")


class ProjectRequest(HttpRequest):
    """A request to a project's page, after project_page has opened the project for its user."""

    user: User
    project: Project
    role: Member.Role
    htmx: HtmxDetails


def project_page(
    at_least: Member.Role,
) -> Callable[[Callable[Concatenate[ProjectRequest, P], HttpResponseBase]], Callable[..., HttpResponseBase]]:
    """Open the project named in the address for a page, if the signed-in user's role reaches at_least.

    The view gets the request with project and role set, instead of the slug; raises as require_role does.
    """

    def decorate(
        view: Callable[Concatenate[ProjectRequest, P], HttpResponseBase],
    ) -> Callable[..., HttpResponseBase]:
        @login_required
        @wraps(view)
        def opened(request: Any, slug: str, *args: P.args, **kwargs: P.kwargs) -> HttpResponseBase:
            request.project = get_project_for(request.user, slug, at_least)
            request.role = require_role(request.user, request.project, at_least)
            return view(request, *args, **kwargs)

        opened.__dict__["at_least"] = at_least  # what the test that walks every page holds it to
        return opened

    return decorate


@dataclass(frozen=True)
class Room:
    """A page that the bar leads to, below /p/{slug}/."""

    path: str
    label: str | Promise
    at_least: Member.Role


ROOMS = (
    Room("", _("Overview"), Member.Role.REVIEWER),
    Room("judge/", _("Judge"), Member.Role.ANNOTATOR),
    Room("history/", _("My work"), Member.Role.ANNOTATOR),
    Room("tasks/", _("Tasks"), Member.Role.REVIEWER),
    Room("review/", _("Review"), Member.Role.REVIEWER),
    Room("quality/", _("Quality"), Member.Role.REVIEWER),
    Room("data/", _("Data"), Member.Role.REVIEWER),
    Room("rounds/", _("Rounds"), Member.Role.REVIEWER),
    Room("policies/", _("Policies"), Member.Role.REVIEWER),
    Room("settings/", _("Settings"), Member.Role.MANAGER),
)


def rooms(request: HttpRequest) -> dict[str, Any]:
    """Give templates the rooms of the project at hand that the user's role opens, the current one marked."""
    project, role = getattr(request, "project", None), getattr(request, "role", None)
    if project is None or role is None:
        return {}
    base = f"/p/{project.slug}/"
    rest = request.path.removeprefix(base)
    open_ones = [room for room in ROOMS if RANK[role] >= RANK[room.at_least]]
    return {
        "project": project,
        "role": role,
        "is_manager": role == Member.Role.MANAGER,
        "rooms": [
            {
                "url": base + room.path,
                "label": room.label,
                "current": rest == room.path if not room.path else rest.startswith(room.path),
            }
            for room in open_ones
        ],
    }
