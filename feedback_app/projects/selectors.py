"""Reads about projects and their people."""

from django.contrib.auth.models import AnonymousUser
from django.db.models import QuerySet

from feedback_app.accounts.models import User
from feedback_app.projects.models import Member, Project


def role_in(*, user: User | AnonymousUser, project: Project) -> Member.Role | None:
    """Return the user's role; an administrator of the site is a manager everywhere."""
    if not isinstance(user, User) or not user.is_active:
        return None
    if user.is_superuser:
        return Member.Role.MANAGER
    role = Member.objects.filter(project=project, user=user).values_list("role", flat=True).first()
    return None if role is None else Member.Role(role)


def projects_of(*, user: User) -> QuerySet[Project]:
    """Return the projects that the user may open, archived ones left out."""
    projects = Project.objects.filter(archived_at=None).select_related("protocol", "guidelines")
    return projects if user.is_superuser else projects.filter(members__user=user)


def members_of(*, project: Project) -> QuerySet[Member]:
    """Return the people of a project, managers first; annotators known only from imports come last."""
    return (
        Member.objects.filter(project=project).select_related("user").order_by("user__kind", "-role", "user__username")
    )
