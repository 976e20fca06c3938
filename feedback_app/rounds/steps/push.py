"""Make the round's policy a version, and the version live."""

import logging
import time
from typing import Any

from feedback_app.annotation.services import retire_untouched_tasks
from feedback_app.rounds.steps.inputs import recipe_of
from feedback_app.rounds.steps.versions import register_version
from feedback_app.rounds.supervisor import StepFailed, StepRun
from feedback_app.serving.backends import BackendError
from feedback_app.serving.models import PolicyVersion
from feedback_app.serving.selectors import deployment_of
from feedback_app.serving.services import PushRefused, push_policy, release_policy

logger = logging.getLogger(__name__)
# An endpoint that restarts, as in a deploy, is waited for: hours of training do not fail for that.
PATIENCE_S = 120.0
ASK_AGAIN_AFTER_S = 3.0


def push(run: StepRun) -> dict[str, Any]:
    """Register and push; one that is live already (a worker died just after the flip) is not pushed again."""
    held = run.held
    policy = register_version(run)
    if policy.withheld:
        release_policy(policy=policy)
    deployment = deployment_of(project=held.project)
    if deployment is None or deployment.live_id != policy.pk:
        _push_once_it_answers(run, policy)
    moved = retire_untouched_tasks(project=held.project, older_than_policy=policy)
    return {"policy": policy.name, "old_tasks_moved": moved}


def _push_once_it_answers(run: StepRun, policy: PolicyVersion) -> None:
    """Push; a refusal stands, but an endpoint that is away is asked again for a while. Raises as a heartbeat does."""
    until = time.monotonic() + PATIENCE_S
    while True:
        try:
            push_policy(
                policy=policy, requested_by=run.held.created_by, takes_over=True, rules=recipe_of(run.held).soak
            )  # fmt: skip
            return
        except PushRefused as refused:
            away = isinstance(refused.__cause__, BackendError) and refused.__cause__.away
            if not away or time.monotonic() + ASK_AGAIN_AFTER_S > until:
                raise StepFailed(str(refused)) from refused
            logger.warning("round=%s: the push is tried again: %s", run.held.pk, refused)
        time.sleep(ASK_AGAIN_AFTER_S)
        run.heartbeat()
