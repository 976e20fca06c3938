"""Erasing: what a person judged, or what a prompt said, leaves the tables, and places that were taken come back."""

from collections.abc import Collection
from dataclasses import dataclass
from uuid import UUID

from django.db import connection, transaction
from django.db.models import Q, QuerySet

from feedback_app.accounts.models import User
from feedback_app.annotation.models import (
    Adjudication,
    Assignment,
    IdempotentAnswer,
    Judgment,
    Prompt,
    Response,
    Task,
)
from feedback_app.annotation.services.reservations import RELEASE
from feedback_app.annotation.services.rewrites import erase_rewrites
from feedback_app.projects.models import Project


@dataclass(frozen=True)
class Erased:
    """What is gone, by id; decided are the tasks whose adjudication went."""

    judgments: list[UUID]
    tasks: list[UUID]
    decided: list[UUID]


@transaction.atomic
def erase_annotators(*, project: Project, annotators: Collection[User]) -> Erased:
    """Delete everything that people judged, drafted or adjudicated in a project, and reopen the places it took.

    Locks the tasks in order of id. The people stay members: what they judge from now on is new.
    """
    theirs = Judgment.objects.filter(project=project, annotator__in=annotators)
    assignments = Assignment.objects.filter(task__project=project, annotator__in=annotators)
    ids = set(assignments.values_list("task_id", flat=True))
    _lock_tasks(Task.objects.filter(pk__in=ids))
    judgments = list(theirs.values_list("pk", flat=True))
    counted = list(theirs.filter(surplus=False, voided_at=None).values_list("task_id", flat=True))
    reserved = list(assignments.filter(state=Assignment.State.RESERVED).values_list("task_id", flat=True))
    decisions = Adjudication.objects.filter(task__project=project, adjudicated_by__in=annotators)
    decided = list(decisions.values_list("task_id", flat=True))
    decisions.delete()
    # A repeat asks one person once more for one judgment: with the judgment it goes whole.
    repeats = list(Task.objects.filter(repeat_of__in=judgments).values_list("pk", flat=True))
    _delete_judgments(judgments)
    erase_rewrites(project=project, writers=annotators)
    assignments.delete()
    Task.objects.filter(pk__in=repeats).delete()
    _give_back("counted", counted)
    _give_back("reserved", reserved)
    IdempotentAnswer.objects.filter(user__in=annotators).delete()
    return Erased(judgments=judgments, tasks=repeats, decided=decided)


@transaction.atomic
def erase_prompt(*, prompt: Prompt) -> Erased:
    """Delete a prompt with its responses, its tasks, and all that was judged of them. Locks the tasks."""
    tasks = _lock_tasks(Task.objects.filter(prompt=prompt))
    judgments = list(Judgment.objects.filter(task_id__in=tasks).values_list("pk", flat=True))
    decided = list(Adjudication.objects.filter(task_id__in=tasks).values_list("task_id", flat=True))
    _delete_judgments(judgments)
    Assignment.objects.filter(task_id__in=tasks).delete()
    Task.objects.filter(pk__in=tasks).delete()
    Response.objects.filter(prompt=prompt).delete()
    prompt.delete()
    return Erased(judgments=judgments, tasks=tasks, decided=decided)


def annotators_called(*, project: Project, name: str) -> QuerySet[User]:
    """Return whom a project's files call so: by user name, or an imported annotator by the file's name."""
    known = Q(username=name) | Q(kind=User.Kind.IMPORTED, display_name=name)
    of_project = Q(memberships__project=project) | Q(judgments__project=project)
    return User.objects.filter(known).filter(of_project).distinct()


def _lock_tasks(tasks: QuerySet[Task]) -> list[UUID]:
    return list(tasks.order_by("pk").select_for_update().values_list("pk", flat=True))


def _delete_judgments(judgments: list[UUID]) -> None:
    Task.objects.filter(repeat_of__in=judgments).update(repeat_of=None)
    Judgment.objects.filter(pk__in=judgments).delete()


def _give_back(counter: str, tasks: list[UUID]) -> None:
    with connection.cursor() as cursor:
        cursor.execute(
            RELEASE.format(counter=counter)
            + "FROM (SELECT id, count(*) AS places FROM unnest(%s::uuid[]) AS given (id) GROUP BY id) AS back "
            "WHERE t.id = back.id",
            [tasks],
        )
