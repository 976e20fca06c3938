"""Who works on a round: one claim, one fence, and nothing written once the fence is old."""

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from uuid import UUID

from django.db import transaction
from django.db.models import F, Q
from django.utils import timezone

from feedback_app.rounds.models import Round

# Renewed every few seconds: a worker that stops renewing is taken to be gone after this.
LEASE = timedelta(seconds=20)


class LeaseLost(Exception):
    """Another worker has the round, or it was ended: write nothing more, stop what was started."""


def owner_name() -> str:
    """Return who we are, for people who look."""
    return f"{socket.gethostname()}:{os.getpid()}"


def claimable() -> Q:
    """Return which rounds wait for a worker: queued ones, and running ones whose worker is gone."""
    return Q(state=Round.State.QUEUED) | Q(state=Round.State.RUNNING, lease_until__lt=timezone.now())


def claim_round(*, round_id: UUID) -> Round | None:
    """Take a waiting round with a new fence, in one conditional UPDATE; None where there is nothing to take."""
    now = timezone.now()
    taken = Round.objects.filter(claimable(), pk=round_id).update(
        state=Round.State.RUNNING,
        fence=F("fence") + 1,
        lease_owner=owner_name(),
        lease_until=now + LEASE,
        error="",
    )
    if not taken:
        return None
    Round.objects.filter(pk=round_id, started_at=None).update(started_at=now)
    return Round.objects.select_related("project", "parent").get(pk=round_id)


def renew_lease(*, round_id: UUID, fence: int) -> tuple[bool, bool]:
    """Keep a round; return (cancel requested, pause requested). Raises LeaseLost."""
    kept = Round.objects.filter(pk=round_id, fence=fence, state=Round.State.RUNNING).update(
        lease_until=timezone.now() + LEASE
    )
    if not kept:
        raise LeaseLost
    return Round.objects.values_list("cancel_requested", "pause_requested").get(pk=round_id)


@contextmanager
def fenced(*, round_id: UUID, fence: int) -> Iterator[Round]:
    """Give the locked round for one transaction of writes; raises LeaseLost where the fence is old."""
    with transaction.atomic():
        held = Round.objects.select_for_update().get(pk=round_id)
        if held.fence != fence or held.state != Round.State.RUNNING:
            raise LeaseLost
        yield held
