"""Write down what happened, with a message for everybody who wants it, in the transaction in which it happened."""

from typing import Any

from django.conf import settings
from django.db import transaction
from django.db.models.functions import Now

from feedback_app.accounts.models import User
from feedback_app.notifications.models import Delivery, Notification, Subscription, Webhook
from feedback_app.projects.models import Member, Project
from feedback_app.projects.permissions import RANK
from feedback_app.projects.selectors import role_in


@transaction.atomic
def announce(
    *, project: Project, kind: Notification.Kind, key: str, values: dict[str, Any], path: str = ""
) -> Notification | None:
    """Tell of something once; None where it was told of before.

    key: what happened, by which a second telling is known. path: below /p/{slug}/.
    """
    notification, fresh = Notification.objects.get_or_create(
        key=f"{project.pk}:{kind}:{key}"[:160],
        defaults={"project": project, "kind": kind, "values": values, "path": f"/p/{project.slug}/{path}"},
    )
    if not fresh:
        return None
    webhooks = Webhook.objects.filter(project=project, kinds__contains=[kind])
    deliveries = [_delivery(notification, webhook=webhook) for webhook in webhooks]
    deliveries += [_delivery(notification, recipient=user) for user in _readers(project, kind)]
    Delivery.objects.bulk_create(deliveries)
    return notification


def _delivery(notification: Notification, **target: Any) -> Delivery:
    return Delivery(notification=notification, next_at=Now(), **target)


def _readers(project: Project, kind: str) -> list[User]:
    """Return who chose the kind, has an address, and may still see what is told of."""
    if not settings.EMAIL_HOST:
        return []
    chosen = Subscription.objects.filter(project=project, kinds__contains=[kind]).exclude(user__email="")
    found = [subscription.user for subscription in chosen.select_related("user")]
    return [user for user in found if _may_read(user, project)]


def _may_read(user: User, project: Project) -> bool:
    role = role_in(user=user, project=project)
    return role is not None and RANK[role] >= RANK[Member.Role.REVIEWER]
