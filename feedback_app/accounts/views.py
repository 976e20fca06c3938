"""Signing in and out, and a person's own preferences."""

from django.conf import settings
from django.contrib.auth import views as auth_views
from django.http import HttpRequest, HttpResponse, HttpResponseBadRequest
from django.shortcuts import redirect
from django.utils.http import url_has_allowed_host_and_scheme
from django.utils.translation import check_for_language
from django.views.decorators.http import require_POST

from feedback_app.accounts.preferences import COOKIE_AGE_S, keep_theme


class LoginView(auth_views.LoginView):
    """The sign-in page; who is signed in already goes on to where they were going."""

    template_name = "accounts/login.html"
    redirect_authenticated_user = True


class LogoutView(auth_views.LogoutView):
    """Sign out, by POST alone."""


@require_POST
def set_theme(request: HttpRequest) -> HttpResponse:
    """Keep the chosen theme and go back."""
    response = redirect(_back(request))
    try:
        keep_theme(response, request.POST.get("theme", ""))
    except ValueError as error:
        return HttpResponseBadRequest(str(error))
    return response


@require_POST
def set_language(request: HttpRequest) -> HttpResponse:
    """Keep the chosen language of the pages and go back."""
    language = request.POST.get("language", "")
    if language not in dict(settings.LANGUAGES) or not check_for_language(language):
        return HttpResponseBadRequest(f"language: one of {', '.join(dict(settings.LANGUAGES))}")
    response = redirect(_back(request))
    response.set_cookie(settings.LANGUAGE_COOKIE_NAME, language, max_age=COOKIE_AGE_S, samesite="Lax")
    return response


def _back(request: HttpRequest) -> str:
    wanted = request.POST.get("next", "")
    safe = url_has_allowed_host_and_scheme(wanted, {request.get_host()}, request.is_secure())
    return wanted if safe else "/"
