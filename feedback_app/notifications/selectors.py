"""Reads about notifications."""

from dataclasses import dataclass

from django.db.models import QuerySet

from feedback_app.accounts.models import User
from feedback_app.notifications.models import CHOICES, Delivery, Notification, Subscription, Webhook
from feedback_app.notifications.words import say
from feedback_app.projects.models import Project

DELIVERIES = 8
EVENTS = 10


@dataclass(frozen=True)
class WebhookRow:
    """A webhook with its newest deliveries."""

    webhook: Webhook
    kinds: list[str]
    deliveries: list[Delivery]

    @property
    def all_kinds(self) -> bool:
        return len(self.kinds) == len(CHOICES)


def webhooks_of(*, project: Project) -> list[WebhookRow]:
    """Return the project's webhooks, each with its newest deliveries."""
    labels = dict(Notification.Kind.choices)
    return [
        WebhookRow(
            webhook,
            [str(labels[kind]) for kind in webhook.kinds],
            list(webhook.deliveries.select_related("notification")[:DELIVERIES]),
        )
        for webhook in Webhook.objects.filter(project=project)
    ]


def kinds_of(*, project: Project, user: User) -> list[str]:
    """Return what somebody wants by e-mail."""
    chosen = Subscription.objects.filter(project=project, user=user).first()
    return list(chosen.kinds) if chosen else []


def mails_of(*, project: Project, user: User) -> QuerySet[Delivery]:
    """Return the newest messages to somebody."""
    mine = Delivery.objects.filter(recipient=user, notification__project=project)
    return mine.select_related("notification")[:DELIVERIES]


def newest_events(*, project: Project) -> list[tuple[Notification, str]]:
    """Return what happened last, each with its sentence."""
    found = Notification.objects.filter(project=project).exclude(kind=Notification.Kind.TEST)[:EVENTS]
    return [(event, say(event.kind, event.values)) for event in found]
