"""Disk for a round: asked for before it starts, and watched while it runs, for a full disk ends more than the round."""

import shutil
from pathlib import Path

from django.conf import settings
from django.utils.translation import gettext as _
from django.utils.translation import gettext_noop

from feedback_app.projects.models import Project
from feedback_app.rounds.estimates import estimate_round
from feedback_app.rounds.models import Round
from feedback_app.rounds.recipes import Recipe
from feedback_app.rounds.workspace import round_dir
from feedback_app.sentences import SaidError

GIB = 2**30
# What a round of a small model takes: asked for where the model's weights are not here to be counted.
USUAL_BYTES = 6 * GIB
# Left to the database and the logs beside a round.
LEFT_BYTES = GIB // 2


class NoRoom(SaidError):
    """A round does not fit on the disk, or takes more of it than its recipe allows; the message says how much."""


def bytes_needed(*, project: Project, recipe: Recipe) -> float:
    """Return the bytes of disk that a round by the recipe takes."""
    estimate = estimate_round(project=project, recipe=recipe)
    return estimate.disk if estimate.shape is not None else USUAL_BYTES


def check_room(*, project: Project, recipe: Recipe) -> None:
    """Raise NoRoom where a round by the recipe would not fit."""
    needed = bytes_needed(project=project, recipe=recipe)
    if recipe.max_disk_gb and needed > recipe.max_disk_gb * GIB:
        raise NoRoom(
            _("the recipe allows %(allowed)g GiB of disk, and a round by it takes about %(needed).1f")
            % {"allowed": recipe.max_disk_gb, "needed": needed / GIB}
        )
    free = shutil.disk_usage(settings.DATA_DIR).free
    if free < needed + LEFT_BYTES:
        raise NoRoom(
            _("%(free).1f GiB are free in %(folder)s and %(needed).1f are needed")
            % {"free": free / GIB, "folder": settings.DATA_DIR, "needed": (needed + LEFT_BYTES) / GIB}
        )


def check_limits(held: Round) -> None:
    """Raise NoRoom where a round that runs has taken more than its recipe allows, or little is left for others."""
    allowed = held.config.get("max_disk_gb", 0.0) * GIB
    if allowed and (taken := bytes_below(round_dir(held))) > allowed:
        raise NoRoom(
            gettext_noop(
                "the round's disk limit (max_disk_gb) has passed: %(taken)s GiB are taken, %(allowed)s are allowed"
            ),
            taken=f"{taken / GIB:.1f}", allowed=f"{allowed / GIB:g}",
        )  # fmt: skip
    free = shutil.disk_usage(settings.DATA_DIR).free
    if free < LEFT_BYTES / 2:
        words = gettext_noop("only %(free)s MiB are free in %(folder)s: the round stops before it is full")
        raise NoRoom(words, free=f"{free / 2**20:.0f}", folder=str(settings.DATA_DIR))


def bytes_below(folder: Path) -> int:
    """Return the bytes of all files below a folder, one that is linked twice counted once."""
    seen: dict[tuple[int, int], int] = {}
    for path in folder.rglob("*"):
        try:
            found = path.stat()
        except OSError:  # a trainer renames and removes as it goes; links may lead nowhere, or in a circle
            continue
        if path.is_file():
            seen[found.st_dev, found.st_ino] = found.st_size
    return sum(seen.values())
