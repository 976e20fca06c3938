"""Events of a project, who wants to be told of which, and the outbox: one row for each message still to be brought."""

import uuid

from django.conf import settings
from django.contrib.postgres.fields import ArrayField
from django.db import models
from django.db.models import Q
from django.utils.translation import gettext_lazy as _

from feedback_app.projects.models import Project


class Notification(models.Model):
    """Something that happened; its sentence is made of its kind and values in the language of whoever reads it."""

    class Kind(models.TextChoices):
        ROUND_SUCCEEDED = "round_succeeded", _("a round succeeded")
        ROUND_REJECTED = "round_rejected", _("a round was rejected")
        ROUND_FAILED = "round_failed", _("a round failed")
        ROUND_CANCELLED = "round_cancelled", _("a round was cancelled")
        ROUND_WAITS = "round_waits", _("a round waits for approval")
        ROUND_ASKS = "round_asks", _("a round waits for annotators' blind comparisons")
        ROLLED_BACK = "rolled_back", _("a policy was rolled back by itself")
        PROMPTS_OUT = "prompts_out", _("the prompts have run out")
        ANNOTATOR_PAUSED = "annotator_paused", _("an annotator was paused by a rule")
        TEST = "test", _("a test")

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    project = models.ForeignKey(Project, on_delete=models.CASCADE, related_name="notifications")
    kind = models.CharField(max_length=24, choices=Kind.choices)
    key = models.CharField(max_length=160, unique=True, help_text=_("of what happened: it is told of once"))
    values = models.JSONField(default=dict)
    path = models.CharField(max_length=300, blank=True, help_text=_("of the page that shows it"))
    created_at = models.DateTimeField(auto_now_add=True, db_index=True)

    class Meta:
        db_table = "notifications_notification"
        ordering = ["-created_at"]
        indexes = [models.Index(fields=["project", "-created_at"], name="notification_of_project")]

    def __str__(self) -> str:
        return f"{self.project}: {self.kind}"


# What people choose from; a test is sent to whom it is asked for.
CHOICES = [choice for choice in Notification.Kind.choices if choice[0] != Notification.Kind.TEST]


class Subscription(models.Model):
    """The kinds that somebody wants by e-mail from a project."""

    project = models.ForeignKey(Project, on_delete=models.CASCADE, related_name="subscriptions")
    user = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.CASCADE, related_name="subscriptions")
    kinds = ArrayField(models.CharField(max_length=24, choices=CHOICES), default=list, blank=True)

    class Meta:
        db_table = "notifications_subscription"
        constraints = [models.UniqueConstraint(fields=["project", "user"], name="subscription_once")]

    def __str__(self) -> str:
        return f"{self.user}: {', '.join(self.kinds)}"


class Webhook(models.Model):
    """An address that is told of some kinds; its secret follows from its id and our key, so no row holds it."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    project = models.ForeignKey(Project, on_delete=models.CASCADE, related_name="webhooks")
    url = models.URLField(max_length=500)
    kinds = ArrayField(models.CharField(max_length=24, choices=CHOICES), default=list)
    created_by = models.ForeignKey(settings.AUTH_USER_MODEL, null=True, on_delete=models.SET_NULL, related_name="+")
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        db_table = "notifications_webhook"
        ordering = ["created_at"]

    def __str__(self) -> str:
        return self.url


class Delivery(models.Model):
    """One message to one address; the row is the queue, and waits for its next attempt until it is brought or given up.

    next_at: an attempt under way has set it later, so that one whose process died is made again.
    """

    class State(models.TextChoices):
        WAITING = "waiting", _("waiting")
        DELIVERED = "delivered", _("delivered")
        GIVEN_UP = "given_up", _("given up")

    notification = models.ForeignKey(Notification, on_delete=models.CASCADE, related_name="deliveries")
    webhook = models.ForeignKey(Webhook, null=True, blank=True, on_delete=models.CASCADE, related_name="deliveries")
    recipient = models.ForeignKey(
        settings.AUTH_USER_MODEL, null=True, blank=True, on_delete=models.CASCADE, related_name="+"
    )
    state = models.CharField(max_length=16, choices=State.choices, default=State.WAITING)
    attempts = models.PositiveSmallIntegerField(default=0)
    next_at = models.DateTimeField()
    status = models.PositiveSmallIntegerField(null=True, blank=True, help_text=_("HTTP status of the last answer"))
    said = models.CharField(max_length=300, blank=True, help_text=_("why the last attempt failed"))
    created_at = models.DateTimeField(auto_now_add=True)
    delivered_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        db_table = "notifications_delivery"
        ordering = ["-created_at", "-pk"]
        constraints = [
            models.CheckConstraint(
                condition=Q(webhook__isnull=False, recipient__isnull=True)
                | Q(webhook__isnull=True, recipient__isnull=False),
                name="delivery_to_one_address",
            ),
            models.UniqueConstraint(fields=["notification", "webhook"], name="delivery_once_a_webhook"),
            models.UniqueConstraint(fields=["notification", "recipient"], name="delivery_once_a_person"),
        ]
        indexes = [models.Index(fields=["next_at"], condition=Q(state="waiting"), name="delivery_waiting")]

    def __str__(self) -> str:
        return f"{self.notification_id} to {self.webhook_id or self.recipient_id}: {self.state}"
