"""Who may do what in a project: one ladder of roles, asked in one place."""

from django.contrib.auth.models import AnonymousUser
from django.core.exceptions import PermissionDenied
from django.http import Http404
from django.utils.translation import gettext as _

from feedback_app.accounts.models import User
from feedback_app.projects.models import Member, Project
from feedback_app.projects.selectors import role_in

RANK = {Member.Role.ANNOTATOR: 1, Member.Role.REVIEWER: 2, Member.Role.MANAGER: 3}


def require_role(user: User | AnonymousUser, project: Project, at_least: Member.Role) -> Member.Role:
    """Return the user's role where it reaches at_least.

    Raises:
        Http404: the user is not of the project, and so need not learn that it exists.
        PermissionDenied: the role is too low.
    """
    role = role_in(user=user, project=project)
    if role is None:
        raise Http404
    if RANK[role] < RANK[at_least]:
        raise PermissionDenied(_("this needs the role %(role)s") % {"role": at_least.label})
    return role


def get_project_for(user: User | AnonymousUser, slug: str, at_least: Member.Role = Member.Role.ANNOTATOR) -> Project:
    """Return the project if the user's role in it reaches at_least; raises as require_role does."""
    project = Project.objects.select_related("protocol", "guidelines").filter(slug=slug).first()
    if project is None:
        raise Http404
    require_role(user, project, at_least)
    return project


def may_create_projects(user: User) -> bool:
    """Say whether the user makes projects: administrators of the site and its staff do."""
    return user.is_active and (user.is_superuser or user.is_staff)
