"""Tries asked for on a page: a row that waits, claimed by one worker, ended on request or when its time is up."""

import logging
import shutil
import time
from datetime import timedelta
from uuid import UUID

from django.db import IntegrityError, transaction
from django.db.models.functions import Now
from django.utils import timezone
from django.utils.translation import gettext as _
from django.utils.translation import gettext_noop

from feedback_app.accounts.models import User
from feedback_app.accounts.services import record_audit
from feedback_app.leases import claim, claimable
from feedback_app.projects.models import Project
from feedback_app.rounds.hosts import needs_of
from feedback_app.rounds.leases import DATABASE_AWAY, LEASE, RENEW_EVERY_S, LeaseLost, owner_name
from feedback_app.rounds.models import Trial
from feedback_app.rounds.recipes import Recipe
from feedback_app.rounds.selectors import usable_judgments
from feedback_app.rounds.services.steering import as_rehearsal
from feedback_app.rounds.supervisor import Cancelled
from feedback_app.rounds.trial.measuring import TrialFailed, measure_all, trial_dir
from training.records import DataError

logger = logging.getLogger(__name__)
State = Trial.State
LIMIT = timedelta(minutes=20)
# A worker that dies under a try may have died of it: of memory, say. Another may have better luck, a third is enough.
ATTEMPTS = 3


class TrialRefused(ValueError):
    """The recipe cannot be tried; the message says why."""


def request_trial(*, project: Project, recipe: Recipe, requested_by: User | None) -> Trial:
    """Queue a try of a recipe, saved or not; the row is the queue, a bell may be rung for it or not.

    Raises:
        TrialRefused: there is nothing to learn from, or one is under way.
    """
    config = as_rehearsal(project=project, config=recipe.as_json())
    simulated = config["judgments"].get("simulated", "exclude")
    if not usable_judgments(project=project, simulated=simulated).exists():
        raise TrialRefused(_("there are no judgments to learn from"))
    try:
        with transaction.atomic():
            needs = needs_of(project=project, recipe=recipe)
            made = Trial.objects.create(project=project, config=config, needs=needs, requested_by=requested_by)
            record_audit(actor=requested_by, action="recipe.try", subject=str(made.pk), project_slug=project.slug)
    except IntegrityError as error:
        raise TrialRefused(_("a recipe of this project is being tried already")) from error
    return made


def cancel_trial(*, trial: Trial) -> None:
    """End a try: at once where no worker has it, else within seconds."""
    ended = Trial.objects.filter(claimable(), pk=trial.pk).update(state=State.CANCELLED, finished_at=timezone.now())
    if not ended:
        Trial.objects.filter(pk=trial.pk, state=State.RUNNING).update(cancel_requested=True)


def waiting_trials() -> list[UUID]:
    """Return the tries whose bell should ring again."""
    return list(Trial.objects.filter(claimable()).order_by("created_at").values_list("pk", flat=True))


def run_trial(*, trial_id: UUID) -> Trial | None:
    """Claim a try and take two steps of each trainer; None where another worker has it or it has ended."""
    rows = Trial.objects.filter(pk=trial_id).select_related("project")
    job = claim(rows, lease=LEASE, lease_owner=owner_name(), started_at=Now(), results=[], stage="")
    if job is None:
        return None
    try:
        if job.fence > ATTEMPTS:
            raise TrialFailed(gettext_noop("the worker died under it more than once: memory may be too short"))
        measure_all(job, Watch(job))
    except LeaseLost:
        logger.warning("trial=%s fence=%s: another worker has it now", job.pk, job.fence)
    except Cancelled:
        _end(job, State.CANCELLED, "")
    except (TrialFailed, DataError, OSError) as error:
        logger.exception("trial=%s fence=%s failed", job.pk, job.fence)
        _end(job, State.FAILED, str(error))
    except DATABASE_AWAY:
        logger.exception("trial=%s fence=%s: left to the next worker, for the database is away", job.pk, job.fence)
        return None
    except Exception as error:
        # A fault of ours: it must not be tried again at every tick, and the log has to have the whole of it.
        _end(job, State.FAILED, f"{type(error).__name__}: {error}")
        raise
    else:
        _end(job, State.DONE, "")
    finally:
        shutil.rmtree(trial_dir(job), ignore_errors=True)
    return Trial.objects.get(pk=trial_id)


class Watch:
    """Keeps a try's lease, and says when it has to stop."""

    def __init__(self, job: Trial) -> None:
        self.job = job
        self.deadline = time.monotonic() + LIMIT.total_seconds()
        self.renewed_at = time.monotonic()

    def heartbeat(self) -> None:
        """Renew the lease when it is due. Raises LeaseLost, Cancelled, or TrialFailed past the time limit."""
        now = time.monotonic()
        if now > self.deadline:
            minutes = round(LIMIT.total_seconds() / 60)
            raise TrialFailed(f"two steps of each trainer took longer than {minutes} minutes: {self.job.stage}")
        if now - self.renewed_at < RENEW_EVERY_S:
            return
        mine = Trial.objects.filter(pk=self.job.pk, fence=self.job.fence, state=State.RUNNING)
        if not mine.update(lease_until=Now() + LEASE):
            raise LeaseLost
        self.renewed_at = now
        if mine.filter(cancel_requested=True).exists():
            raise Cancelled

    def note(self) -> None:
        """Write down which trainer runs and what the ones before it took. Raises LeaseLost."""
        mine = Trial.objects.filter(pk=self.job.pk, fence=self.job.fence, state=State.RUNNING)
        if not mine.update(stage=self.job.stage, results=self.job.results, lease_until=Now() + LEASE):
            raise LeaseLost


def _end(job: Trial, state: State, error: str) -> None:
    Trial.objects.filter(pk=job.pk, fence=job.fence, state=State.RUNNING).update(
        state=state, error=error, lease_until=None, finished_at=timezone.now(), cancel_requested=False
    )
    logger.info("trial=%s fence=%s %s %s", job.pk, job.fence, state, error)
