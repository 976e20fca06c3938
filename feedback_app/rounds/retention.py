"""What rounds leave on disk is cleared away by rule: checkpoints first, then weights that nobody needs any more.

Manifests, metrics, samples and logs stay: what made what can be followed, hash by hash, after the weights are gone.
"""

import logging
import os
import shutil
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from uuid import UUID

from django.conf import settings
from django.core.exceptions import ObjectDoesNotExist
from django.db import transaction
from django.db.models import Q
from django.utils.translation import gettext_noop

from feedback_app.accounts.models import User
from feedback_app.accounts.services import record_audit
from feedback_app.leases import database_now
from feedback_app.projects.models import Project
from feedback_app.rounds.models import Round, RoundStep
from feedback_app.rounds.workspace import round_dir
from feedback_app.serving.artifacts import ArtifactError, is_mirrored
from feedback_app.serving.models import Deployment, PolicyVersion, Push, Soak

logger = logging.getLogger(__name__)
State = Round.State
CLEARING = gettext_noop("its weights are being cleared away to make room")
CLEARED = gettext_noop("its weights were cleared away to make room")
# A round that failed or was cancelled may be gone on with: from its checkpoint for so long, then from the step's start.
RETRIED_WITHIN = timedelta(days=7)
THROUGH = (State.SUCCEEDED, State.REJECTED)
WEIGHTS = ("*.safetensors", "*.bin", "*.pt")


@dataclass(frozen=True, kw_only=True)
class Removal:
    """What the rule takes away, and why; policy is the version whose weights go with it."""

    held: Round
    paths: tuple[Path, ...]
    why: str
    policy: PolicyVersion | None = None

    @property
    def bytes(self) -> int:
        """Return what is freed: a file that is linked elsewhere too frees nothing."""
        return sum(map(_bytes_of, self.paths))


@dataclass(frozen=True, kw_only=True)
class Sweep:
    """What was taken away, and what could not be, or not all of it: the next sweep tries that again."""

    taken: list[Removal]
    failed: list[tuple[Removal, Exception]]


class NotRemoved(OSError):
    """Files that stand yet, and why."""


def plan_removals(*, now: datetime | None = None) -> Iterator[Removal]:
    """Yield what the rule would take away now: of every project checkpoints first, then weights."""
    now = now or database_now()
    finished = Round.objects.exclude(state__in=Round.ACTIVE).select_related("project", "policy").order_by("created_at")
    rounds = [held for held in finished if round_dir(held).is_dir()]
    for held in rounds:
        if held.state in THROUGH or (held.finished_at or now) < now - RETRIED_WITHIN:
            if found := tuple(path for path in sorted(round_dir(held).glob("**/checkpoints")) if _holds_any(path)):
                yield Removal(held=held, paths=found, why="checkpoints of a finished round")
            if found := tuple(_weights(_superseded(held))):
                yield Removal(held=held, paths=found, why="left by a worker that another took over from")
    for project in Project.objects.filter(rounds__in=rounds).distinct():
        yield from _old_weights(project, [held for held in rounds if held.project_id == project.pk])


def _old_weights(project: Project, rounds: Iterable[Round]) -> Iterator[Removal]:
    kept, newest = needed_versions(project=project), _newest_rounds(project)
    made = {version.round_id: version for version in PolicyVersion.objects.filter(project=project)}
    for held in rounds:
        policy = made.get(held.pk)
        if held.pk in newest or (policy is not None and policy.pk in kept):
            continue
        if found := tuple(_weights([round_dir(held)])):
            why = "beyond the versions that are kept" if policy else "no version came of it, and newer rounds are kept"
            yield Removal(held=held, paths=found, why=why, policy=policy)


def _superseded(held: Round) -> list[Path]:
    """Return the fences of a round in which no step stands."""
    used = {
        (Path(settings.DATA_DIR) / directory).relative_to(round_dir(held)).parts[0]
        for directory in RoundStep.objects.filter(round=held).exclude(directory="").values_list("directory", flat=True)
        if (Path(settings.DATA_DIR) / directory).is_relative_to(round_dir(held))
    }
    return [path for path in sorted(round_dir(held).glob("f*")) if path.is_dir() and path.name not in used]


def _weights(folders: Iterable[Path]) -> list[Path]:
    return [
        path
        for folder in folders
        for pattern in WEIGHTS
        for path in sorted(folder.rglob(pattern))
        if path.is_file() and "checkpoints" not in path.parts
    ]


def _newest_rounds(project: Project) -> set[object]:
    """Return the rounds whose weights stay whatever came of them: those that ended last, that run, or that lend."""
    ended = Round.objects.filter(project=project).exclude(state__in=Round.ACTIVE).order_by("-number")
    active = Round.objects.filter(project=project, state__in=Round.ACTIVE)
    lent = {UUID(borrowed) for held in active if (borrowed := held.elsewhere.get("borrows"))}
    newest = ended.values_list("pk", flat=True)[: settings.KEEP_VERSIONS]
    return {*newest, *(held.pk for held in active), *lent}


def needed_versions(*, project: Project) -> set[object]:
    """Return the versions whose weights stay: pinned, the newest, and all that serving or a round may ask for.

    That is the live one, its parents, the one before it (a rollback's), what is being pushed or watched, and what a
    round that has not ended starts from or has made.
    """
    versions = PolicyVersion.objects.filter(project=project)
    needed: set[object] = set(
        versions.filter(Q(pinned=True) | Q(source=PolicyVersion.Source.BASE)).values_list("pk", flat=True)
    )
    needed |= set(versions.order_by("-number").values_list("pk", flat=True)[: settings.KEEP_VERSIONS])
    for deployment in Deployment.objects.filter(Q(live__project=project) | Q(previous__project=project)):
        live = deployment.live
        needed |= {live.pk, live.parent_id, deployment.previous_id, *live.also_from.values_list("pk", flat=True)}
    needed |= set(Push.objects.filter(project=project, state=Push.State.RUNNING).values_list("policy", flat=True))
    for pair in Soak.objects.filter(project=project, state=Soak.State.WATCHING).values_list("policy", "previous"):
        needed |= set(pair)
    for ends in Round.objects.filter(project=project, state__in=Round.ACTIVE).values_list("parent", "policy"):
        needed |= set(ends)
    return needed - {None}


def clear_away(*, actor: User | None = None) -> Sweep:
    """Take away what the rule says, each with its entry in the audit trail; one that fails does not keep the others."""
    sweep = Sweep(taken=[], failed=[])
    for removal in plan_removals():
        try:
            if _remove(removal, actor):
                sweep.taken.append(removal)
        except ObjectDoesNotExist:  # the round or the version was erased since
            continue
        except (OSError, ArtifactError) as error:
            logger.warning("round=%s not cleared, tried again next time: %s: %s", removal.held.pk, removal.why, error)
            sweep.failed.append((removal, error))
    _tell_cleared()
    return sweep


def _tell_cleared() -> None:
    """Say of versions whose last weights are gone that they are, those of a sweep that was killed among them."""
    clearing = PolicyVersion.objects.filter(withheld=CLEARING)
    for held in Round.objects.filter(pk__in=clearing.values("round_id")):
        if not _weights([round_dir(held)]):
            clearing.filter(round_id=held.pk).update(withheld=CLEARED)


def _remove(removal: Removal, actor: User | None) -> bool:
    """Remove what the rule still says to remove; False where it does not any more.

    A version is known to be withheld before its first file goes: killed at any place, what stands is found again, and
    nothing that lacks a file can go live. The round is locked meanwhile, or a retry would read what goes.

    Raises:
        NotRemoved: some of it stands yet; what went is in the audit trail.
    """
    withheld = "" if removal.policy is None else _withhold(removal.policy)
    if withheld is None:
        return False
    with transaction.atomic():
        held = Round.objects.select_for_update().select_related("project").get(pk=removal.held.pk)
        if held.state in Round.ACTIVE:  # it was retried since
            PolicyVersion.objects.filter(round_id=held.pk, withheld=CLEARING).update(withheld=withheld)
            return False
        before = removal.bytes
        failures = {path: found for path in removal.paths if (found := _delete(path))}
        freed, gone = before - removal.bytes, len(removal.paths) - len(failures)
        if freed or gone:
            record_audit(
                actor=actor, action="retention.clear", subject=removal.policy.name if removal.policy else str(held),
                project_slug=held.project.slug, detail={"why": removal.why, "bytes": freed, "files": gone},
            )  # fmt: skip
    if failures:
        raise NotRemoved("; ".join(str(failure) for found in failures.values() for failure in found))
    logger.info("round=%s cleared: %s, %s bytes", held.pk, removal.why, freed)
    return True


def _delete(path: Path) -> list[BaseException]:
    """Remove a file, or a folder as far as it can be; return what stood in the way."""
    failures: list[BaseException] = []
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, onerror=lambda _, __, raised: failures.append(raised[1]))
    else:
        try:
            path.unlink()
        except OSError as error:
            failures.append(error)
    return [failure for failure in failures if not isinstance(failure, FileNotFoundError)]


def _bytes_of(path: Path) -> int:
    """Return what a file or folder takes that nothing else links to.

    What goes meanwhile takes nothing, and what may not be looked at is not known: removing it says why.
    """
    inside = (Path(folder) / name for folder, _, names in os.walk(path) for name in names)
    total = 0
    for file in inside if path.is_dir() else [path]:
        try:
            found = file.stat()
        except (FileNotFoundError, PermissionError):
            continue
        total += found.st_size if found.st_nlink == 1 else 0
    return total


def _holds_any(folder: Path) -> bool:
    try:
        return any(folder.iterdir())
    except FileNotFoundError:  # gone since it was listed
        return False
    except PermissionError:  # removing it says so, and does not end the plan
        return True


def _withhold(policy: PolicyVersion) -> str | None:
    """Keep a version from going live any more; what a store holds can still be fetched, and may.

    Returns why it was withheld before, or None where it is needed by now and stays as it is.
    """
    mirrored = is_mirrored(policy.directory)  # asked over the network, so before the row is locked
    with transaction.atomic():
        locked = PolicyVersion.objects.select_for_update(of=("self",)).select_related("project").get(pk=policy.pk)
        if locked.pk in needed_versions(project=locked.project):
            return None
        before = locked.withheld
        if not mirrored:
            locked.withheld = CLEARING
            locked.save(update_fields=["withheld"])
        return before


def pin_policy(*, policy: PolicyVersion, pinned: bool, actor: User | None) -> None:
    """Keep a version's weights whatever the rule says, or leave them to the rule again."""
    with transaction.atomic():
        if PolicyVersion.objects.filter(pk=policy.pk).exclude(pinned=pinned).update(pinned=pinned):
            record_audit(
                actor=actor, action="policy.pin" if pinned else "policy.unpin", subject=policy.name,
                project_slug=policy.project.slug,
            )  # fmt: skip
