"""Endpoints are registered by an operator, by command: their addresses come from no page."""

from typing import Any
from urllib.parse import urlsplit

from django.core.exceptions import ValidationError
from django.db import transaction
from django.utils.translation import gettext_lazy as _

from feedback_app.accounts.services import record_audit
from feedback_app.projects.models import Project
from feedback_app.serving.models import Deployment, Endpoint
from feedback_app.serving.services.policies import ensure_base_policy, ensure_staged


@transaction.atomic
def set_endpoint(*, name: str, backend: Endpoint.Backend, url: str, settings: dict[str, Any]) -> Endpoint:
    """Make or change an endpoint; what it serves is left as it is.

    Raises:
        ValidationError: by field.
    """
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValidationError({"url": [_("an http:// or https:// address is needed")]})
    endpoint = Endpoint(name=name, backend=backend, url=url, settings=settings)
    known = Endpoint.objects.select_for_update().filter(name=name).first()
    if known is not None:
        endpoint.pk, endpoint.created_at = known.pk, known.created_at
    # Not by Django's rule for URLs: it takes a container's name for no host at all.
    endpoint.full_clean(exclude=["url"], validate_unique=known is None)
    endpoint.save(force_update=known is not None, force_insert=known is None)
    record_audit(actor=None, action="endpoint.set", subject=name)
    return endpoint


def serve_project_from(*, project: Project, endpoint: Endpoint) -> Deployment:
    """Have a project's live version answer from an endpoint, once that holds it.

    Raises:
        BackendError: the endpoint cannot be asked or does not take the version; the project stays where it was.
    """
    ensure_base_policy(project=project, endpoint=endpoint)
    deployment = Deployment.objects.select_related("live", "endpoint").get(project=project)
    moved = deployment.endpoint_id != endpoint.pk
    deployment.endpoint = endpoint
    ensure_staged(deployment=deployment)
    if moved:
        deployment.save(update_fields=["endpoint"])
        record_audit(actor=None, action="endpoint.move", subject=deployment.live.name, project_slug=project.slug)
    return deployment
