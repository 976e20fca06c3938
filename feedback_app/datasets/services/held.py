"""Which judgments a version holds, and which of them were voided since its rows were read."""

from collections.abc import Collection
from datetime import datetime, timedelta
from pathlib import Path
from uuid import UUID

from feedback_app.annotation.models import Judgment
from feedback_app.projects.models import Project

# The ids of the judgments in a version, 16 bytes each, in a file of its folder.
HELD_JUDGMENTS = "judgments.bin"
UUID_BYTES = 16
CHUNK = UUID_BYTES * 2**14
# A judgment is voided at a time that others see only later, and a version is dated when its rows were read long ago;
# no transaction and no reading takes a day.
UNSEEN = timedelta(days=1)


def voided_since(*, project: Project | int, moment: datetime) -> list[UUID]:
    """Return the project's judgments voided since a moment, or so shortly before that a reader then may not know."""
    voided = Judgment.objects.filter(project=project, voided_at__gte=moment - UNSEEN)
    return list(voided.values_list("pk", flat=True))


def count_held(folder: Path, judgments: Collection[UUID]) -> int:
    """Return how many of the judgments a version's folder holds."""
    wanted = {judgment.bytes for judgment in judgments}
    count = 0
    with (folder / HELD_JUDGMENTS).open("rb") as held:
        while wanted and (piece := held.read(CHUNK)):
            count += sum(piece[start : start + UUID_BYTES] in wanted for start in range(0, len(piece), UUID_BYTES))
    return count
