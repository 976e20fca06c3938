"""The bell of the outbox: its rows wait in PostgreSQL, and losing or doubling a bell is harmless."""

from celery import shared_task

from feedback_app.notifications.services import deliver_due, forget_notifications
from feedback_app.notifications.services.delivering import AT_ONCE


@shared_task(ignore_result=True)  # type: ignore[untyped-decorator]  # Celery is untyped
def deliver() -> None:
    """Bring what is due; where more waits than one wave takes, ring again, so that other bells come in between."""
    if deliver_due() == AT_ONCE:
        deliver.delay()
    else:
        forget_notifications()
