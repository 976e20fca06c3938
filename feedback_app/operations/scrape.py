"""/metrics, for Prometheus: what the web processes counted, and what the database says now; never for everybody."""

import hmac
import ipaddress
import os

from django.conf import settings
from django.http import HttpRequest, HttpResponse
from prometheus_client import CONTENT_TYPE_LATEST, REGISTRY, CollectorRegistry, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector

from feedback_app.operations.collector import DatabaseCollector

# Any of these says that somebody further away asks through a proxy.
FORWARDED = ("HTTP_X_FORWARDED_FOR", "HTTP_X_FORWARDED_PROTO", "HTTP_X_FORWARDED_HOST", "HTTP_FORWARDED", "HTTP_VIA")


def metrics(request: HttpRequest) -> HttpResponse:
    """Answer the figures to a token of the allow-list, or to a process of this machine itself."""
    if not _may_read(request):
        return HttpResponse("a token of METRICS_TOKENS is needed\n", status=403, content_type="text/plain")
    return HttpResponse(_counted() + _stored(), content_type=CONTENT_TYPE_LATEST)


def _may_read(request: HttpRequest) -> bool:
    scheme, _space, token = request.headers.get("Authorization", "").partition(" ")
    if scheme.lower() == "bearer":
        return any(hmac.compare_digest(token.strip().encode(), known.encode()) for known in settings.METRICS_TOKENS)
    if any(name in request.META for name in FORWARDED):
        return False
    try:
        return ipaddress.ip_address(request.META.get("REMOTE_ADDR", "")).is_loopback
    except ValueError:
        return False


def _counted() -> bytes:
    if "PROMETHEUS_MULTIPROC_DIR" not in os.environ:
        return generate_latest(REGISTRY)
    registry = CollectorRegistry()
    MultiProcessCollector(registry)  # type: ignore[no-untyped-call]  # untyped there
    return generate_latest(registry)


def _stored() -> bytes:
    registry = CollectorRegistry()
    registry.register(DatabaseCollector())
    return generate_latest(registry)
