"""Bells: each names rows that wait in PostgreSQL, and losing or doubling one is harmless."""

import logging
from uuid import UUID

from celery import shared_task

from feedback_app.annotation.sampling import refill_queues, waiting_sample_jobs
from feedback_app.annotation.services import expire_reservations, forget_answers
from feedback_app.annotation.tasks import sample
from feedback_app.datasets.tasks import ring_waiting_imports
from feedback_app.rounds.runner import work_on_round
from feedback_app.rounds.schedules import start_due_rounds
from feedback_app.rounds.selectors import waiting_rounds
from feedback_app.rounds.services import queue_fed_rounds
from feedback_app.rounds.simulation.jobs import run_simulation, waiting_simulations
from feedback_app.rounds.trial.jobs import run_trial, waiting_trials
from feedback_app.serving.services import forget_observations, restage_missing, watch_soaks

logger = logging.getLogger(__name__)


@shared_task(ignore_result=True)  # type: ignore[untyped-decorator]  # Celery is untyped
def kick(round_id: str) -> None:
    """Work on a round, unless somebody does already."""
    work_on_round(round_id=UUID(round_id))


@shared_task(ignore_result=True)  # type: ignore[untyped-decorator]  # Celery is untyped
def try_recipe(trial_id: str) -> None:
    """Take two steps of each trainer by a recipe, unless a worker does already."""
    run_trial(trial_id=UUID(trial_id))


@shared_task(ignore_result=True)  # type: ignore[untyped-decorator]  # Celery is untyped
def simulate(simulation_id: str) -> None:
    """Let simulated annotators judge, unless a worker does already."""
    run_simulation(simulation_id=UUID(simulation_id))


@shared_task(ignore_result=True)  # type: ignore[untyped-decorator]  # Celery is untyped
def tick_rounds() -> None:
    """Start what a schedule asks for, and ring again for every round and try that waits for a worker."""
    start_due_rounds()
    queue_fed_rounds()
    for round_id in waiting_rounds():
        kick.delay(str(round_id))
    for trial_id in waiting_trials():
        try_recipe.delay(str(trial_id))


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
def tick_serving() -> None:
    """Load live versions again where an endpoint has lost them, and look at those that went live a moment ago."""
    if staged := restage_missing():
        logger.info("staged again: %s", ", ".join(staged))
    watch_soaks()
    forget_observations()
