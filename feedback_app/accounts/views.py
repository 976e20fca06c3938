"""Signing in and out, and how the pages look to a person."""

from typing import Any

from django.contrib import messages
from django.contrib.auth import views as auth_views
from django.contrib.auth.forms import AuthenticationForm
from django.http import HttpRequest, HttpResponse, HttpResponseBadRequest
from django.shortcuts import redirect
from django.urls import reverse
from django.utils.html import format_html
from django.utils.http import url_has_allowed_host_and_scheme
from django.utils.translation import gettext as _
from django.views.decorators.http import require_POST

from feedback_app.accounts.forms import SignInForm
from feedback_app.accounts.models import User
from feedback_app.accounts.preferences import keep_language, keep_theme
from feedback_app.accounts.services import set_language as store_language
from feedback_app.accounts.services import set_theme as store_theme


class LoginView(auth_views.LoginView):
    """The sign-in page; who is signed in already goes on to where they were going."""

    template_name = "accounts/login.html"
    redirect_authenticated_user = True
    authentication_form = SignInForm

    def form_valid(self, form: AuthenticationForm) -> HttpResponse:
        response = super().form_valid(form)
        user = form.get_user()
        if not isinstance(user, User):
            raise TypeError("a sign-in without its user")
        if user.theme:
            keep_theme(response, user.theme)
        if user.language:
            keep_language(response, user.language)
        if user.password_given:
            _ask_for_a_password(self.request)
        return response

    def form_invalid(self, form: AuthenticationForm) -> HttpResponse:
        response: Any = super().form_invalid(form)
        if isinstance(form, SignInForm) and form.retry_after is not None:
            response.status_code = 429
            response["Retry-After"] = str(form.retry_after)
        return response  # type: ignore[no-any-return]


def _ask_for_a_password(request: HttpRequest) -> None:
    text = _("Somebody else has seen your password.")
    link = _("Choose one of your own")
    messages.warning(request, format_html('<span>{} <a href="{}">{}</a></span>', text, reverse("accounts:me"), link))


class LogoutView(auth_views.LogoutView):
    """Sign out, by POST alone."""


@require_POST
def set_theme(request: HttpRequest) -> HttpResponse:
    """Keep the chosen theme and go back."""
    response, theme = redirect(_back(request)), request.POST.get("theme", "")
    try:
        keep_theme(response, theme)
    except ValueError as error:
        return HttpResponseBadRequest(str(error))
    if isinstance(request.user, User):
        store_theme(user=request.user, theme=User.Theme(theme))
    return response


@require_POST
def set_language(request: HttpRequest) -> HttpResponse:
    """Keep the chosen language of the pages and go back."""
    response, language = redirect(_back(request)), request.POST.get("language", "")
    try:
        keep_language(response, language)
    except ValueError as error:
        return HttpResponseBadRequest(str(error))
    if isinstance(request.user, User):
        store_language(user=request.user, language=language)
    return response


def _back(request: HttpRequest) -> str:
    wanted = request.POST.get("next", "")
    safe = url_has_allowed_host_and_scheme(wanted, {request.get_host()}, request.is_secure())
    return wanted if safe else "/"
