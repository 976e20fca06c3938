"""Blind tasks: a new policy's answer beside its parent's, in everybody's queue until a round's gate has decided.

To an annotator they are tasks as any other: what tells them apart never leaves the database.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from uuid import UUID

from django.db import transaction
from django.db.models import Count, QuerySet

from feedback_app.annotation.models import Judgment, NextPosition, Prompt, Task
from feedback_app.annotation.services.tasks import FREE, NewResponse, NewTask, create_tasks
from feedback_app.projects.models import Project

# Above what managers move up by hand: a whole round waits for them.
PRIORITY = 100


@dataclass(frozen=True, kw_only=True)
class BlindPair:
    """What two policies answered to one prompt."""

    prompt: Prompt
    new: NewResponse
    old: NewResponse


@transaction.atomic
def ask_blind_tasks(
    *, project: Project, round_id: UUID, pairs: Sequence[BlindPair], judgments: int, with_simulated: bool
) -> int:
    """Have so many judgments asked for of a round's pairs, spread evenly, and return how many tasks they are on.

    May be repeated: tasks are made once a prompt, those that were withdrawn open again, and a place that a simulated
    judgment took is asked for once more where such judgments do not count. The caller holds the round.
    """
    chosen = pairs[:judgments]
    each, more = divmod(judgments, len(chosen)) if chosen else (0, 0)
    wanted = {pair.prompt.pk: each + (place < more) for place, pair in enumerate(chosen)}
    there = set(_tasks_of(round_id).values_list("prompt_id", flat=True))
    create_tasks(
        project=project,
        tasks=[_new_task(round_id, pair, wanted[pair.prompt.pk]) for pair in chosen if pair.prompt.pk not in there],
    )
    _open(round_id, wanted, {} if with_simulated else _simulated(round_id))
    return len(chosen)


def _tasks_of(round_id: UUID) -> QuerySet[Task]:
    # With the kind, for the index is over these alone.
    return Task.objects.filter(kind=Task.Kind.GATE, round_id=round_id)


def _new_task(round_id: UUID, pair: BlindPair, overlap: int) -> NewTask:
    """Return a task in whose canonical order, which a tie is answered in, the new one stands first by lot."""
    lot = hashlib.sha256(f"{round_id}:{pair.prompt.pk}".encode()).digest()[0] % 2
    responses = (pair.new, pair.old) if lot else (pair.old, pair.new)
    return NewTask(
        prompt=pair.prompt, responses=responses, kind=Task.Kind.GATE, priority=PRIORITY, overlap=overlap,
        round_id=round_id,
    )  # fmt: skip


def _simulated(round_id: UUID) -> dict[UUID, int]:
    """Return how many places of each task simulated judgments hold."""
    taken = Judgment.objects.filter(
        task__in=_tasks_of(round_id), origin=Judgment.Origin.SIMULATED, surplus=False, voided_at=None
    )
    return dict(taken.values_list("task_id").annotate(n=Count("pk")).order_by())


def _open(round_id: UUID, wanted: Mapping[UUID, int], taken: Mapping[UUID, int]) -> None:
    """Give each task its places and put those with a free one into the queue; archived and reported ones stay off."""
    for task in _tasks_of(round_id).order_by("pk").select_for_update(no_key=True, of=("self",)):
        overlap = max(wanted.get(task.prompt_id, 0) + taken.get(task.pk, 0), task.reserved + task.counted)
        if task.overlap != overlap or task.state == Task.State.RETIRED:
            state = Task.State.ACTIVE if task.state == Task.State.RETIRED else task.state
            Task.objects.filter(pk=task.pk).update(overlap=overlap, state=state)
    tasks = _tasks_of(round_id)
    tasks.filter(FREE, open=False, state=Task.State.ACTIVE).update(open=True, position=NextPosition())
    tasks.filter(~FREE, open=True).update(open=False)


@transaction.atomic
def withdraw_blind_tasks(*, round_id: UUID) -> int:
    """Take a round's blind tasks off the queue for good, and return how many; who holds one may still finish it.

    Judged ones too: a judgment of theirs that is voided later asks nobody for another. Locks the tasks in order of id.
    """
    ids = list(
        _tasks_of(round_id).filter(state=Task.State.ACTIVE).order_by("pk").select_for_update(no_key=True)
        .values_list("pk", flat=True)
    )  # fmt: skip
    return Task.objects.filter(pk__in=ids).update(state=Task.State.RETIRED, open=False)
