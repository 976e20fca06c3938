"""Writes to notifications: what happened, who wants to know, and the bringing of it."""

from feedback_app.notifications.services.announcing import announce
from feedback_app.notifications.services.choosing import (
    add_webhook,
    choose_kinds,
    remove_webhook,
    secret_of,
    send_test,
)
from feedback_app.notifications.services.delivering import deliver_due, forget_notifications, forget_person

__all__ = [
    "add_webhook", "announce", "choose_kinds", "deliver_due", "forget_notifications", "forget_person", "remove_webhook",
    "secret_of", "send_test",
]  # fmt: skip
