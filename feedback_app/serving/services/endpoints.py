"""Endpoints are registered by an operator, by command: their addresses come from no page."""

from typing import Any
from urllib.parse import urlsplit

from django.core.exceptions import ValidationError
from django.db import transaction
from django.utils.translation import gettext_lazy as _

from feedback_app.accounts.services import record_audit
from feedback_app.projects.models import Project
from feedback_app.serving.backends import backend_of
from feedback_app.serving.backends.base import read_canary
from feedback_app.serving.models import Deployment, Endpoint
from feedback_app.serving.services.canaries import calibrate_endpoint
from feedback_app.serving.services.policies import ensure_base_policy, ensure_staged


@transaction.atomic
def set_endpoint(*, name: str, backend: Endpoint.Backend, url: str, settings: dict[str, Any]) -> Endpoint:
    """Make or change an endpoint; what it serves is left as it is, and has to be measured anew.

    Raises:
        ValidationError: by field.
        BackendError: the options are not what such a server needs.
    """
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValidationError({"url": [_("an http:// or https:// address is needed")]})
    endpoint = Endpoint.objects.select_for_update().filter(name=name).first() or Endpoint(name=name)
    known = endpoint.pk is not None
    endpoint.backend, endpoint.url, endpoint.settings = backend, url, settings
    endpoint.calibration = {}  # another server may stand there now
    # Not by Django's rule for URLs: it takes a container's name for no host at all.
    endpoint.full_clean(exclude=["url"], validate_unique=not known)
    backend_of(endpoint).check_settings()
    endpoint.save()
    record_audit(actor=None, action="endpoint.set", subject=name)
    return endpoint


def serve_project_from(*, project: Project, endpoint: Endpoint) -> Deployment:
    """Have a project's live version answer from an endpoint, once that holds it and has been measured.

    Raises:
        BackendError: the endpoint cannot be asked, does not take the version or does not repeat itself; the project
            stays where it was.
        DataError: the version's canary.json is none.
    """
    ensure_base_policy(project=project, endpoint=endpoint)
    deployment = Deployment.objects.select_related("live", "endpoint").get(project=project)
    moved = deployment.endpoint_id != endpoint.pk
    deployment.endpoint = endpoint
    ensure_staged(deployment=deployment)
    if not endpoint.calibration:
        calibrate_endpoint(endpoint=endpoint, policy=deployment.live)
    if moved:
        deployment.save(update_fields=["endpoint"])
        record_audit(actor=None, action="endpoint.move", subject=deployment.live.name, project_slug=project.slug)
    return deployment


def measure_endpoint(*, endpoint: Endpoint) -> bool:
    """Set an endpoint's tolerance by a version that it serves, one that a trainer measured before any other.

    Return whether it serves any. Raises as calibrate_endpoint does.
    """
    deployments = Deployment.objects.filter(endpoint=endpoint).select_related("live", "endpoint").order_by("flipped_at")
    served = sorted(deployments, key=lambda deployment: read_canary(deployment.live) is None)
    if not served:
        return False
    ensure_staged(deployment=served[0])
    calibrate_endpoint(endpoint=endpoint, policy=served[0].live)
    return True
