"""Ring a worker for a row that waits; without a broker the row waits for the next tick."""

import logging
from uuid import UUID

from kombu.exceptions import OperationalError

from feedback_app.annotation.tasks import sample
from feedback_app.rounds.models import Round, Trial
from feedback_app.rounds.tasks import kick, ring_hosts, simulate, try_recipe

logger = logging.getLogger(__name__)


def ring_round(round_id: UUID) -> None:
    """Ring for a round."""
    try:
        ring_hosts(kick, Round.objects.get(pk=round_id))
    except OperationalError as error:
        logger.warning("round=%s waits: the broker does not answer (%s)", round_id, error)


def ring_sample(job_id: UUID) -> None:
    """Ring for a sampling."""
    try:
        sample.delay(str(job_id))
    except OperationalError as error:
        logger.warning("sample job=%s waits: the broker does not answer (%s)", job_id, error)


def ring_trial(trial_id: UUID) -> None:
    """Ring for a try of a recipe."""
    try:
        ring_hosts(try_recipe, Trial.objects.get(pk=trial_id))
    except OperationalError as error:
        logger.warning("trial=%s waits: the broker does not answer (%s)", trial_id, error)


def ring_simulation(simulation_id: UUID) -> None:
    """Ring for a simulation."""
    try:
        simulate.delay(str(simulation_id))
    except OperationalError as error:
        logger.warning("simulation=%s waits: the broker does not answer (%s)", simulation_id, error)
