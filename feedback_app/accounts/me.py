"""A person's own account: password, API tokens, and how the pages look."""

from typing import Any

from django.contrib import messages
from django.contrib.auth import update_session_auth_hash
from django.contrib.auth.decorators import login_required
from django.core.exceptions import ValidationError
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.utils.translation import gettext as _
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_POST, require_safe

from feedback_app.accounts.attempts import address_of
from feedback_app.accounts.forms import ChangePasswordForm, TokenForm
from feedback_app.accounts.models import ApiToken, User
from feedback_app.accounts.services import change_password, issue_token, revoke_token


def _account_page(request: HttpRequest, *, status: int = 200, **more: Any) -> HttpResponse:
    context = {
        "tokens": _live_tokens(request).order_by("-created_at", "-pk"),
        "password_form": ChangePasswordForm(_person(request), address=address_of(request)),
        "token_form": TokenForm(),
        "themes": User.Theme.choices,
    }
    return render(request, "accounts/me.html", context | more, status=status)


def _person(request: HttpRequest) -> User:
    if not isinstance(request.user, User):
        raise TypeError("an anonymous request reached a page that needs a user")
    return request.user


def _live_tokens(request: HttpRequest) -> Any:
    return _person(request).api_tokens.filter(revoked_at=None)


@require_safe
@login_required
def account(request: HttpRequest) -> HttpResponse:
    """Everything that a person may change about their account."""
    return _account_page(request)


@require_POST
@login_required
def password(request: HttpRequest) -> HttpResponse:
    """Change the password; every other session of the person ends."""
    user = _person(request)
    form = ChangePasswordForm(user, request.POST, address=address_of(request))
    if form.is_valid():
        try:
            change_password(user=user, password=form.cleaned_data["new_password1"])
        except ValidationError as error:
            form.add_error("new_password2", error)
        else:
            update_session_auth_hash(request, user)
            messages.success(request, _("The password is changed. Every other device was signed out."))
            return redirect("accounts:me")
    user.refresh_from_db(fields=["password"])
    return _account_page(request, status=422, password_form=form)


@never_cache
@require_POST
@login_required
def make_token(request: HttpRequest) -> HttpResponse:
    """Make a token, whose key this answer alone ever shows."""
    form = TokenForm(request.POST)
    if not form.is_valid():
        return _account_page(request, status=422, token_form=form)
    name = form.cleaned_data["name"]
    return _account_page(request, made={"name": name, "key": issue_token(user=_person(request), name=name)})


@require_POST
@login_required
def revoke(request: HttpRequest, token_id: int) -> HttpResponse:
    """End a token of one's own."""
    token: ApiToken = get_object_or_404(_live_tokens(request), pk=token_id)
    revoke_token(token=token, revoked_by=_person(request))
    messages.success(request, _("The token opens nothing any more."))
    return redirect("accounts:me")
