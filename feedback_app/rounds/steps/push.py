"""Make the round's policy a version, and the version live."""

from typing import Any

from feedback_app.annotation.services import retire_untouched_tasks
from feedback_app.rounds.leases import fenced
from feedback_app.rounds.models import RoundStep
from feedback_app.rounds.steps.inputs import made_by, metrics_of, parent_of, recipe_of
from feedback_app.rounds.supervisor import StepFailed, StepRun
from feedback_app.serving.models import PolicyVersion
from feedback_app.serving.selectors import deployment_of
from feedback_app.serving.services import PushRefused, push_policy, register_policy, release_policy


def push(run: StepRun) -> dict[str, Any]:
    """Register and push; one that is live already (a worker died just after the flip) is not pushed again."""
    held = run.held
    policy = (held.policy if held.elsewhere else None) or register_policy(
        project=held.project,
        directory=made_by(held, RoundStep.Name.PPO),
        parent=parent_of(held),
        source=PolicyVersion.Source.ROUND,
        round_id=held.pk,
        evaluation=metrics_of(held, RoundStep.Name.EVALUATE),
        registered_by=held.created_by,
    )
    if policy.withheld:
        release_policy(policy=policy)
    with fenced(round_id=held.pk, fence=held.fence) as locked:
        locked.policy = policy
        locked.save(update_fields=["policy"])
    deployment = deployment_of(project=held.project)
    if deployment is None or deployment.live_id != policy.pk:
        try:
            push_policy(policy=policy, requested_by=held.created_by, takes_over=True, rules=recipe_of(held).soak)
        except PushRefused as refused:
            raise StepFailed(str(refused)) from refused
    moved = retire_untouched_tasks(project=held.project, older_than_policy=policy)
    return {"policy": policy.name, "old_tasks_moved": moved}
