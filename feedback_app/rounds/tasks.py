"""Bells: each names rows that wait in PostgreSQL, and losing or doubling one is harmless."""

import logging
from typing import Any
from uuid import UUID

from celery import shared_task

from feedback_app.annotation.sampling import refill_queues, waiting_sample_jobs
from feedback_app.annotation.services import expire_reservations, forget_answers
from feedback_app.annotation.tasks import sample
from feedback_app.datasets.tasks import ring_waiting_imports
from feedback_app.rounds.hosts import fits_here, mark_gone_hosts, queues_for
from feedback_app.rounds.leases import cut_leases
from feedback_app.rounds.models import Round, Trial
from feedback_app.rounds.retention import clear_away
from feedback_app.rounds.runner import work_on_round
from feedback_app.rounds.schedules import start_due_rounds
from feedback_app.rounds.selectors import waiting_rounds
from feedback_app.rounds.services import queue_fed_rounds
from feedback_app.rounds.simulation.jobs import run_simulation, waiting_simulations
from feedback_app.rounds.trial.jobs import run_trial, waiting_trials
from feedback_app.serving.services import cut_push_leases, forget_observations, restage_missing, watch_soaks

logger = logging.getLogger(__name__)


@shared_task(ignore_result=True)  # type: ignore[untyped-decorator]  # Celery is untyped
def kick(round_id: str) -> None:
    """Work on a round, unless somebody does already."""
    held = Round.objects.filter(pk=round_id).first()
    if held is not None and fits_here(held):
        work_on_round(round_id=held.pk)


@shared_task(ignore_result=True)  # type: ignore[untyped-decorator]  # Celery is untyped
def try_recipe(trial_id: str) -> None:
    """Take two steps of each trainer by a recipe, unless a worker does already."""
    job = Trial.objects.filter(pk=trial_id).first()
    if job is not None and fits_here(job):
        run_trial(trial_id=job.pk)


@shared_task(ignore_result=True)  # type: ignore[untyped-decorator]  # Celery is untyped
def simulate(simulation_id: str) -> None:
    """Let simulated annotators judge, unless a worker does already."""
    run_simulation(simulation_id=UUID(simulation_id))


@shared_task(ignore_result=True)  # type: ignore[untyped-decorator]  # Celery is untyped
def tick_rounds() -> None:
    """Start what a schedule asks for, and ring again for every round and try that waits for a worker."""
    cut_leases()
    start_due_rounds()
    queue_fed_rounds()
    mark_gone_hosts()
    for held in Round.objects.filter(pk__in=waiting_rounds()):
        ring_hosts(kick, held)
    for job in Trial.objects.filter(pk__in=waiting_trials()):
        ring_hosts(try_recipe, job)


def ring_hosts(bell: Any, row: Round | Trial) -> None:
    """Ring each host that a row fits; a bell that is not heard is rung again at the next tick."""
    for queue in queues_for(row):
        bell.apply_async((str(row.pk),), queue=queue, again=True)


@shared_task(ignore_result=True)  # type: ignore[untyped-decorator]  # Celery is untyped
def tick_queue() -> None:
    """Give places back, keep queues filled, and ring again for samplings, simulations and imports that wait."""
    expire_reservations()
    forget_answers()
    refill_queues()
    for job in waiting_sample_jobs():
        sample.delay(str(job.pk))
    for simulation_id in waiting_simulations():
        simulate.delay(str(simulation_id))
    ring_waiting_imports.delay()


@shared_task(ignore_result=True)  # type: ignore[untyped-decorator]  # Celery is untyped
def tick_retention() -> None:
    """Clear away old checkpoints and weights by the rule."""
    clear_away()


@shared_task(ignore_result=True)  # type: ignore[untyped-decorator]  # Celery is untyped
def tick_serving() -> None:
    """Load live versions again where an endpoint has lost them, and look at those that went live a moment ago."""
    cut_push_leases()
    if staged := restage_missing():
        logger.info("staged again: %s", ", ".join(staged))
    watch_soaks()
    forget_observations()
