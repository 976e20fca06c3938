"""Take in a policy made elsewhere, and make it a version: withheld until a round's gate has let it through."""

from pathlib import Path
from typing import Any

from django.utils.translation import gettext as _
from django.utils.translation import gettext_noop

from feedback_app.rounds.leases import fenced
from feedback_app.rounds.model_places import is_allowed
from feedback_app.rounds.steps.train import train_part
from feedback_app.rounds.supervisor import StepRun
from feedback_app.serving.models import PolicyVersion
from feedback_app.serving.services import register_policy
from training.records import DataError

WITHHELD = gettext_noop("it was made elsewhere, and no round has let it through yet")


def adopt(run: StepRun) -> dict[str, Any]:
    """Copy and check the directory that the round names, and register what came of it, once."""
    held, given = run.held, run.held.elsewhere
    known = {str(policy.pk): policy for policy in PolicyVersion.objects.filter(pk__in=given["parents"])}
    parents = [known[pk] for pk in given["parents"]]
    source = Path(given["directory"])
    anywhere = given.get("by_operator", True)  # rounds of before this was written down
    if not anywhere:
        _check_links(source)
    config = {"model": given["directory"], "parents": [parent.directory for parent in parents]}
    directory, metrics = train_part(run, "adopt", "adopt", config)
    if not anywhere:
        _check_links(source)  # the copy was made in between
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


def _check_links(source: Path) -> None:
    """Refuse a model whose files are links to what no page may name: with its copy one could read any file of ours.

    A hub's cache keeps links to files beside its models, below the same folder.
    """
    for part in (source, source / "model", source / "adapter", source.parent / "adapter"):
        for path in (part, *part.iterdir()) if part.is_dir() else ():
            if not is_allowed(path):
                raise DataError(_("%(path)s is a link that leads out of the folders of models") % {"path": path})
