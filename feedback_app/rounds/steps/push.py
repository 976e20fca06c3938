"""Make the round's policy a version, and the version live."""

from typing import Any

from feedback_app.annotation.services import retire_untouched_tasks
from feedback_app.rounds.steps.inputs import recipe_of
from feedback_app.rounds.steps.versions import register_version
from feedback_app.rounds.supervisor import StepFailed, StepRun
from feedback_app.serving.selectors import deployment_of
from feedback_app.serving.services import PushRefused, push_policy, release_policy


def push(run: StepRun) -> dict[str, Any]:
    """Register and push; one that is live already (a worker died just after the flip) is not pushed again."""
    held = run.held
    policy = register_version(run)
    if policy.withheld:
        release_policy(policy=policy)
    deployment = deployment_of(project=held.project)
    if deployment is None or deployment.live_id != policy.pk:
        try:
            push_policy(policy=policy, requested_by=held.created_by, takes_over=True, rules=recipe_of(held).soak)
        except PushRefused as refused:
            raise StepFailed(str(refused)) from refused
    moved = retire_untouched_tasks(project=held.project, older_than_policy=policy)
    return {"policy": policy.name, "old_tasks_moved": moved}
