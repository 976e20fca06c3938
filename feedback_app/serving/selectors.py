"""Reads about policies and what is live."""

from datetime import datetime
from typing import Any

from django.db.models import QuerySet

from feedback_app.projects.models import Project
from feedback_app.serving.models import Deployment, Endpoint, PolicyVersion, Push, Soak


def deployment_of(*, project: Project) -> Deployment | None:
    """Return the project's pointer with its endpoint and versions; None where nothing was ever live."""
    return Deployment.objects.select_related("endpoint", "live", "previous").filter(project=project).first()


def policies_of(*, project: Project) -> QuerySet[PolicyVersion]:
    """Return the project's policy versions, newest first."""
    found = PolicyVersion.objects.filter(project=project).select_related("parent").prefetch_related("also_from")
    return found.order_by("-number")


def pushes_of(*, project: Project) -> QuerySet[Push]:
    """Return the project's pushes and rollbacks, newest first."""
    return Push.objects.filter(project=project).select_related(
        "policy", "requested_by", "soak__previous", "ended_soak__previous", "ended_soak__policy"
    )


def soak_of(*, policy: PolicyVersion) -> Soak | None:
    """Return how a version was watched when it went live last; None where it never was."""
    return Soak.objects.filter(policy=policy).select_related("previous").first()


def family(*, policy: PolicyVersion) -> list[PolicyVersion]:
    """Return a version and its ancestors, itself first."""
    known = PolicyVersion.objects.filter(project=policy.project_id).defer("evaluation", "note").in_bulk()
    line = [policy]
    while (parent := line[-1].parent_id) is not None:
        line.append(known[parent])
    return line


def calibration_of(endpoint: Endpoint) -> dict[str, Any] | None:
    """Return what an endpoint's tolerance was set by, its time as one; None where it was not measured yet."""
    if not endpoint.calibration:
        return None
    return {**endpoint.calibration, "at": datetime.fromisoformat(endpoint.calibration["at"])}
