"""People, their API tokens and the audit trail: who may act, and who did."""

import uuid

from django.conf import settings
from django.contrib.auth.models import AbstractUser
from django.db import models
from django.utils.translation import gettext_lazy as _


class User(AbstractUser):
    """One who acts: a person, a simulated annotator, or an annotator known only from imported rows."""

    class Kind(models.TextChoices):
        PERSON = "person", _("person")
        SIMULATED = "simulated", _("simulated")
        IMPORTED = "imported", _("imported")

    class Theme(models.TextChoices):
        SYSTEM = "system", _("as the system")
        LIGHT = "light", _("light")
        DARK = "dark", _("dark")

    public_id = models.UUIDField(default=uuid.uuid4, unique=True, editable=False)
    kind = models.CharField(max_length=16, choices=Kind.choices, default=Kind.PERSON)
    display_name = models.CharField(max_length=150, blank=True)
    language = models.CharField(max_length=16, blank=True)
    theme = models.CharField(max_length=8, choices=Theme.choices, blank=True, help_text=_("empty: never chosen"))
    keymap = models.JSONField(default=dict, blank=True)
    password_given = models.BooleanField(
        default=False, help_text=_("somebody else made the password, and so knows it: a new one is asked for")
    )

    class Meta:
        db_table = "accounts_user"

    def __str__(self) -> str:
        return self.display_name or self.username


class ApiToken(models.Model):
    """A bearer of one user's rights; only its SHA-256 is kept, so a stolen table opens nothing."""

    user = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.CASCADE, related_name="api_tokens")
    key_sha256 = models.CharField(max_length=64, unique=True)
    name = models.CharField(max_length=100, blank=True)
    created_at = models.DateTimeField(auto_now_add=True)
    revoked_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        db_table = "accounts_api_token"

    def __str__(self) -> str:
        return f"{self.user}: {self.name or self.key_sha256[:8]}"


class AuditEntry(models.Model):
    """One act that somebody may have to answer for; rows are only ever added."""

    at = models.DateTimeField(auto_now_add=True, db_index=True)
    actor = models.ForeignKey(settings.AUTH_USER_MODEL, null=True, on_delete=models.SET_NULL, related_name="+")
    action = models.CharField(max_length=64)
    subject = models.CharField(max_length=200)
    project_slug = models.CharField(max_length=80, blank=True, db_index=True)
    detail = models.JSONField(default=dict)

    class Meta:
        db_table = "accounts_audit_entry"
        ordering = ["-at", "-id"]

    def __str__(self) -> str:
        return f"{self.at:%Y-%m-%d %H:%M} {self.action} {self.subject}"
