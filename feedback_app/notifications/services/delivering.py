"""Bring what waits in the outbox: at least once each, with the same event id, later and later where it is not taken."""

import json
import logging
import random
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import timedelta
from smtplib import SMTPException

from django.conf import settings
from django.core.mail import EmailMessage
from django.db import transaction
from django.db.models import F
from django.db.models.functions import Now
from django.utils import translation
from django.utils.translation import gettext as _

from feedback_app.accounts.models import User
from feedback_app.notifications.models import Delivery, Notification, Webhook
from feedback_app.notifications.sending import Message, NotSent, post_signed
from feedback_app.notifications.services.choosing import secret_of
from feedback_app.notifications.words import say
from feedback_app.projects.models import Project

logger = logging.getLogger(__name__)
State = Delivery.State
# One wave of a pool: what hangs holds up a worker for one deadline.
AT_ONCE = 8
# An attempt whose process has died is made again after this.
ATTEMPT_LEASE = timedelta(minutes=2)
PAUSES = tuple(timedelta(seconds=s) for s in (10, 30, 120, 600, 1800, 3600, 7200, 14400, 28800))
KEPT = timedelta(days=60)


@dataclass(frozen=True)
class Outcome:
    """How an attempt went; why is empty where the message was taken."""

    status: int | None = None
    why: str = ""


def deliver_due() -> int:
    """Make one attempt for each of the messages due longest, and return for how many."""
    claimed = _claim()
    attempts = [_attempt_of(delivery) for delivery in claimed]
    with ThreadPoolExecutor(max_workers=AT_ONCE) as pool:  # no thread touches the database
        outcomes = list(pool.map(_made, attempts))
    for delivery, outcome in zip(claimed, outcomes, strict=True):
        _write(delivery, outcome)
    return len(claimed)


@transaction.atomic
def _claim() -> list[Delivery]:
    waiting = Delivery.objects.filter(state=State.WAITING, next_at__lte=Now()).order_by("next_at")
    due = list(
        waiting.select_for_update(skip_locked=True, of=("self",))
        .select_related("notification__project", "webhook", "recipient")[:AT_ONCE]
    )  # fmt: skip
    pks = [delivery.pk for delivery in due]
    Delivery.objects.filter(pk__in=pks).update(attempts=F("attempts") + 1, next_at=Now() + ATTEMPT_LEASE)
    return due


def _attempt_of(delivery: Delivery) -> Callable[[], int | None]:
    """Return what brings a message, made whole here."""
    if delivery.webhook is not None:
        message = message_of(delivery.notification, delivery.webhook)
        return lambda: post_signed(message, allowed=settings.WEBHOOK_NETWORKS)
    assert delivery.recipient is not None  # a constraint of the table
    return _sender(mail_of(delivery.notification, delivery.recipient))


def _sender(mail: EmailMessage) -> Callable[[], None]:
    def send() -> None:
        mail.send()

    return send


def _made(attempt: Callable[[], int | None]) -> Outcome:
    try:
        return Outcome(status=attempt())
    except NotSent as error:
        return Outcome(status=error.status or None, why=str(error))
    except (SMTPException, OSError, ValueError) as error:
        return Outcome(why=f"{type(error).__name__}: {error}")


def _write(delivery: Delivery, outcome: Outcome) -> None:
    attempts = delivery.attempts + 1  # as it was claimed
    changes: dict[str, object] = {"status": outcome.status, "said": outcome.why[:300]}
    if not outcome.why:
        changes |= {"state": State.DELIVERED, "delivered_at": Now()}
    elif attempts > len(PAUSES):
        changes |= {"state": State.GIVEN_UP}
    else:
        # A little apart, so that what failed together does not come back together.
        changes |= {"next_at": Now() + PAUSES[attempts - 1] * random.uniform(1.0, 1.2)}
    Delivery.objects.filter(pk=delivery.pk, state=State.WAITING).update(**changes)
    if outcome.why:
        logger.warning("delivery=%s attempt=%s failed: %s", delivery.pk, attempts, outcome.why)


def message_of(notification: Notification, webhook: Webhook) -> Message:
    """Return what a webhook is sent: JSON with a sentence in English, and what it is made of."""
    with translation.override("en"):
        text = say(notification.kind, notification.values)
    body = {
        "id": str(notification.pk),
        "kind": notification.kind,
        "at": notification.created_at.isoformat(),
        "project": notification.project.slug,
        "text": text,
        "url": link_of(notification),
        "data": notification.values,
    }
    return Message(
        url=webhook.url, secret=secret_of(webhook), body=json.dumps(body, ensure_ascii=False).encode(),
        event=str(notification.pk), kind=notification.kind,
    )  # fmt: skip


def mail_of(notification: Notification, recipient: User) -> EmailMessage:
    """Return what a person is sent, in their language."""
    project = notification.project
    with translation.override(recipient.language or settings.LANGUAGE_CODE):
        text = say(notification.kind, notification.values)
        choice = link_of(notification, f"/p/{project.slug}/settings/notifications/")
        why = _("You chose to be told of this. Change it here: %(url)s") % {"url": choice}
    body = "\n\n".join([text, link_of(notification), why])
    subject = " ".join(f"[{project.name}] {text}".split())
    return EmailMessage(
        subject=subject[:200], body=body, to=[recipient.email],
        headers={"X-RLHF-Event": str(notification.pk), "Auto-Submitted": "auto-generated"},
    )  # fmt: skip


def link_of(notification: Notification, path: str = "") -> str:
    """Return the address of a page; without PUBLIC_URL only its path is known."""
    return settings.PUBLIC_URL.rstrip("/") + (path or notification.path)


def forget_person(*, project: Project, name: str) -> int:
    """Delete what was told of an annotator, as of what is erased; return how many events. What was sent is sent."""
    told = Notification.objects.filter(project=project, kind=Notification.Kind.ANNOTATOR_PAUSED, values__name=name)
    return told.delete()[1].get("notifications.Notification", 0)


def forget_notifications() -> int:
    """Delete what happened long ago, with its messages; return how many events."""
    return Notification.objects.filter(created_at__lt=Now() - KEPT).delete()[1].get("notifications.Notification", 0)
