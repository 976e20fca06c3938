"""What every request is given and counted by: an id that its log lines and its answer carry, its route and its time."""

import re
import time
import uuid
from collections.abc import Callable

from django.http import HttpRequest, HttpResponse

from feedback_app.logs import bound
from feedback_app.metrics import EXCEPTIONS, LATENCY, RESPONSES

HEADER = "X-Request-ID"
# What a proxy may have called it; anything else could forge lines of a log.
KNOWN = re.compile(r"[A-Za-z0-9._-]{8,64}")
METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})


class RequestMiddleware:
    """Bind the request's id, and count its answer by the name of its route: addresses are too many."""

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        given = request.headers.get(HEADER, "")
        request_id = given if KNOWN.fullmatch(given) else uuid.uuid4().hex
        began = time.perf_counter()
        with bound(request=request_id):
            response = self.get_response(request)
        match = request.resolver_match
        view = (match.view_name or match.route) if match else "none"
        method = request.method if request.method in METHODS else "other"
        LATENCY.labels(view, method).observe(time.perf_counter() - began)
        RESPONSES.labels(str(response.status_code), view, method).inc()
        response[HEADER] = request_id
        return response

    def process_exception(self, request: HttpRequest, exception: Exception) -> None:
        """Count what Django is about to answer for us."""
        EXCEPTIONS.labels(type(exception).__name__).inc()
