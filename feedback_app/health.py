"""Whether this process is up and whether it can do its work, for whoever restarts it or sends it requests.

A middleware, and the first: a probe comes to an address, not to a host name that ALLOWED_HOSTS would let in, and has no
session. /metrics is answered here for the same reason.
"""

import functools
import logging
from collections.abc import Callable

import redis
from django.db import DatabaseError, connection
from django.db.migrations.loader import MigrationLoader
from django.http import HttpRequest, HttpResponse, JsonResponse
from psycopg_pool import PoolTimeout

from feedback_app.broker import ask_broker
from feedback_app.operations.scrape import metrics

logger = logging.getLogger(__name__)
OK = "ok"


def live(request: HttpRequest) -> HttpResponse:
    """Answer that the process is up; asks nothing of anybody else, so that a fallen database restarts no web server."""
    return HttpResponse("ok\n", content_type="text/plain")


def ready(request: HttpRequest) -> HttpResponse:
    """Answer 200 when database and broker answer and the tables are this code's, else 503 that says what lacks."""
    found = {"database": _database(), "broker": _broker()}
    found["migrations"] = _migrations() if found["database"] == OK else "not known"
    return JsonResponse(found, status=200 if set(found.values()) == {OK} else 503)


def _database() -> str:
    try:
        with connection.cursor() as cursor:
            cursor.execute("SELECT 1")
    except (DatabaseError, PoolTimeout):
        logger.exception("the database does not answer")
        return "does not answer"
    return OK


@functools.cache
def _known_migrations() -> frozenset[tuple[str, str]]:
    """Return what this code's tables come of; its files are read once."""
    return frozenset(MigrationLoader(None).disk_migrations)


def _migrations() -> str:
    with connection.cursor() as cursor:
        cursor.execute("SELECT app, name FROM django_migrations")
        missing = _known_migrations() - set(cursor.fetchall())
    if missing:
        return "to be applied: " + ", ".join(sorted(f"{app}.{name}" for app, name in missing)[:3])
    return OK


def _broker() -> str:
    try:
        with ask_broker() as client:
            client.ping()
    except redis.RedisError:
        logger.exception("the broker does not answer")
        return "does not answer"
    return OK


PROBES: dict[str, Callable[[HttpRequest], HttpResponse]] = {"/livez": live, "/readyz": ready, "/metrics": metrics}


def health_middleware(get_response: Callable[[HttpRequest], HttpResponse]) -> Callable[[HttpRequest], HttpResponse]:
    """Answer the probes before anything else looks at the request."""

    def answer(request: HttpRequest) -> HttpResponse:
        probe = PROBES.get(request.path)
        return get_response(request) if probe is None else probe(request)

    return answer
