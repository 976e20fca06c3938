"""Policies made elsewhere: taken in, and put to the same evaluation and gates as a round's own.

Such a round trains no policy. It takes in the files (unless the policy is registered already) and then evaluates,
judges and pushes. Judge and prompts are those of the project's newest round that has them, for none of its models was
what this policy was optimised against; where no round has, it exports and trains a judge of its own first.
"""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from django.conf import settings
from django.db import IntegrityError, transaction
from django.db.models import Max
from django.utils.translation import gettext as _

from feedback_app.accounts.models import User
from feedback_app.accounts.services import record_audit
from feedback_app.projects.models import Project
from feedback_app.rounds.hosts import needs_of
from feedback_app.rounds.model_places import is_allowed
from feedback_app.rounds.models import Round, RoundStep
from feedback_app.rounds.recipes import parse_recipe
from feedback_app.rounds.room import LEFT_BYTES, bytes_below
from feedback_app.rounds.selectors import usable_judgments
from feedback_app.rounds.services.recipes import recipe_of
from feedback_app.rounds.services.steering import RoundRefused, as_rehearsal
from feedback_app.serving.models import PolicyVersion
from feedback_app.serving.selectors import deployment_of
from feedback_app.serving.services import ensure_base_policy
from training.records import MANIFEST, ManifestFile

Name = RoundStep.Name
JUDGED = (Name.EVALUATE, Name.GATE, Name.PUSH)


def register_elsewhere(
    *,
    project: Project,
    directory: Path,
    parents: Sequence[PolicyVersion] = (),
    note: str = "",
    evaluate: bool = True,
    created_by: User | None = None,
    by_operator: bool = False,
) -> Round:
    """Queue a round that takes in a policy made elsewhere and, unless told otherwise, puts it to the gates.

    parents: what it was made of, the main one first; none where that is not known. by_operator: the directory was named
    by somebody at the machine, not by a page, and may be anywhere.

    Raises:
        RoundRefused: says why; nothing was begun.
    """
    try:
        place = directory.resolve()
        is_directory = place.is_dir()
    except (OSError, RuntimeError) as error:  # links in a circle, or a name longer than the disk takes
        raise RoundRefused(_("%(folder)s is no directory") % {"folder": str(directory)[:300]}) from error
    if not by_operator and not is_allowed(place):
        raise RoundRefused(_("%(folder)s is not below a folder that models may be taken from") % {"folder": directory})
    if not is_directory:
        raise RoundRefused(_("%(folder)s is no directory") % {"folder": directory})
    if any(parent.project_id != project.pk for parent in parents):
        raise RoundRefused(_("a parent is a version of another project"))
    if shutil.disk_usage(settings.DATA_DIR).free < bytes_below(place) + LEFT_BYTES:
        raise RoundRefused(_("the disk has no room for a copy of it"))
    given = {
        "directory": str(place), "parents": [str(parent.pk) for parent in parents], "note": note.strip(),
        "by_operator": by_operator,
    }  # fmt: skip
    return _start(project, given, [Name.ADOPT], evaluate=evaluate, created_by=created_by)


def evaluate_elsewhere(*, policy: PolicyVersion, created_by: User | None = None) -> Round:
    """Queue a round that puts a policy made elsewhere to the gates, again or for the first time.

    Raises:
        RoundRefused: says why; nothing was begun.
    """
    if policy.source != PolicyVersion.Source.REGISTERED:
        raise RoundRefused(_("%(policy)s was not made elsewhere: its own round has judged it") % {"policy": policy})
    deployment = deployment_of(project=policy.project)
    if deployment is not None and deployment.live_id == policy.pk:
        raise RoundRefused(_("%(policy)s is live already") % {"policy": policy})
    given = {"directory": policy.directory, "parents": [], "note": ""}
    return _start(policy.project, given, [], evaluate=True, created_by=created_by, policy=policy)


def _start(
    project: Project,
    given: dict[str, Any],
    names: list[str],
    *,
    evaluate: bool,
    created_by: User | None,
    policy: PolicyVersion | None = None,
) -> Round:
    recipe = recipe_of(project=project)
    config = as_rehearsal(project=project, config=recipe.config)
    if evaluate:
        lender = _lender(project)
        if lender is None:
            _check_judgments(project, config)
        given = given | {"borrows": str(lender.pk) if lender else ""}
        names = [*names, *(() if lender else (Name.EXPORT, Name.REWARD)), *JUDGED]
    ensure_base_policy(project=project)
    needs = needs_of(project=project, recipe=parse_recipe(config, by_operator=True))
    deployment = deployment_of(project=project)
    assert deployment is not None  # ensure_base_policy made it
    try:
        with transaction.atomic():
            Project.objects.select_for_update().only("id").get(pk=project.pk)
            newest = Round.objects.filter(project=project).aggregate(newest=Max("number"))["newest"] or 0
            made = Round.objects.create(
                project=project, number=newest + 1, recipe=recipe, config=config, elsewhere=given, policy=policy,
                needs=needs, parent=deployment.live, created_by=created_by,
                simulated=config["judgments"].get("simulated", "exclude") != "exclude",
            )  # fmt: skip
            RoundStep.objects.bulk_create(
                RoundStep(round=made, name=name, position=position) for position, name in enumerate(names)
            )
            record_audit(
                actor=created_by, action="round.start", subject=f"round {made.number}", project_slug=project.slug,
                detail={"elsewhere": given["directory"]},
            )  # fmt: skip
    except IntegrityError as error:
        raise RoundRefused(_("a round of this project is active already")) from error
    return made


def _lender(project: Project) -> Round | None:
    """Return the newest round whose prompts and judge still stand; they are hashed when they are used."""
    done = RoundStep.objects.filter(round__project=project, state=RoundStep.State.DONE).exclude(directory="")
    for reward in done.filter(name=Name.REWARD).select_related("round").order_by("-round__number"):
        export = done.filter(name=Name.EXPORT, round=reward.round).first()
        if export is None or not _is_there(settings.DATA_DIR / export.directory):
            continue
        judge = settings.DATA_DIR / reward.directory / ("judge" if export.metrics.get("pairs/judge") else "model")
        if _is_there(judge):  # its weights may have been cleared away
            return reward.round
    return None


def _is_there(directory: Path) -> bool:
    """Say whether a step stands there by names and sizes; whoever uses it hashes it."""
    try:
        files: dict[str, ManifestFile] = json.loads((directory / MANIFEST).read_text(encoding="utf-8"))["files"]
        return all((directory / name).stat().st_size == file["size"] for name, file in files.items())
    except (OSError, ValueError, KeyError):
        return False


def _check_judgments(project: Project, config: dict[str, Any]) -> None:
    simulated = config["judgments"].get("simulated", "exclude")
    if not usable_judgments(project=project, simulated=simulated).exists():
        raise RoundRefused(_("there are no judgments to train a judge from, and no round has left one"))
