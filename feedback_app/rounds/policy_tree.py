"""A project's policy versions as a tree: newest first, each in a lane, with the lines that lead to its parent."""

from collections.abc import Sequence
from dataclasses import dataclass

from django.db.models import Prefetch, QuerySet

from feedback_app.projects.models import Project
from feedback_app.rounds.figures import Figure
from feedback_app.rounds.models import Round
from feedback_app.rounds.reports import evaluation_figures
from feedback_app.serving.models import PolicyVersion
from feedback_app.serving.selectors import policies_of

LANE = 18


@dataclass(frozen=True, kw_only=True)
class Row:
    """One version: the paths of its row's lines (of height 2, the dot in the middle), and what made it."""

    policy: PolicyVersion
    lane: int
    paths: list[str]
    made_by: Round | None
    wins: Figure | None
    kl: float | None

    @property
    def x(self) -> int:
        return LANE * self.lane + LANE // 2


def versions_with_origin(*, project: Project) -> QuerySet[PolicyVersion]:
    """Return a project's versions, newest first, each with the round and dataset version that made it."""
    rounds = Round.objects.select_related("dataset", "recipe")
    return policies_of(project=project).prefetch_related(Prefetch("made_by", queryset=rounds))


def tree_of(policies: Sequence[PolicyVersion]) -> tuple[list[Row], int]:
    """Return (rows, width of the drawing) of versions, newest first; a parent is always older than its children."""
    waiting: list[object | None] = []  # by lane: the parent that its line leads down to
    rows = []
    for policy in policies:
        mine = [lane for lane, parent in enumerate(waiting) if parent == policy.pk]
        lane = mine[0] if mine else _free(waiting)
        passing = [other for other, parent in enumerate(waiting) if parent is not None and other not in mine]
        paths = [f"M{_x(other)} 0V2" for other in passing]
        paths += [_joining(other, lane) for other in mine]
        for other in mine:
            waiting[other] = None
        if policy.parent_id is not None:
            waiting[lane] = policy.parent_id
            paths.append(f"M{_x(lane)} 1V2")
        rows.append(_row(policy, lane, paths))
    return rows, LANE * max(1, len(waiting))


def _free(waiting: list[object | None]) -> int:
    """Return the first lane without a line, a new one where all have theirs."""
    for lane, parent in enumerate(waiting):
        if parent is None:
            return lane
    waiting.append(None)
    return len(waiting) - 1


def _x(lane: int) -> int:
    return LANE * lane + LANE // 2


def _joining(child: int, parent: int) -> str:
    """Return the path that comes from above in a child's lane and ends at the parent's dot."""
    if child == parent:
        return f"M{_x(child)} 0V1"
    return f"M{_x(child)} 0C{_x(child)} 0.8 {_x(child)} 1 {_x(parent)} 1"


def _row(policy: PolicyVersion, lane: int, paths: list[str]) -> Row:
    figures = evaluation_figures(policy.evaluation)
    return Row(
        policy=policy,
        lane=lane,
        paths=paths,
        made_by=next(iter(policy.made_by.all()), None),
        wins=next((figure for figure in figures if figure.half and "win_rate/parent" in policy.evaluation), None),
        kl=policy.evaluation.get("kl/parent"),
    )
