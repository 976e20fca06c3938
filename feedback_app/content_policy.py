"""The content security policy: built for each page, and one fixed line for answers that no browser renders.

django-csp writes the whole policy anew for every response; of a judgment sent through the API that was a tenth.
"""

from csp.middleware import CSPMiddleware
from django.http import HttpRequest
from django.http.response import HttpResponseBase

HEADER = "Content-Security-Policy"
NOTHING = "default-src 'none'; frame-ancestors 'none'"


class ContentPolicyMiddleware(CSPMiddleware):
    """django-csp's middleware, but for JSON, which may load nothing at all."""

    def process_response(self, request: HttpRequest, response: HttpResponseBase) -> HttpResponseBase:
        if response.headers.get("Content-Type", "").startswith("application/json"):
            response.headers.setdefault(HEADER, NOTHING)
            return response
        return super().process_response(request, response)
