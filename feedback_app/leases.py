"""Rows that wait for a worker: one claims a row with a lease and a fence, and another takes it once the lease runs out.

All by the database's clock, which is one for all machines: workers' own may differ, and jump.
"""

import uuid
from datetime import datetime, timedelta
from typing import Any, TypeVar

from django.conf import settings
from django.db import connection, models, transaction
from django.db.models import F, Model, Q, QuerySet
from django.db.models.functions import Now
from django.utils.translation import gettext_lazy as _

QUEUED, RUNNING = "queued", "running"
Row = TypeVar("Row", bound=Model)


class Job(models.Model):
    """What somebody asked for and a worker does; the row is the queue. A kind adds what is asked and how far it is."""

    class State(models.TextChoices):
        QUEUED = QUEUED, _("queued")
        RUNNING = RUNNING, _("running")
        DONE = "done", _("done")
        FAILED = "failed", _("failed")

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    state = models.CharField(max_length=16, choices=State.choices, default=State.QUEUED)
    fence = models.PositiveIntegerField(default=0)
    lease_until = models.DateTimeField(null=True, blank=True)
    error = models.TextField(blank=True)
    requested_by = models.ForeignKey(settings.AUTH_USER_MODEL, null=True, on_delete=models.SET_NULL, related_name="+")
    created_at = models.DateTimeField(auto_now_add=True)
    finished_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        abstract = True
        ordering = ["-created_at"]


def claimable() -> Q:
    """Return which rows wait for a worker: queued ones, and running ones whose worker is gone."""
    return Q(state=QUEUED) | Q(state=RUNNING, lease_until__lt=Now())


def claim(rows: QuerySet[Row], *, lease: timedelta, **changes: Any) -> Row | None:
    """Take the row of a queryset with a new fence, in one conditional UPDATE; None where there is nothing to take.

    The row stays locked until it has been read: a worker that was halted in between would else come to hold the fence
    of the one that took the row from it meanwhile.
    """
    with transaction.atomic():
        held = {"state": RUNNING, "fence": F("fence") + 1, "lease_until": Now() + lease}
        return rows.get() if rows.filter(claimable()).update(**held, **changes) else None


def cut(rows: QuerySet[Any], *, longest: timedelta) -> int:
    """Cut the leases that last longer than any is given for, and return how many: the database's clock was set back.

    Whoever is alive renews theirs anyhow; who is gone would hold it until the old time comes round again.
    """
    most = Now() + longest
    return rows.filter(state=RUNNING, lease_until__gt=most).update(lease_until=most)


def database_now() -> datetime:
    """Return the time by the database's clock."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT clock_timestamp()")
        moment: datetime = cursor.fetchone()[0]
        return moment
