"""Reads about policies and what is live."""

from django.db.models import QuerySet

from feedback_app.projects.models import Project
from feedback_app.serving.models import Deployment, PolicyVersion, Push


def deployment_of(*, project: Project) -> Deployment | None:
    """Return the project's pointer with its endpoint and versions; None where nothing was ever live."""
    return Deployment.objects.select_related("endpoint", "live", "previous").filter(project=project).first()


def policies_of(*, project: Project) -> QuerySet[PolicyVersion]:
    """Return the project's policy versions, newest first."""
    return PolicyVersion.objects.filter(project=project).select_related("parent").order_by("-number")


def pushes_of(*, project: Project) -> QuerySet[Push]:
    """Return the project's pushes and rollbacks, newest first."""
    return Push.objects.filter(project=project).select_related("policy", "requested_by")


def family(*, policy: PolicyVersion) -> list[PolicyVersion]:
    """Return a version and its ancestors, itself first."""
    line = [policy]
    while line[-1].parent is not None:
        line.append(line[-1].parent)
    return line
