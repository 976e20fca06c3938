"""Where a round's steps write: a directory for each fence, so that an old worker can never spoil a new one's."""

import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path

from django.conf import settings

from feedback_app.rounds.models import Round
from feedback_app.serving.artifacts import bring_here, mirror
from training.records import MANIFEST, DataError, Manifest, file_sha256, verify_manifest

# All that a resume reads; whole by construction, for checkpoints are renamed into place and progress is cut back.
RESUMABLE = ("config.toml", "progress.jsonl")


def round_dir(held: Round) -> Path:
    """Return the folder of all of a round's fences."""
    return Path(settings.DATA_DIR) / "rounds" / str(held.pk)


def step_dir(held: Round, name: str) -> Path:
    """Return the folder that this fence writes a step to."""
    return round_dir(held) / f"f{held.fence}" / name


def is_complete(directory: Path) -> bool:
    """Say whether a step stands there whole: its manifest is there and every file is as it says.

    What this machine lacks is brought from the artifact store, where one is configured and has it. Raises
    ArtifactError where the store fails: a step is not done again because its result cannot be reached.
    """
    if _verifies(directory):
        return True
    bring_here(directory)
    return _verifies(directory)


def _verifies(directory: Path) -> bool:
    try:
        verify_manifest(directory)
    except DataError:
        return False
    return True


def find_complete(held: Round, name: str, *, since: int = 1) -> Path | None:
    """Return the newest directory of any fence from `since` on in which the step is whole."""
    for fence in range(held.fence, since - 1, -1):
        directory = round_dir(held) / f"f{fence}" / name
        if is_complete(directory):
            return directory
    return None


def mirror_step(directory: Path) -> None:
    """Copy what a step made into the artifact store: each directory in it that has a manifest."""
    for manifest in sorted({directory / MANIFEST, *directory.glob(f"*/{MANIFEST}")}):
        if manifest.is_file():
            mirror(manifest.parent)


def take_over(held: Round, name: str, *, since: int = 1) -> tuple[Path, bool]:
    """Return (this fence's directory, whether it can be resumed), with an older fence's checkpoints linked into it.

    Linked, not moved: should the older worker live on unnoticed, it goes on with files of its own.
    """
    target = step_dir(held, name)
    if (target / "config.toml").exists():
        return target, True
    for fence in range(held.fence - 1, since - 1, -1):
        source = round_dir(held) / f"f{fence}" / name
        checkpoints = sorted((source / "checkpoints").glob("*.pt"))
        if checkpoints:
            shutil.rmtree(target, ignore_errors=True)  # begun, and ended before it had anything
            (target / "checkpoints").mkdir(parents=True)
            for checkpoint in checkpoints:
                _link(checkpoint, target / "checkpoints" / checkpoint.name)
            for file in RESUMABLE:
                shutil.copyfile(source / file, target / file)
            return target, True
    shutil.rmtree(target, ignore_errors=True)
    return target, False


def gather(held: Round, name: str, parts: Sequence[Path]) -> Path:
    """Return the one directory that holds a step's parts, linked into this fence's where fences made them apart.

    Linked, not moved, as checkpoints are; each part's manifest last, so that a part is whole or is not there.
    """
    if len({part.parent for part in parts}) == 1:
        return parts[0].parent
    target = step_dir(held, name)
    for part in parts:
        if part.parent == target:
            continue
        shutil.rmtree(target / part.name, ignore_errors=True)
        files = sorted((path for path in part.rglob("*") if path.is_file()), key=lambda path: path == part / MANIFEST)
        for path in files:
            copy = target / path.relative_to(part.parent)
            copy.parent.mkdir(parents=True, exist_ok=True)
            _link(path, copy)
    return target


def _link(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:  # a store without hard links
        shutil.copyfile(source, target)


def seal(directory: Path, stage: str) -> None:
    """Write the manifest of a directory that we filled ourselves, last and atomically, as the trainers do."""
    manifest: Manifest = {
        "stage": stage,
        "files": {
            str(path.relative_to(directory)): {"size": path.stat().st_size, "sha256": file_sha256(path)}
            for path in sorted(directory.rglob("*"))
            if path.is_file()
        },
        "parents": {},
        "data_sha256": {},
        "config_sha256": "",
        "versions": {},
    }
    fresh = directory / f".{MANIFEST}.new"
    fresh.write_text(json.dumps(manifest, indent=1, sort_keys=True))
    fresh.replace(directory / MANIFEST)
