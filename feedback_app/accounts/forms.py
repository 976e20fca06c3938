"""Forms of signing in and of one's own account."""

import math
from typing import Any

from django import forms
from django.contrib.admin.forms import AdminAuthenticationForm
from django.contrib.auth.forms import AuthenticationForm, PasswordChangeForm
from django.core.exceptions import ValidationError
from django.utils.translation import gettext_lazy as _
from django.utils.translation import ngettext

from feedback_app.accounts.attempts import TooManyAttempts, address_of, begin_attempt, forget_attempt
from feedback_app.accounts.models import ApiToken


class SignInForm(AuthenticationForm):
    """Name and password, tried so often and no more; retry_after says in seconds how long to wait."""

    retry_after: int | None = None

    def clean(self) -> dict[str, Any]:
        name, password = self.cleaned_data.get("username"), self.cleaned_data.get("password")
        if name is None or not password or self.request is None:
            return super().clean()
        address = address_of(self.request)
        try:
            begin_attempt(name=name, address=address)
        except TooManyAttempts as refused:
            self.retry_after = refused.seconds
            raise ValidationError(_wait(refused.seconds), code="too_many") from refused
        cleaned = super().clean()
        forget_attempt(name=name, address=address)
        return cleaned


class AdminSignInForm(SignInForm, AdminAuthenticationForm):
    """The same for Django's admin, which has a door of its own."""


def _wait(seconds: int) -> str:
    minutes = math.ceil(seconds / 60)
    return ngettext(
        "Too many attempts. Nothing was checked this time; wait a minute, then try again.",
        "Too many attempts. Nothing was checked this time; wait %(minutes)d minutes, then try again.",
        minutes,
    ) % {"minutes": minutes}


class ChangePasswordForm(PasswordChangeForm):
    """The old password and the new one twice; guesses at the old one count as guesses at the door do."""

    def __init__(self, *args: Any, address: str, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.address = address
        self.fields["old_password"].widget.attrs.pop("autofocus", None)
        self.fields["new_password1"].help_text = _("ten characters or more, not only digits, unlike your name")
        self.fields["new_password2"].label = _("New password again")
        self.fields["new_password2"].help_text = ""

    def clean_old_password(self) -> str:
        try:
            begin_attempt(name=self.user.username, address=self.address)
        except TooManyAttempts as refused:
            raise ValidationError(_wait(refused.seconds), code="too_many") from refused
        old = super().clean_old_password()
        forget_attempt(name=self.user.username, address=self.address)
        return old


class TokenForm(forms.ModelForm[ApiToken]):
    """What a new token is for."""

    class Meta:
        model = ApiToken
        fields = ("name",)
        labels = {"name": _("What it is for")}

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.fields["name"].required = True  # a list of nameless tokens helps nobody to revoke the right one
