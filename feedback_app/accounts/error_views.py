"""What is answered when a request cannot be: a page to people, JSON to programs."""

from django.http import HttpRequest, HttpResponse, JsonResponse
from django.shortcuts import render
from django.utils.translation import gettext as _
from django.views import defaults


def bad_request(request: HttpRequest, exception: Exception) -> HttpResponse:
    """Answer 400; unlike Django's own page, in the reader's theme and language."""
    return render(request, "400.html", status=400)


def not_found(request: HttpRequest, exception: Exception) -> HttpResponse:
    """Answer 404; below /api/ as the API's errors are."""
    if request.path.startswith("/api/"):
        return JsonResponse({"detail": [_("There is nothing at this address.")]}, status=404)
    return defaults.page_not_found(request, exception)
