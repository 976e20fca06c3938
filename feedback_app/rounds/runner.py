"""Work on one round under one claim: step after step, each skipped where it stands whole already."""

import logging
import time
from typing import Any
from uuid import UUID

from django.conf import settings
from django.utils import timezone

from feedback_app.annotation.services import withdraw_blind_tasks
from feedback_app.logs import bound
from feedback_app.rounds.announcing import announce_round
from feedback_app.rounds.leases import DATABASE_AWAY, LeaseLost, claim_round, fenced, kept, renew_lease
from feedback_app.rounds.models import Round, RoundStep
from feedback_app.rounds.steps import STEPS
from feedback_app.rounds.steps.inputs import bring_what_it_stands_on, metrics_of
from feedback_app.rounds.supervisor import Cancelled, StepFailed, StepRun
from feedback_app.rounds.workspace import find_complete, is_complete, mirror_step, step_dir
from feedback_app.sentences import SaidError
from training.records import DataError

logger = logging.getLogger(__name__)
Name = RoundStep.Name
# These leave no directory to verify: their result is in the database.
WITHOUT_DIRECTORY = {RoundStep.Name.GATE, RoundStep.Name.PUSH}
# These watch over a trainer and keep the lease as they do; the others are kept while they work.
TRAINED = {Name.ADOPT, Name.SFT, Name.REWARD, Name.PPO, Name.EVALUATE}


def work_on_round(*, round_id: UUID) -> Round | None:
    """Claim a round and take it as far as it goes; None where another worker has it or it does not wait."""
    held = claim_round(round_id=round_id)
    if held is None:
        return None
    with bound(round=held.pk, fence=held.fence):
        return _work(held)


def _work(held: Round) -> Round | None:
    logger.info("round=%s fence=%s claimed", held.pk, held.fence)
    try:
        _run_steps(held)
    except LeaseLost:
        logger.warning("round=%s fence=%s: another worker has it now", held.pk, held.fence)
    except Cancelled:
        _end(held, Round.State.CANCELLED, "")
    except (StepFailed, DataError) as error:
        logger.exception("round=%s fence=%s failed", held.pk, held.fence)
        _end(held, Round.State.FAILED, str(error), error.kept if isinstance(error, SaidError) else None)
    except DATABASE_AWAY:
        # Nothing is known to be wrong with the round: it keeps its state, and once the lease has run out goes on.
        logger.exception("round=%s fence=%s: left to the next worker, for the database is away", held.pk, held.fence)
        return None
    except Exception as error:
        # A fault of ours: the round must not look as if it still ran, and the log has to have the whole of it.
        _end(held, Round.State.FAILED, f"{type(error).__name__}: {error}")
        raise
    return Round.objects.get(pk=held.pk)


def _run_steps(held: Round) -> None:
    deadline = time.monotonic() + held.config["max_hours"] * 3600
    for step in held.steps.all():
        cancel, pause = renew_lease(round_id=held.pk, fence=held.fence)
        if cancel:
            raise Cancelled
        with kept(round_id=held.pk, fence=held.fence):  # a large model's files take a while to be hashed
            if _stands(step):
                continue
        if pause:
            _leave(held, Round.State.PAUSED)
            return
        with bound(step=step.name):
            metrics = _run_step(StepRun(held, step, deadline))
        if step.name == RoundStep.Name.GATE and not _pass_gate(held, metrics):
            return
    _end(held, Round.State.SUCCEEDED, "")


def _stands(step: RoundStep) -> bool:
    """Say whether a finished step can be relied on: what it wrote must still be what it wrote.

    The gate never does: should a worker die between the gate and its verdict, the round must not pass unjudged.
    """
    if step.state != RoundStep.State.DONE or step.name == RoundStep.Name.GATE:
        return False
    if step.name in WITHOUT_DIRECTORY or not step.directory:
        return True
    directory = settings.DATA_DIR / step.directory
    return all(is_complete(directory / part) for part in _parts_of(step))


def _parts_of(step: RoundStep) -> list[str]:
    """Return the directories that a finished step has made, below its own."""
    if step.name != RoundStep.Name.REWARD:
        return [""]
    return ["model", *(["judge"] if metrics_of(step.round, RoundStep.Name.EXPORT)["pairs/judge"] else [])]


def _run_step(run: StepRun) -> dict[str, Any]:
    held, step = run.held, run.step
    with fenced(round_id=held.pk, fence=held.fence):
        RoundStep.objects.filter(pk=step.pk).update(
            state=RoundStep.State.RUNNING, attempt=step.attempt + 1, started_at=timezone.now(), finished_at=None
        )
    logger.info("round=%s fence=%s step=%s begins", held.pk, held.fence, step.name)
    with kept(round_id=held.pk, fence=held.fence):  # another host may have made them
        bring_what_it_stands_on(held)
    if step.name in TRAINED:
        metrics = STEPS[step.name](run)
    else:
        with kept(round_id=held.pk, fence=held.fence):
            metrics = STEPS[step.name](run)
    with kept(round_id=held.pk, fence=held.fence):
        directory = _directory_of(held, step)
        if directory:
            mirror_step(settings.DATA_DIR / directory)
    with fenced(round_id=held.pk, fence=held.fence):
        RoundStep.objects.filter(pk=step.pk).update(
            state=RoundStep.State.DONE, metrics=metrics, finished_at=timezone.now(), directory=directory
        )
    logger.info("round=%s fence=%s step=%s done", held.pk, held.fence, step.name)
    return metrics


def _directory_of(held: Round, step: RoundStep) -> str:
    """Return where the step's result stands, below DATA_DIR: this fence's directory, or the older one's it found."""
    name = step.name
    if name in WITHOUT_DIRECTORY:
        return ""
    inner = f"{name}/model" if name == RoundStep.Name.REWARD else name
    found = find_complete(held, inner, since=step.first_fence)
    directory = step_dir(held, name) if found is None else (found.parent if inner != name else found)
    return str(directory.relative_to(settings.DATA_DIR)) if directory.exists() else ""


def _pass_gate(held: Round, metrics: dict[str, Any]) -> bool:
    """Write the verdict; return whether the round goes on to its push now. Withdraws what people need not judge."""
    with fenced(round_id=held.pk, fence=held.fence) as locked:
        approved = bool(locked.gate.get("approved"))
        locked.gate = {**locked.gate, **metrics}
        locked.save(update_fields=["gate"])
        if metrics["waiting"]:  # the step is done once people have decided
            RoundStep.objects.filter(round=locked, name=RoundStep.Name.GATE).update(state=RoundStep.State.PENDING)
        else:
            withdraw_blind_tasks(round_id=locked.pk)
    if metrics["waiting"]:
        _leave(held, Round.State.WAITING_FOR_JUDGMENTS)
        return False
    if not metrics["passed"]:
        failed = "; ".join(f"{c['name']}: {c['said']}" for c in metrics["checks"] if not c["passed"])
        _end(held, Round.State.REJECTED, failed)
        return False
    if metrics["needs_approval"] and not approved:
        _leave(held, Round.State.WAITING_FOR_APPROVAL)
        return False
    return True


def _leave(held: Round, state: Round.State) -> None:
    """Let the round wait, without a lease. Raises Cancelled where its end was asked for meanwhile."""
    with fenced(round_id=held.pk, fence=held.fence) as locked:
        if locked.cancel_requested:
            raise Cancelled
        locked.state, locked.lease_until, locked.pause_requested = state, None, False
        locked.save(update_fields=["state", "lease_until", "pause_requested"])
        announce_round(locked)


def _end(held: Round, state: Round.State, error: str, kept_why: dict[str, Any] | None = None) -> None:
    """End the round, unless another worker has it by now; kept_why is what the error was made of."""
    try:
        with fenced(round_id=held.pk, fence=held.fence) as locked:
            locked.state, locked.error, locked.lease_until = state, error, None
            locked.why, locked.finished_at = kept_why or {}, timezone.now()
            locked.save(update_fields=["state", "error", "why", "lease_until", "finished_at"])
            withdraw_blind_tasks(round_id=locked.pk)
            announce_round(locked)
            if state != Round.State.SUCCEEDED:
                ended = RoundStep.State.FAILED if state == Round.State.FAILED else RoundStep.State.PENDING
                RoundStep.objects.filter(round=locked, state=RoundStep.State.RUNNING).update(state=ended)
    except LeaseLost:
        logger.warning("round=%s fence=%s: ended by another", held.pk, held.fence)
        return
    logger.info("round=%s fence=%s %s %s", held.pk, held.fence, state, error)
