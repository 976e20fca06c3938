"""Simulations asked for on a page: a row that waits, claimed by one worker, done a slice at a time."""

import logging
from uuid import UUID

import httpx
from django.conf import settings
from django.db import IntegrityError, transaction
from django.db.models.functions import Now
from django.utils import timezone
from django.utils.translation import gettext as _

from feedback_app.accounts.models import User
from feedback_app.accounts.services import record_audit
from feedback_app.annotation.models import Task
from feedback_app.leases import claim, claimable
from feedback_app.projects.models import Project
from feedback_app.rounds.leases import SIMULATION_LEASE
from feedback_app.rounds.models import Simulation
from feedback_app.rounds.simulation.annotators import SimulationError
from feedback_app.rounds.simulation.preferences import PREFERENCES, PreferenceError, find_preference
from feedback_app.rounds.simulation.services import simulate
from feedback_app.rounds.simulation.web import hold_web

logger = logging.getLogger(__name__)
State = Simulation.State
MOST_ANNOTATORS, MOST_JUDGMENTS, MOST_NOISE = 20, 5_000, 10.0
# One slice between two renewals of the lease: a few seconds' work, and what is lost of the count when a worker dies.
SLICE = 40


class SimulationRefused(ValueError):
    """The simulation cannot be carried out; the message says why."""


@transaction.atomic
def request_simulation(
    *, project: Project, annotators: int, judgments: int, preference: str, noise: float, requested_by: User | None
) -> Simulation:
    """Queue a simulation; the row is the queue, a bell may be rung for it or not.

    Raises:
        SimulationRefused: there is nothing to judge, one is under way, or a value is out of bounds.
    """
    if preference not in PREFERENCES:
        raise SimulationRefused(f"preference: one of {', '.join(PREFERENCES)}")
    if not (1 <= annotators <= MOST_ANNOTATORS and 1 <= judgments <= MOST_JUDGMENTS and 0 <= noise <= MOST_NOISE):
        raise SimulationRefused(
            f"annotators from 1 to {MOST_ANNOTATORS}, judgments from 1 to {MOST_JUDGMENTS}, noise from 0 to"
            f" {MOST_NOISE:g}"
        )
    if not Task.objects.filter(project=project, open=True).exists():
        raise SimulationRefused(_("no task is waiting to be judged: sample some first"))
    try:
        with transaction.atomic():
            made = Simulation.objects.create(
                project=project,
                annotators=annotators,
                judgments=judgments,
                preference=preference,
                noise=noise,
                requested_by=requested_by,
            )
    except IntegrityError as error:
        raise SimulationRefused(_("a simulation of this project is under way already")) from error
    record_audit(actor=requested_by, action="simulation.start", subject=str(made.pk), project_slug=project.slug)
    return made


def waiting_simulations() -> list[UUID]:
    """Return the simulations whose bell should ring again."""
    return list(Simulation.objects.filter(claimable()).order_by("created_at").values_list("pk", flat=True))


def run_simulation(*, simulation_id: UUID) -> Simulation | None:
    """Claim a simulation and let it judge; None where another worker has it or it has ended.

    What was judged stays when the worker dies: the next one goes on with the rest.
    """
    job = claim(Simulation.objects.filter(pk=simulation_id).select_related("project"), lease=SIMULATION_LEASE)
    if job is None:
        return None
    try:
        with hold_web(settings.SITE_URL) as url:
            _judge(job, url)
    except (SimulationError, PreferenceError, RuntimeError, httpx.HTTPError) as error:
        logger.exception("simulation=%s fence=%s failed", job.pk, job.fence)
        _end(job, State.FAILED, str(error) or type(error).__name__)
    except Exception as error:
        # A fault of ours: it must not be tried again at every tick, and the log has to have the whole of it.
        _end(job, State.FAILED, f"{type(error).__name__}: {error}")
        raise
    return Simulation.objects.get(pk=simulation_id)


def _judge(job: Simulation, url: str) -> None:
    preference = find_preference(job.preference, by_operator=False)
    while (left := job.judgments - job.judged) > 0:
        wanted = min(left, SLICE)
        stored = simulate(
            project=job.project,
            url=url,
            annotators=job.annotators,
            judgments=wanted,
            preference=preference,
            noise=job.noise,
            seed=job.pk.int % 2**31 + job.judged,
        )
        job.judged += stored
        mine = Simulation.objects.filter(pk=job.pk, fence=job.fence, state=State.RUNNING)
        if not mine.update(judged=job.judged, lease_until=Now() + SIMULATION_LEASE):
            logger.warning("simulation=%s fence=%s: taken over by another worker", job.pk, job.fence)
            return
        if stored < wanted:  # the queue has nothing more for these annotators
            break
    _end(job, State.DONE, "")


def _end(job: Simulation, state: Simulation.State, error: str) -> None:
    Simulation.objects.filter(pk=job.pk, fence=job.fence, state=State.RUNNING).update(
        state=state, error=error, lease_until=None, finished_at=timezone.now()
    )
    logger.info("simulation=%s %s judged=%s %s", job.pk, state, job.judged, error)
