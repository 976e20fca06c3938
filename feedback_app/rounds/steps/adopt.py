"""Take in a policy made elsewhere, and make it a version: withheld until a round's gate has let it through."""

from typing import Any

from django.utils.translation import gettext_noop

from feedback_app.rounds.leases import fenced
from feedback_app.rounds.steps.train import train_part
from feedback_app.rounds.supervisor import StepRun
from feedback_app.serving.models import PolicyVersion
from feedback_app.serving.services import register_policy

WITHHELD = gettext_noop("it was made elsewhere, and no round has let it through yet")


def adopt(run: StepRun) -> dict[str, Any]:
    """Copy and check the directory that the round names, and register what came of it, once."""
    held, given = run.held, run.held.elsewhere
    known = {str(policy.pk): policy for policy in PolicyVersion.objects.filter(pk__in=given["parents"])}
    parents = [known[pk] for pk in given["parents"]]
    config = {"model": given["directory"], "parents": [parent.directory for parent in parents]}
    directory, metrics = train_part(run, "adopt", "adopt", config)
    policy = register_policy(
        project=held.project,
        directory=directory,
        parent=parents[0] if parents else None,
        also_from=parents[1:],
        source=PolicyVersion.Source.REGISTERED,
        round_id=held.pk,
        registered_by=held.created_by,
        withheld=WITHHELD,
        note=given["note"],
    )
    with fenced(round_id=held.pk, fence=held.fence) as locked:
        locked.policy = policy
        locked.save(update_fields=["policy"])
    held.policy = policy
    return {**metrics, "policy": policy.name}
