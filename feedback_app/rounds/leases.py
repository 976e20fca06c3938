"""Who works on a round: one claim, one fence, and nothing written once the fence is old."""

import logging
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from uuid import UUID

from django.conf import settings
from django.db import InterfaceError, OperationalError, connection, transaction
from django.db.models.functions import Coalesce, Now

from feedback_app.annotation import sampling
from feedback_app.annotation.models import SampleJob
from feedback_app.datasets.models import ImportJob, VersionJob
from feedback_app.datasets.services import imports, version_jobs
from feedback_app.leases import claim, cut
from feedback_app.rounds.models import Round, Simulation, Trial

logger = logging.getLogger(__name__)
# Renewed every few seconds: a worker that stops renewing is taken to be gone after this. With the beat's tick of 10
# seconds behind it, and the time that a message takes, another goes on within 30. All by the database's clock: workers'
# own may differ.
LEASE = timedelta(seconds=15)
RENEW_EVERY_S = 3.0
# A simulation's: renewed between two slices of its judgments, which take seconds where nothing else runs.
SIMULATION_LEASE = timedelta(minutes=2)
LONGEST: dict[type[Round | Trial | Simulation | SampleJob | ImportJob | VersionJob], timedelta] = {
    Round: LEASE, Trial: LEASE, Simulation: SIMULATION_LEASE, SampleJob: sampling.LEASE, ImportJob: imports.LEASE,
    VersionJob: version_jobs.LEASE,
}  # fmt: skip
# The database does not answer: it restarts, or the way to it is cut. Nothing is wrong with the round.
DATABASE_AWAY = (OperationalError, InterfaceError)


class LeaseLost(Exception):
    """Another worker has the round, or it was ended: write nothing more, stop what was started."""


def owner_name() -> str:
    """Return who we are, for people who look."""
    return f"{settings.HOST_NAME}:{os.getpid()}"


def cut_leases() -> int:
    """Cut leases that last longer than their kind is given for, and return how many."""
    return sum(cut(of.objects.all(), longest=longest) for of, longest in LONGEST.items())


def claim_round(*, round_id: UUID) -> Round | None:
    """Take a waiting round with a new fence; None where there is nothing to take."""
    rows = Round.objects.filter(pk=round_id).select_related("project", "parent")
    began = Coalesce("started_at", Now())
    return claim(rows, lease=LEASE, lease_owner=owner_name(), error="", why={}, started_at=began)


def renew_lease(*, round_id: UUID, fence: int) -> tuple[bool, bool]:
    """Keep a round; return (cancel requested, pause requested). Raises LeaseLost."""
    kept = Round.objects.filter(pk=round_id, fence=fence, state=Round.State.RUNNING).update(lease_until=Now() + LEASE)
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


@contextmanager
def kept(*, round_id: UUID, fence: int) -> Iterator[None]:
    """Keep the lease from a thread, for the time of work in this process that cannot stop to say that it lives.

    A lease that is lost meanwhile shows at the next write: `fenced` refuses it.
    """
    done = threading.Event()
    thread = threading.Thread(target=_keep, args=(round_id, fence, done), name="lease", daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def _keep(round_id: UUID, fence: int, done: threading.Event) -> None:
    try:
        while not done.wait(RENEW_EVERY_S):
            try:
                renew_lease(round_id=round_id, fence=fence)
            except LeaseLost:
                return
            except DATABASE_AWAY as error:
                logger.warning("round=%s fence=%s: the lease is not renewed: %s", round_id, fence, error)
                connection.close()
    finally:
        connection.close()
