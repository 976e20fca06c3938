"""Writes to accounts: users, their API tokens, and the audit trail."""

import hashlib
import secrets
from collections.abc import Mapping
from typing import Any

from django.conf import settings
from django.contrib.auth.password_validation import validate_password
from django.core.exceptions import ValidationError
from django.db import transaction
from django.utils import timezone

from feedback_app.accounts.models import ApiToken, AuditEntry, User


@transaction.atomic
def create_user(
    *,
    username: str,
    password: str | None = None,
    kind: User.Kind = User.Kind.PERSON,
    display_name: str = "",
    is_superuser: bool = False,
    password_given: bool = False,
    created_by: User | None = None,
) -> User:
    """Make a user; without a password the account can be used by token only.

    password_given: the password was not the person's own choice, so they are asked for another.

    Raises:
        ValidationError: the name is taken or malformed, or the password too weak.
    """
    user = User(
        username=username, kind=kind, display_name=display_name, is_superuser=is_superuser, is_staff=is_superuser,
        password_given=password_given and password is not None,
    )  # fmt: skip
    if password is None:
        user.set_unusable_password()
    else:
        try:
            validate_password(password, user)
        except ValidationError as error:
            raise ValidationError({"password": error.messages}) from error
        user.set_password(password)
    user.full_clean(exclude=["password"])
    user.save(force_insert=True)
    record_audit(actor=created_by, action="user.create", subject=username, detail={"kind": str(kind)})
    return user


@transaction.atomic
def change_password(*, user: User, password: str) -> None:
    """Give a person the password of their choice; the sessions made with the old one end by Django's own hash of it.

    Raises:
        ValidationError: the password is too weak.
    """
    validate_password(password, user)
    user.set_password(password)
    user.password_given = False
    user.save(update_fields=["password", "password_given"])
    record_audit(actor=user, action="password.change", subject=user.username)


@transaction.atomic
def issue_token(*, user: User, name: str = "") -> str:
    """Return a new API token; this is the only time its text is known."""
    key = secrets.token_hex(20)
    ApiToken.objects.create(user=user, key_sha256=token_digest(key), name=name)
    record_audit(actor=user, action="token.issue", subject=user.username, detail={"name": name})
    return key


def token_digest(key: str) -> str:
    """Return what is stored of a token: it is random, so a plain hash is as good as a slow one."""
    return hashlib.sha256(key.encode()).hexdigest()


@transaction.atomic
def revoke_token(*, token: ApiToken, revoked_by: User | None) -> None:
    """End a token's use; the row stays for the audit trail."""
    ApiToken.objects.filter(pk=token.pk, revoked_at=None).update(revoked_at=timezone.now())
    record_audit(actor=revoked_by, action="token.revoke", subject=token.user.username, detail={"name": token.name})


def record_audit(
    *,
    actor: User | None,
    action: str,
    subject: str,
    project_slug: str = "",
    detail: dict[str, Any] | None = None,
) -> None:
    """Add an act to the audit trail, in the caller's transaction: no act without its entry."""
    AuditEntry.objects.create(
        actor=actor, action=action, subject=subject[:200], project_slug=project_slug, detail=detail or {}
    )


def set_keymap(*, user: User, keymap: Mapping[str, Any]) -> None:
    """Keep a person's own keys of the judging page: action -> key, as the page names both.

    Raises:
        ValueError: more than 40 actions, or a name that is no short text.
    """
    texts = [*keymap.keys(), *keymap.values()]
    if len(keymap) > 40 or not all(isinstance(text, str) and 0 < len(text) <= 40 for text in texts):
        raise ValueError("keymap: at most 40 actions, each a text of at most 40 characters, and so its key")
    user.keymap = dict(keymap)
    user.save(update_fields=["keymap"])


def set_theme(*, user: User, theme: User.Theme) -> None:
    """Keep how the pages look to a person, on every device."""
    user.theme = theme
    user.save(update_fields=["theme"])


def set_email(*, user: User, email: str) -> None:
    """Keep where a person is written to; raises ValidationError for what is no address, empty is none."""
    user.email = email
    user.clean_fields(exclude={field.name for field in User._meta.fields} - {"email"})
    user.save(update_fields=["email"])


def set_language(*, user: User, language: str) -> None:
    """Keep the language of a person's pages, on every device; raises ValueError for one that they are not in."""
    if language not in dict(settings.LANGUAGES):
        raise ValueError(f"language: one of {', '.join(dict(settings.LANGUAGES))}")
    user.language = language
    user.save(update_fields=["language"])
