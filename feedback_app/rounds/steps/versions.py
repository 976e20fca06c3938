"""A round's policy as a version: made once, by whichever step needs it first."""

from feedback_app.rounds.leases import fenced
from feedback_app.rounds.models import RoundStep
from feedback_app.rounds.steps.inputs import made_by, metrics_of, parent_of
from feedback_app.rounds.supervisor import StepRun
from feedback_app.serving.models import PolicyVersion
from feedback_app.serving.services import register_policy


def register_version(run: StepRun, *, withheld: str = "") -> PolicyVersion:
    """Return the round's version, registered and noted in its row; withheld says why it may not go live yet."""
    held = run.held
    if held.elsewhere and held.policy is not None:
        return held.policy
    policy = register_policy(
        project=held.project,
        directory=made_by(held, RoundStep.Name.PPO),
        parent=parent_of(held),
        source=PolicyVersion.Source.ROUND,
        round_id=held.pk,
        evaluation=metrics_of(held, RoundStep.Name.EVALUATE),
        registered_by=held.created_by,
        withheld=withheld,
    )
    with fenced(round_id=held.pk, fence=held.fence) as locked:
        locked.policy = policy
        locked.save(update_fields=["policy"])
    held.policy = policy
    return policy
