"""Going live: verify, stage beside the old one, read back, canary, flip, and keep the old one for a rollback.

Until the flip nothing that anybody is served has changed, so a push that fails anywhere leaves the old policy serving.
"""

import logging
import math
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path

from django.db import IntegrityError, connection, transaction
from django.db.models import Q
from django.db.models.functions import Now
from django.utils import timezone
from django.utils.translation import gettext as _

from feedback_app.accounts.models import User
from feedback_app.accounts.services import record_audit
from feedback_app.projects.models import Project
from feedback_app.serving.artifacts import bring_here
from feedback_app.serving.backends import Backend, BackendError, backend_of
from feedback_app.serving.backends.base import read_canary
from feedback_app.serving.models import Deployment, Endpoint, PolicyVersion, Push
from feedback_app.serving.services.canaries import (
    CanaryApart,
    calibrate_endpoint,
    can_be_measured,
    canary_difference,
    canary_distance,
)
from feedback_app.serving.services.policies import alone_at, ensure_endpoint, ensure_staged
from feedback_app.serving.services.soaks import Takeback, begin_soak, end_soaks
from feedback_app.serving.soak_rules import SoakRules
from training.records import MANIFEST, CanaryPrompt, DataError, file_sha256, verify_manifest

logger = logging.getLogger(__name__)
# A push whose process died is taken to be dead after this long, sooner than its round is taken over; while it lives, a
# thread of it renews the lease.
LEASE = timedelta(seconds=10)
RENEW_EVERY_S = 3.0
# A version that was live before is gone back to without being watched anew.
UNWATCHED = SoakRules(minutes=0.0)
TAKEN_OVER = "its lease ran out, and it was taken to be dead"


class PushRefused(RuntimeError):
    """The version did not go live; the old one is serving. The message says at which step and why."""


@dataclass
class _Run:
    """A push under way: what it needs, and its log."""

    push: Push
    deployment: Deployment
    backend: Backend
    rules: SoakRules
    takeback: Takeback | None = None
    live_answers: bool = False
    # What live said to each prompt of the canary before it was replaced, where the backend holds one at a time.
    live_before: list[CanaryPrompt | None] = field(default_factory=list)

    def step(self, name: str, act: Callable[[], str | None]) -> None:
        """Do one step and write it to the push's row; an error is written too, and ends the push."""
        began = timezone.now()
        try:
            said = act() or ""
        except (BackendError, DataError) as error:
            self._write(name, began.isoformat(), False, str(error))
            raise PushRefused(f"{name}: {error}") from error
        self._write(name, began.isoformat(), True, said)

    def measured(self, apart: float) -> None:
        """Keep the largest difference from the trainer; written with the step, whether it holds or not."""
        if math.isfinite(apart):
            self.push.canary_delta = max(self.push.canary_delta or 0.0, apart)

    def _write(self, name: str, at: str, ok: bool, said: str) -> None:
        seconds = (timezone.now() - datetime.fromisoformat(at)).total_seconds()
        self.push.steps.append({"name": name, "at": at, "seconds": round(seconds, 2), "ok": ok, "said": said})
        held = Push.objects.filter(pk=self.push.pk, state=Push.State.RUNNING)
        kept = {"steps": self.push.steps, "canary_delta": self.push.canary_delta}
        if not held.update(**kept, lease_until=Now() + LEASE):
            raise PushRefused(TAKEN_OVER)
        logger.info("push policy=%s step=%s ok=%s %s", self.push.policy.name, name, ok, said)


def push_policy(
    *,
    policy: PolicyVersion,
    requested_by: User | None = None,
    takes_over: bool = False,
    rules: SoakRules | None = None,
) -> Push:
    """Make a version live, and watch it for the time that the rules name (the site's own where none are given).

    takes_over: the caller alone pushes this version, so a push of it that has not ended belongs to a dead process.

    Raises:
        PushRefused: it did not go live, and why; the pointer is where it was.
    """
    return _push(
        policy=policy, kind=Push.Kind.PUSH, requested_by=requested_by, takes_over=takes_over, rules=rules or SoakRules()
    )  # fmt: skip


def roll_back(*, project: Project, requested_by: User | None = None, live: str = "") -> Push:
    """Make the version that was live before live again; raises PushRefused where there is none.

    live: the name of the version that is to be taken back, where that is known: two who ask at once ask for one thing.
    """
    deployment = Deployment.objects.select_related("previous", "live").filter(project=project).first()
    if deployment is None or deployment.previous is None:
        raise PushRefused(_("there is no version to go back to"))
    if live and deployment.live.name != live:
        raise PushRefused(_("Another version has gone live meanwhile; nothing was changed."))
    return _push(policy=deployment.previous, kind=Push.Kind.ROLLBACK, requested_by=requested_by)


def take_back(*, takeback: Takeback) -> Push:
    """Roll back a version that does badly while it is watched; raises PushRefused, also where it is watched no more."""
    return _push(
        policy=takeback.soak.previous, kind=Push.Kind.ROLLBACK, requested_by=None, takeback=takeback
    )  # fmt: skip


def _push(
    *, policy: PolicyVersion, kind: Push.Kind, requested_by: User | None, takes_over: bool = False,
    rules: SoakRules = UNWATCHED, takeback: Takeback | None = None,
) -> Push:  # fmt: skip
    deployment = _deployment_for(policy)
    push = _begin(policy, kind, requested_by, takes_over)
    run = _Run(push, deployment, backend_of(deployment.endpoint), rules, takeback)
    try:
        with _renewed(push):
            run.step("verify", lambda: _verify(policy))
            run.step("stage", lambda: _stage_alone(run, policy))
            run.step("identify", lambda: run.backend.identify(policy))
            run.step("canary", lambda: _canary(run, policy))
        _flip(run, policy)
    except BaseException as error:
        # Whatever ended it, a fault of ours or a signal: the place is free for the next push at once.
        refused = isinstance(error, PushRefused)
        if _end(push, Push.State.FAILED, str(error) if refused else f"{type(error).__name__}: {error}"):
            _unload_refused(run, policy)
        raise
    _tidy(run)
    return push


@contextmanager
def _renewed(push: Push) -> Iterator[None]:
    """Renew the push's lease for the time of the block, however long one step takes."""
    over = threading.Event()

    def renew() -> None:
        try:
            while not over.wait(RENEW_EVERY_S):
                Push.objects.filter(pk=push.pk, state=Push.State.RUNNING).update(lease_until=Now() + LEASE)
        finally:
            connection.close()  # the thread's own

    thread = threading.Thread(target=renew, daemon=True, name=f"push {push.pk}")
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def _deployment_for(policy: PolicyVersion) -> Deployment:
    deployment = (
        Deployment.objects.select_related("endpoint", "live", "previous").filter(project=policy.project).first()
    )
    if deployment is None:
        raise PushRefused(_("the project has no endpoint yet"))
    if deployment.endpoint.backend == Endpoint.Backend.EMBEDDED:
        deployment.endpoint = ensure_endpoint(name=deployment.endpoint.name)
    return deployment


def _begin(policy: PolicyVersion, kind: Push.Kind, requested_by: User | None, takes_over: bool) -> Push:
    """Take the project's only place for a push; one whose lease ran out has died and gives it up."""
    now = timezone.now()
    dead = Q(lease_until__lt=Now()) | (Q(policy=policy) if takes_over else Q(pk=None))
    Push.objects.filter(dead, project=policy.project, state=Push.State.RUNNING).update(
        state=Push.State.FAILED, error="the process that ran it ended", finished_at=now
    )
    try:
        with transaction.atomic():
            return Push.objects.create(
                project=policy.project, policy=policy, kind=kind, requested_by=requested_by, lease_until=Now() + LEASE
            )
    except IntegrityError as error:
        raise PushRefused(_("another push of this project is running")) from error


def cut_push_leases() -> None:
    """Cut leases that last longer than any is given for: the database's clock was set back, and nobody may live."""
    longest = Now() + LEASE
    Push.objects.filter(state=Push.State.RUNNING, lease_until__gt=longest).update(lease_until=longest)


def _verify(policy: PolicyVersion) -> str:
    if policy.withheld:
        raise DataError(policy.withheld)
    if not policy.manifest_sha256:
        if not Path(policy.directory).is_dir():
            raise DataError(f"{policy.directory}: is no directory")
        return "a base model: nothing was promised of its files"
    bring_here(policy.directory)
    manifest_file = Path(policy.directory) / MANIFEST
    if not manifest_file.is_file() or file_sha256(manifest_file) != policy.manifest_sha256:
        raise DataError(f"{manifest_file}: is not the one that the version was registered with")
    manifest = verify_manifest(policy.directory)
    return f"{len(manifest['files'])} files as the trainer wrote them"


def _stage_alone(run: _Run, policy: PolicyVersion) -> str:
    """Load the version while nobody else loads one where there is room for one alone."""
    if not run.backend.replaces:
        return _stage(run, policy)
    with alone_at(run.deployment.endpoint, waits=True):
        return _stage(run, policy)


def _stage(run: _Run, policy: PolicyVersion) -> str:
    """Load the version, after the live one where the endpoint has lost it: the canary of a push asks both.

    A rollback asks nothing of what is live: that may be ill, which is why one goes back.
    """
    live, said = run.deployment.live, ""
    if live != policy and run.push.kind == Push.Kind.PUSH:
        try:
            said = f"{live.name} was loaded again" if ensure_staged(deployment=run.deployment, by_push=True) else ""
            run.live_answers = True
        except BackendError as error:
            said = f"{live.name}, which is live, does not answer and will not be compared: {error}"
    if run.live_answers and run.backend.replaces and (canary := read_canary(policy)):
        run.live_before = [_of_live(run, prompt, canary["max_new_tokens"]) for prompt in canary["prompts"]]
    run.backend.stage(policy)
    return said


def _of_live(run: _Run, prompt: CanaryPrompt, tokens: int) -> CanaryPrompt | None:
    """Return what the live version answers to a prompt, None where it does not: it may be what a push is to mend."""
    try:
        return run.backend.greedy(run.deployment.live, prompt, tokens)
    except BackendError as error:
        logger.warning("push policy=%s: %s is not compared: %s", run.push.policy.name, run.deployment.live.name, error)
        return None


def _canary(run: _Run, policy: PolicyVersion) -> str:
    canary = read_canary(policy)
    if canary is None:
        answer = run.backend.greedy(policy, {"inputs": "Hello", "tokens": [], "logprobs": []}, 1)
        if not answer["tokens"]:
            raise BackendError("the version answers nothing")
        return "no reference from a trainer; it answers"
    endpoint, live = run.deployment.endpoint, run.deployment.live
    # It was registered before it served anything to compare. Where it holds one at a time, live is gone by now.
    asked = run.live_answers and not run.backend.replaces
    if asked and can_be_measured(endpoint=endpoint, policy=live):
        calibrate_endpoint(endpoint=endpoint, policy=live)
    worst, apart = 0.0, list[float]()
    for place, prompt in enumerate(canary["prompts"]):
        answer = run.backend.greedy(policy, prompt, canary["max_new_tokens"])
        try:
            apart_here = canary_difference(answer, prompt, endpoint.canary_tolerance)
        except CanaryApart as refused:
            run.measured(refused.apart)
            raise
        run.measured(apart_here)
        worst = max(worst, apart_here)
        if run.live_answers:
            # Both are asked, and not only the trainer's record: weights that answer under two names answer alike.
            other = run.live_before[place] if run.backend.replaces else _of_live(run, prompt, canary["max_new_tokens"])
            apart += [] if other is None else [canary_distance(other, answer)]
    said = f"within {worst:.3f} of the trainer's log-probabilities ({endpoint.canary_tolerance} allowed)"
    if not apart:
        return said
    if max(apart) <= worst:
        raise BackendError(
            f"the version answers no differently from {live.name}, which is live: the old weights may be serving"
        )
    return f"{said}; {max(apart):.3f} from those of {live.name}"


@transaction.atomic
def _flip(run: _Run, policy: PolicyVersion) -> None:
    """Move the pointer: from this commit on every new prompt is answered by the version.

    A push that was taken over by another process meanwhile moves nothing, nor does one that takes back what is
    watched no more.
    """
    push, takeback = run.push, run.takeback
    if not Push.objects.select_for_update().filter(pk=push.pk, state=Push.State.RUNNING).exists():
        raise PushRefused("flip: another process has taken this push over")
    current = Deployment.objects.select_for_update().get(pk=run.deployment.pk)
    if takeback is not None and not takeback.ended_by(push):
        raise PushRefused("flip: the version is not watched any more")
    if current.live_id != policy.pk:
        end_soaks(push=push)
        if run.rules.minutes:
            begin_soak(push=push, previous=current.live, rules=run.rules)
        current.previous_id, current.live = current.live_id, policy
    current.flipped_at = timezone.now()
    current.save(update_fields=["previous", "live", "flipped_at"])
    if not _end(push, Push.State.LIVE, ""):
        raise PushRefused(TAKEN_OVER)
    record_audit(
        actor=push.requested_by, action=f"policy.{push.kind}", subject=policy.name, project_slug=policy.project.slug,
        detail={"cause": takeback.cause, **takeback.figures} if takeback else {},
    )  # fmt: skip


def _end(push: Push, state: Push.State, error: str) -> bool:
    """Write how a push ended; False where it was taken to be dead before, and another may be at its work."""
    push.state, push.error, push.finished_at = state, error, timezone.now()
    held = Push.objects.filter(pk=push.pk, state=Push.State.RUNNING)
    return bool(held.update(state=state, error=error, finished_at=push.finished_at))


def _unload_refused(run: _Run, policy: PolicyVersion) -> None:
    """Give back the memory of a version that did not go live, unless it is served or kept for a rollback."""
    deployment = Deployment.objects.get(pk=run.deployment.pk)
    if policy.pk in (deployment.live_id, deployment.previous_id):
        return
    try:
        run.backend.unstage(policy)
    except BackendError as error:
        logger.warning("push policy=%s unload: %s", policy.name, error)


def _tidy(run: _Run) -> None:
    """After the flip: the server's default follows, and what is neither live nor the rollback is unloaded.

    The version is live whatever happens here, so a failure is written down and harms nobody.
    """
    policy = run.push.policy
    try:
        run.backend.make_current(policy)
        deployment = Deployment.objects.get(pk=run.deployment.pk)
        wanted = {deployment.live_id, deployment.previous_id}
        for old in PolicyVersion.objects.filter(project=policy.project).exclude(pk__in=wanted):
            run.backend.unstage(old)
    except BackendError as error:
        logger.warning("push policy=%s tidy: %s", policy.name, error)
