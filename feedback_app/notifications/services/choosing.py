"""Who wants to be told of what: people by e-mail, programs by webhook."""

from collections.abc import Sequence
from uuid import uuid4

from django.core.exceptions import ValidationError
from django.db import transaction
from django.db.models.functions import Now
from django.utils.crypto import salted_hmac
from django.utils.translation import gettext as _

from feedback_app.accounts.models import User
from feedback_app.accounts.services import record_audit, set_email
from feedback_app.notifications.models import CHOICES, Delivery, Notification, Subscription, Webhook
from feedback_app.notifications.sending import NotSent, split_url
from feedback_app.projects.models import Project

SALT = "feedback_app.notifications.webhook"
MOST_WEBHOOKS = 10


@transaction.atomic
def choose_kinds(*, project: Project, user: User, kinds: Sequence[str], email: str) -> Subscription:
    """Keep which kinds somebody wants by e-mail, and where to.

    Raises:
        ValidationError: names kinds or email.
    """
    _known(kinds)
    if kinds and not email:
        raise ValidationError({"email": [_("an address is needed to send anything to")]})
    set_email(user=user, email=email)
    chosen, _fresh = Subscription.objects.update_or_create(project=project, user=user, defaults={"kinds": list(kinds)})
    return chosen


@transaction.atomic
def add_webhook(*, project: Project, url: str, kinds: Sequence[str], created_by: User) -> Webhook:
    """Tell an address of kinds from now on; secret_of is what its receiver needs, and is shown once.

    Raises:
        ValidationError: names url or kinds.
    """
    _known(kinds)
    if not kinds:
        raise ValidationError({"kinds": [_("choose what the address is told of")]})
    try:
        split_url(url)
    except NotSent as error:
        raise ValidationError({"url": [str(error)]}) from error
    Project.objects.select_for_update().only("id").get(pk=project.pk)
    if Webhook.objects.filter(project=project).count() >= MOST_WEBHOOKS:
        raise ValidationError({"url": [_("%(most)d at most: remove one first") % {"most": MOST_WEBHOOKS}]})
    webhook = Webhook.objects.create(project=project, url=url, kinds=list(kinds), created_by=created_by)
    record_audit(
        actor=created_by, action="webhook.add", subject=url, project_slug=project.slug, detail={"kinds": list(kinds)}
    )
    return webhook


@transaction.atomic
def remove_webhook(*, webhook: Webhook, removed_by: User) -> None:
    """Tell an address of nothing any more; what was still waiting for it is gone with it."""
    record_audit(actor=removed_by, action="webhook.remove", subject=webhook.url, project_slug=webhook.project.slug)
    webhook.delete()


@transaction.atomic
def send_test(*, webhook: Webhook) -> Delivery:
    """Queue a test for one address alone."""
    notification = Notification.objects.create(
        project=webhook.project, kind=Notification.Kind.TEST, key=f"test:{uuid4()}",
        path=f"/p/{webhook.project.slug}/settings/notifications/",
    )  # fmt: skip
    return Delivery.objects.create(notification=notification, webhook=webhook, next_at=Now())


def secret_of(webhook: Webhook) -> str:
    """Return what the messages to an address are signed with."""
    return salted_hmac(SALT, str(webhook.pk), algorithm="sha256").hexdigest()


def _known(kinds: Sequence[str]) -> None:
    if unknown := set(kinds) - {value for value, _label in CHOICES}:
        raise ValidationError({"kinds": [_("unknown: %(kinds)s") % {"kinds": ", ".join(sorted(unknown))}]})
