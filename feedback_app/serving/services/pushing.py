"""Going live: verify, stage beside the old one, read back, canary, flip, and keep the old one for a rollback.

Until the flip nothing that anybody is served has changed, so a push that fails anywhere leaves the old policy serving.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from django.db import IntegrityError, transaction
from django.db.models import Q
from django.utils import timezone

from feedback_app.accounts.models import User
from feedback_app.accounts.services import record_audit
from feedback_app.projects.models import Project
from feedback_app.serving.backends import Backend, BackendError, backend_of
from feedback_app.serving.backends.base import read_canary
from feedback_app.serving.models import Deployment, Endpoint, PolicyVersion, Push
from feedback_app.serving.services.policies import ensure_endpoint
from training.records import CanaryPrompt, DataError, verify_manifest

logger = logging.getLogger(__name__)
# A push that died is taken to be dead after this long; the longest step is a container's restart.
LEASE = timedelta(minutes=20)
# Of the canary's tokens, how many must be the very ones: in bfloat16 two near-equal ones may change places once.
SAME_TOKENS = 0.75


class PushRefused(RuntimeError):
    """The version did not go live; the old one is serving. The message says at which step and why."""


@dataclass
class _Run:
    """A push under way: what it needs, and its log."""

    push: Push
    deployment: Deployment
    backend: Backend

    def step(self, name: str, act: Callable[[], str | None]) -> None:
        """Do one step and write it to the push's row; an error is written too, and ends the push."""
        began = timezone.now()
        try:
            said = act() or ""
        except (BackendError, DataError) as error:
            self._write(name, began.isoformat(), False, str(error))
            raise PushRefused(f"{name}: {error}") from error
        self._write(name, began.isoformat(), True, said)

    def _write(self, name: str, at: str, ok: bool, said: str) -> None:
        seconds = (timezone.now() - datetime.fromisoformat(at)).total_seconds()
        self.push.steps.append({"name": name, "at": at, "seconds": round(seconds, 2), "ok": ok, "said": said})
        self.push.lease_until = timezone.now() + LEASE
        self.push.save(update_fields=["steps", "lease_until"])
        logger.info("push policy=%s step=%s ok=%s %s", self.push.policy.name, name, ok, said)


def push_policy(*, policy: PolicyVersion, requested_by: User | None = None, takes_over: bool = False) -> Push:
    """Make a version live.

    takes_over: the caller alone pushes this version, so a push of it that has not ended belongs to a dead process.

    Raises:
        PushRefused: it did not go live, and why; the pointer is where it was.
    """
    return _push(policy=policy, kind=Push.Kind.PUSH, requested_by=requested_by, takes_over=takes_over)


def roll_back(*, project: Project, requested_by: User | None = None) -> Push:
    """Make the version that was live before live again; raises PushRefused where there is none."""
    deployment = Deployment.objects.select_related("previous").filter(project=project).first()
    if deployment is None or deployment.previous is None:
        raise PushRefused("there is no version to go back to")
    return _push(policy=deployment.previous, kind=Push.Kind.ROLLBACK, requested_by=requested_by)


def _push(*, policy: PolicyVersion, kind: Push.Kind, requested_by: User | None, takes_over: bool = False) -> Push:
    deployment = _deployment_for(policy)
    push = _begin(policy, kind, requested_by, takes_over)
    run = _Run(push, deployment, backend_of(deployment.endpoint))
    try:
        run.step("verify", lambda: _verify(policy))
        run.step("stage", lambda: run.backend.stage(policy))
        run.step("identify", lambda: run.backend.identify(policy))
        run.step("canary", lambda: _canary(run, policy))
        _flip(push, deployment, policy)
    except PushRefused as refused:
        _end(push, Push.State.FAILED, str(refused))
        raise
    _tidy(run, policy)
    return push


def _deployment_for(policy: PolicyVersion) -> Deployment:
    deployment = (
        Deployment.objects.select_related("endpoint", "live", "previous").filter(project=policy.project).first()
    )
    if deployment is None:
        raise PushRefused("the project has no endpoint yet")
    if deployment.endpoint.backend == Endpoint.Backend.EMBEDDED:
        deployment.endpoint = ensure_endpoint(name=deployment.endpoint.name)
    return deployment


def _begin(policy: PolicyVersion, kind: Push.Kind, requested_by: User | None, takes_over: bool) -> Push:
    """Take the project's only place for a push; one whose lease ran out has died and gives it up."""
    now = timezone.now()
    dead = Q(lease_until__lt=now) | (Q(policy=policy) if takes_over else Q(pk=None))
    Push.objects.filter(dead, project=policy.project, state=Push.State.RUNNING).update(
        state=Push.State.FAILED, error="the process that ran it ended", finished_at=now
    )
    try:
        with transaction.atomic():
            return Push.objects.create(
                project=policy.project, policy=policy, kind=kind, requested_by=requested_by, lease_until=now + LEASE
            )
    except IntegrityError as error:
        raise PushRefused("another push of this project is running") from error


def _verify(policy: PolicyVersion) -> str:
    if not policy.manifest_sha256:
        if not Path(policy.directory).is_dir():
            raise DataError(f"{policy.directory}: is no directory")
        return "a base model: nothing was promised of its files"
    manifest = verify_manifest(policy.directory)
    return f"{len(manifest['files'])} files as the trainer wrote them"


def _canary(run: _Run, policy: PolicyVersion) -> str:
    canary = read_canary(policy)
    if canary is None:
        answer = run.backend.greedy(policy, {"inputs": "Hello", "tokens": [], "logprobs": []}, 1)
        if not answer["tokens"]:
            raise BackendError("the version answers nothing")
        return "no reference from a trainer; it answers"
    tolerance = run.deployment.endpoint.canary_tolerance
    worst, old_worst = 0.0, 0.0
    live = run.deployment.live
    for prompt in canary["prompts"]:
        worst = max(worst, _difference(run.backend.greedy(policy, prompt, canary["max_new_tokens"]), prompt, tolerance))
        if live != policy:
            old = run.backend.greedy(live, prompt, canary["max_new_tokens"])
            old_worst = max(old_worst, _distance(old, prompt))
    if live != policy and old_worst <= worst:
        raise BackendError("the version answers no differently from the one before it: the old weights may be serving")
    return f"within {worst:.3f} of the trainer's log-probabilities ({tolerance} allowed); the old one {old_worst:.3f}"


def _difference(answer: CanaryPrompt, expected: CanaryPrompt, tolerance: float) -> float:
    same = sum(a == b for a, b in zip(answer["tokens"], expected["tokens"], strict=False))
    agreed = _agreed(answer, expected)
    worst = max((abs(a - b) for a, b in agreed), default=0.0)
    if worst > tolerance:
        raise BackendError(f"a token's log-probability is {worst:.3f} from the trainer's; {tolerance} is allowed")
    if not agreed and same < SAME_TOKENS * len(expected["tokens"]):
        raise BackendError("the first token already is another than the trainer's")
    return worst


def _agreed(answer: CanaryPrompt, expected: CanaryPrompt) -> list[tuple[float, float]]:
    """Return both log-probabilities of the tokens up to the first that differs: after it they answer other contexts."""
    pairs = []
    for mine, theirs, a, b in zip(
        answer["tokens"], expected["tokens"], answer["logprobs"], expected["logprobs"], strict=False
    ):
        if mine != theirs:
            break
        pairs.append((a, b))
    return pairs


def _distance(answer: CanaryPrompt, expected: CanaryPrompt) -> float:
    """Return how far an answer is: infinite once a token differs, else the largest difference."""
    if answer["tokens"] != expected["tokens"]:
        return float("inf")
    return max((abs(a - b) for a, b in _agreed(answer, expected)), default=0.0)


@transaction.atomic
def _flip(push: Push, deployment: Deployment, policy: PolicyVersion) -> None:
    """Move the pointer: from this commit on every new prompt is answered by the version."""
    current = Deployment.objects.select_for_update().get(pk=deployment.pk)
    if current.live_id != policy.pk:
        current.previous_id, current.live = current.live_id, policy
    current.flipped_at = timezone.now()
    current.save(update_fields=["previous", "live", "flipped_at"])
    _end(push, Push.State.LIVE, "")
    record_audit(
        actor=push.requested_by, action=f"policy.{push.kind}", subject=policy.name, project_slug=policy.project.slug
    )


def _end(push: Push, state: Push.State, error: str) -> None:
    push.state, push.error, push.finished_at = state, error, timezone.now()
    push.save(update_fields=["state", "error", "finished_at"])


def _tidy(run: _Run, policy: PolicyVersion) -> None:
    """After the flip: the server's default follows, and what is neither live nor the rollback is unloaded.

    The version is live whatever happens here, so a failure is written down and harms nobody.
    """
    try:
        run.backend.make_current(policy)
        deployment = Deployment.objects.get(pk=run.deployment.pk)
        wanted = {deployment.live_id, deployment.previous_id}
        for old in PolicyVersion.objects.filter(project=policy.project).exclude(pk__in=wanted):
            run.backend.unstage(old)
    except BackendError as error:
        logger.warning("push policy=%s tidy: %s", policy.name, error)
