"""Voiding: judgments that were made wrongly stop counting, stay readable, and give their places back."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from django.core.exceptions import ValidationError
from django.db import connection, transaction
from django.db.models import Q
from django.utils import timezone
from django.utils.translation import gettext as _

from feedback_app.accounts.models import User
from feedback_app.accounts.services import record_audit
from feedback_app.annotation.models import Judgment, Task
from feedback_app.annotation.services.reservations import RELEASE
from feedback_app.projects.models import GuidelinesVersion, Project, ProtocolVersion


@dataclass(frozen=True)
class Voided:
    """What was voided; whoever keeps dataset versions marks those that held one of the judgments."""

    judgments: list[UUID]
    tasks_reopened: int


@transaction.atomic
def void_judgments(
    *,
    project: Project,
    voided_by: User | None,
    reason: str,
    judgments: list[UUID] | None = None,
    annotator: User | None = None,
    since: datetime | None = None,
    until: datetime | None = None,
    guidelines: GuidelinesVersion | None = None,
    protocol: ProtocolVersion | None = None,
) -> Voided:
    """Void the judgments that every given condition holds for, and reopen the places of those that counted.

    An annotator whose judgment was voided does not meet the task again. Locks the tasks in order of id, then the
    judgments.

    Raises:
        ValidationError: no condition or no reason is given.
    """
    chosen = _condition(judgments, annotator, since, until, guidelines, protocol)
    if not chosen:
        raise ValidationError({"judgments": [_("say which: by id, person, time, guidelines or protocol")]})
    if not reason.strip():
        raise ValidationError({"reason": [_("is required")]})
    live = Judgment.objects.filter(chosen, project=project, voided_at=None)
    ids = set(live.values_list("task_id", flat=True))
    locked = list(
        Task.objects.filter(pk__in=ids).order_by("pk").select_for_update(no_key=True).values_list("pk", flat=True)
    )
    ended = list(
        live.filter(task_id__in=locked)
        .select_for_update(no_key=True, of=("self",))
        .values_list("pk", "task_id", "surplus")
    )
    Judgment.objects.filter(pk__in=[pk for pk, _task, _surplus in ended]).update(
        voided_at=timezone.now(), voided_by=voided_by, void_reason=reason[:300]
    )
    reopened = _give_back([task for _pk, task, surplus in ended if not surplus])
    record_audit(
        actor=voided_by, action="judgment.void", subject=f"{len(ended)} judgments", project_slug=project.slug,
        detail={"reason": reason, "ids": [str(pk) for pk, _task, _surplus in ended[:1000]]},
    )  # fmt: skip
    return Voided(judgments=[pk for pk, _task, _surplus in ended], tasks_reopened=reopened)


def _condition(
    judgments: list[UUID] | None,
    annotator: User | None,
    since: datetime | None,
    until: datetime | None,
    guidelines: GuidelinesVersion | None,
    protocol: ProtocolVersion | None,
) -> Q:
    given: dict[str, Any] = {
        "pk__in": judgments, "annotator": annotator, "created_at__gte": since, "created_at__lt": until,
        "assignment__guidelines": guidelines, "assignment__protocol": protocol,
    }  # fmt: skip
    return Q(**{name: value for name, value in given.items() if value is not None})


def _give_back(tasks: list[UUID]) -> int:
    with connection.cursor() as cursor:
        cursor.execute(
            RELEASE.format(counter="counted")
            + "FROM (SELECT id, count(*) AS places FROM unnest(%s::uuid[]) AS given (id) GROUP BY id) AS back "
            "WHERE t.id = back.id",
            [tasks],
        )
        return int(cursor.rowcount)
