"""Where models made elsewhere may be taken from: a page names none but what stands below folders that are allowed."""

import os
from collections.abc import Iterator
from pathlib import Path

from django.conf import settings

# How far below a folder models are looked for, and how many are listed.
DEPTH = 4
MOST = 200


def allowed_folders() -> list[Path]:
    """Return DATA_DIR/models and the folders of MODEL_DIRS, links followed."""
    return [Path(folder).resolve() for folder in (settings.DATA_DIR / "models", *settings.MODEL_DIRS)]


def is_allowed(directory: Path) -> bool:
    """Say whether a directory, wherever its links lead, lies below a folder that models may be taken from."""
    place = Path(os.path.realpath(directory))  # unlike Path's own, it bears links in a circle
    return any(place.is_relative_to(folder) and place != folder for folder in allowed_folders())


def find_models() -> list[Path]:
    """Return the directories below the allowed folders that look like a model, by name."""
    found: dict[Path, None] = {}
    for folder in allowed_folders():
        for directory in _models_below(folder, DEPTH):
            if is_allowed(directory):
                found[directory] = None
            if len(found) >= MOST:
                break
    return sorted(found)


def _models_below(folder: Path, depth: int) -> Iterator[Path]:
    """Yield models; what lies inside one is its own matter."""
    if _is_model(folder):
        yield folder
        return
    if not depth:
        return
    try:
        inside = sorted(entry.path for entry in os.scandir(folder) if entry.is_dir() and not entry.name.startswith("."))
    except OSError:  # not there, or not ours to read
        return
    for path in inside:
        yield from _models_below(Path(path), depth - 1)


def _is_model(folder: Path) -> bool:
    inner = folder / "model" if (folder / "model" / "config.json").is_file() else folder
    return (inner / "config.json").is_file() and any(inner.glob("*.safetensors"))
