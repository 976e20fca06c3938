"""Reads about projects and their people."""

from django.contrib.auth.models import AnonymousUser
from django.db.models import Case, Count, QuerySet, When

from feedback_app.accounts.models import User
from feedback_app.projects.models import GuidelinesVersion, Member, Project, ProtocolVersion


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
    last = Case(When(user__kind=User.Kind.IMPORTED, then=1), default=0)
    ladder = Case(When(role=Member.Role.MANAGER, then=0), When(role=Member.Role.REVIEWER, then=1), default=2)
    return Member.objects.filter(project=project).select_related("user").order_by(last, ladder, "user__username")


def protocol_versions(*, project: Project) -> QuerySet[ProtocolVersion]:
    """Return what the project has asked of its annotators, newest first."""
    return ProtocolVersion.objects.filter(project=project).select_related("created_by")


def guidelines_versions(*, project: Project) -> QuerySet[GuidelinesVersion]:
    """Return the project's guidelines, newest first, each with how many have read it as `readers`."""
    versions = GuidelinesVersion.objects.filter(project=project).select_related("created_by")
    return versions.annotate(readers=Count("readings")).order_by("-number")  # counting forgets Meta's order
