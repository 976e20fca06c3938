"""What waits for a reviewer, disagreements first."""

from dataclasses import dataclass
from itertools import combinations
from uuid import UUID

from django.db.models import Count, Q

from feedback_app.annotation.comparisons import pair_agreement
from feedback_app.annotation.models import Judgment, Review, Task
from feedback_app.annotation.verdict_table import KINDS
from feedback_app.projects.models import Project

# Read at once and ordered in memory: a reviewer works through dozens, and the newest are what can still be mended.
LOOKED_AT = 2000


@dataclass(frozen=True)
class WaitingTask:
    """A task with judgments that nobody has reviewed."""

    task_id: UUID
    judgments: list[Judgment]
    disagreement: float | None
    revised: bool


def waiting_reviews(*, project: Project, limit: int = 50) -> list[WaitingTask]:
    """Return the tasks that wait for a reviewer: revised ones first, then by disagreement, then the newest.

    Disagreement is the mean share of pairs on which two judgments differ; None where only one was made. Of the newest
    judgments only; a task once adjudicated waits no more.
    """
    waiting = Q(review=None) | Q(review__outcome=Review.Outcome.REVISED)
    judgments = (
        Judgment.objects.filter(
            waiting, project=project, voided_at=None, surplus=False, task__kind__in=KINDS, task__adjudication=None
        )
        .exclude(origin=Judgment.Origin.IMPORTED)
        .select_related("annotator", "review")
        .order_by("-created_at")[:LOOKED_AT]
    )
    by_task: dict[UUID, list[Judgment]] = {}
    for judgment in judgments:
        by_task.setdefault(judgment.task_id, []).append(judgment)
    all_ranks = _ranks_of(list(by_task))
    found = [
        WaitingTask(task, held, disagreement_of(all_ranks.get(task, [])), any(hasattr(j, "review") for j in held))
        for task, held in by_task.items()
    ]
    found.sort(key=lambda task: (not task.revised, -(task.disagreement or 0.0)))  # stable: the newest first within
    return found[:limit]


def _ranks_of(tasks: list[UUID]) -> dict[UUID, list[list[int | None]]]:
    """Return the rankings of every counted judgment on the tasks, reviewed ones too: disagreement is with anybody."""
    found: dict[UUID, list[list[int | None]]] = {}
    rows = Judgment.objects.filter(task_id__in=tasks, voided_at=None, surplus=False).values_list("task_id", "ranks")
    for task, ranks in rows:
        found.setdefault(task, []).append(ranks)
    return found


def disagreement_of(rankings: list[list[int | None]]) -> float | None:
    """Return the mean share of pairs on which two rankings differ, over all couples that can be compared."""
    shares = [share for a, b in combinations(rankings, 2) if (share := pair_agreement(a, b)) is not None]
    return 1 - sum(shares) / len(shares) if shares else None


def sent_back(*, project: Project, annotator_id: int) -> list[Judgment]:
    """Return an annotator's judgments that a reviewer wants looked at again, with the comment."""
    return list(
        Judgment.objects.filter(
            project=project, annotator_id=annotator_id, voided_at=None, review__outcome=Review.Outcome.SENT_BACK
        ).select_related("review", "task__prompt")
    )


def reviewed_counts(*, project: Project) -> dict[str, int]:
    """Return how many judgments stand at each outcome."""
    rows = Review.objects.filter(judgment__project=project).values_list("outcome").annotate(n=Count("id"))
    return dict.fromkeys(Review.Outcome.values, 0) | dict(rows)


def task_of(*, project: Project, task_id: UUID) -> Task | None:
    """Return a task of the project with what a reviewer reads beside it."""
    return (
        Task.objects.filter(project=project, pk=task_id)
        .select_related("prompt", "adjudication", "gold_answer")
        .prefetch_related("task_responses__response__policy", "judgments__annotator", "judgments__review")
        .first()
    )
