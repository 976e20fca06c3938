"""What happens to a reservation between being given and being judged: kept alive, drafted on, given up, run out."""

import json
from typing import Any
from uuid import UUID

from django.db import connection, transaction
from django.utils.translation import gettext as _

from feedback_app.accounts.models import User
from feedback_app.accounts.services import record_audit
from feedback_app.annotation.errors import NotAssigned, ReservationEnded, VerdictInvalid
from feedback_app.annotation.models import Assignment, Task
from feedback_app.annotation.splits import storable_json

# A heartbeat vouches for this much time before it at the most; the page sends one every 30 s while it is used.
HEARTBEAT_SECONDS = 60.0
DRAFT_CHARACTERS = 1_000_000

# Places come back, of reservations or of voided judgments: one that had closed its task opens it again, at the end of
# the queue, where every annotator's remembered position still lies before it.
RELEASE = """
UPDATE annotation_task t
SET {counter} = t.{counter} - back.places,
    open = t.state = 'active' AND (t.overlap IS NULL OR t.reserved + t.counted - back.places < t.overlap),
    position = CASE WHEN NOT t.open AND t.state = 'active'
                    THEN nextval('annotation_task_position') ELSE t.position END
"""


def renew(*, task_id: UUID, annotator: User) -> None:
    """Take a heartbeat: extend the reservation and count the time since the last one as active, up to a bound.

    Raises:
        NotAssigned: the annotator never had the task.
        ReservationEnded: the place is gone; a verdict is taken all the same.
    """
    _touch(task_id, annotator, "", {})


def save_draft(*, task_id: UUID, annotator: User, draft: dict[str, Any]) -> None:
    """Keep an unfinished verdict as it is, checked only when it is submitted; a heartbeat as well.

    A draft is kept even where the reservation has run out, for work is never thrown away.

    Raises:
        NotAssigned: the annotator never had the task.
        VerdictInvalid: the draft is too large or cannot be stored.
        ReservationEnded: the task is judged or given up.
    """
    values = {"draft": draft_text(draft)}
    _touch(task_id, annotator, ", draft = %(draft)s::jsonb, draft_saved_at = now()", values, late=True)


def draft_text(draft: dict[str, Any]) -> str:
    """Return a draft as JSON.

    Raises:
        VerdictInvalid: it is too large or cannot be stored.
    """
    text = json.dumps(draft, ensure_ascii=False)
    if len(text) > DRAFT_CHARACTERS or not storable_json(draft):
        raise VerdictInvalid({"draft": [_("too large, or holds a NUL or half a surrogate pair")]})
    return text


def _touch(task_id: UUID, annotator: User, also: str, values: dict[str, Any], *, late: bool = False) -> None:
    states = [Assignment.State.RESERVED, *([Assignment.State.EXPIRED] if late else [])]
    with connection.cursor() as cursor:
        cursor.execute(
            f"""
            UPDATE annotation_assignment a
            SET last_seen_at = clock_timestamp(),
                expires_at = CASE WHEN a.state = 'reserved' THEN clock_timestamp()
                    + make_interval(secs => p.reservation_seconds) ELSE a.expires_at END,
                active_seconds = a.active_seconds
                    + least(%(bound)s, greatest(0, extract(epoch FROM clock_timestamp() - a.last_seen_at)))
                {also}
            FROM annotation_task t
            JOIN projects_project p ON p.id = t.project_id
            WHERE t.id = a.task_id AND a.task_id = %(task)s AND a.annotator_id = %(annotator)s
              AND a.state = ANY(%(states)s) AND {MEMBER}
            """,
            {"task": task_id, "annotator": annotator.pk, "states": [str(state) for state in states],
             "bound": HEARTBEAT_SECONDS, **values},
        )  # fmt: skip
        if cursor.rowcount:
            return
    get_assignment(task_id=task_id, annotator=annotator)
    raise ReservationEnded({"assignment": [_("This reservation has ended; a verdict is stored all the same.")]})


# Who left a project keeps no way into it; an administrator needs no membership.
MEMBER = """(
    EXISTS (SELECT FROM projects_member m WHERE m.project_id = t.project_id AND m.user_id = a.annotator_id)
    OR EXISTS (SELECT FROM accounts_user u WHERE u.id = a.annotator_id AND u.is_superuser))"""


def get_assignment(*, task_id: UUID, annotator: User) -> Assignment:
    """Return the annotator's assignment of a task; raises NotAssigned where there is none, or no membership."""
    found = Assignment.objects.select_related("task__project").filter(task_id=task_id, annotator=annotator).first()
    if found is None or not (annotator.is_superuser or found.task.project.members.filter(user=annotator).exists()):
        raise NotAssigned({"task": [_("No such task of yours.")]})
    return found


def skip(*, task_id: UUID, annotator: User, reason: str = "") -> None:
    """Give a task back, never to be given to this annotator again; raises as renew does. Repeating it is harmless."""
    _give_up(task_id, annotator, Assignment.State.SKIPPED, reason)


@transaction.atomic
def report(*, task_id: UUID, annotator: User, reason: str) -> None:
    """Give a task back as broken and take it off the queue until a manager restores it; raises as renew does."""
    task = _give_up(task_id, annotator, Assignment.State.REPORTED, reason)
    Task.objects.filter(pk=task.pk).update(state=Task.State.REPORTED, open=False)
    record_audit(
        actor=annotator, action="task.report", subject=str(task.pk), project_slug=task.project.slug,
        detail={"reason": reason},
    )  # fmt: skip


@transaction.atomic
def _give_up(task_id: UUID, annotator: User, state: Assignment.State, reason: str) -> Task:
    get_assignment(task_id=task_id, annotator=annotator)
    task = Task.objects.select_for_update(no_key=True, of=("self",)).select_related("project").get(pk=task_id)
    assignment = Assignment.objects.select_for_update(no_key=True).get(task_id=task_id, annotator=annotator)
    if assignment.state == Assignment.State.SUBMITTED:
        raise ReservationEnded({"assignment": [_("This task is judged already.")]})
    if assignment.state == Assignment.State.RESERVED:
        _release(task)
    assignment.state, assignment.reason = state, reason[:300]
    assignment.save(update_fields=["state", "reason"])
    return task


def _release(task: Task) -> None:
    with connection.cursor() as cursor:
        cursor.execute(
            RELEASE.format(counter="reserved") + "FROM (SELECT 1 AS places) AS back WHERE t.id = %s", [task.pk]
        )


def expire_reservations(*, project_slug: str = "", limit: int = 1000) -> int:
    """Give back the places of reservations that ran out, and return how many; tasks locked by others wait a round.

    Of one project where its slug is given. Drafts stay. Locks the tasks in order of id, then their assignments, then
    the projects' totals in order of id.
    """
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute(_DUE, {"slug": project_slug, "limit": limit})
        tasks = [row[0] for row in cursor.fetchall()]
        if not tasks:
            return 0
        cursor.execute(_EXPIRE, {"tasks": tasks})
        return int(cursor.fetchone()[0])


_DUE = """
SELECT t.id
FROM annotation_task t
WHERE t.id IN (
    SELECT a.task_id FROM annotation_assignment a JOIN annotation_task own ON own.id = a.task_id
        JOIN projects_project p ON p.id = own.project_id
    WHERE a.state = 'reserved' AND a.expires_at <= now() AND %(slug)s IN ('', p.slug)
    ORDER BY a.expires_at LIMIT %(limit)s
)
ORDER BY t.id FOR NO KEY UPDATE SKIP LOCKED
"""
_EXPIRE = f"""
WITH ended AS (
    UPDATE annotation_assignment a SET state = 'expired'
    WHERE a.task_id = ANY(%(tasks)s) AND a.state = 'reserved' AND a.expires_at <= now()
    RETURNING a.task_id
), back AS (
    SELECT task_id, count(*) AS places FROM ended GROUP BY task_id
), released AS (
    {RELEASE.format(counter="reserved")} FROM back WHERE t.id = back.task_id
), totals AS (
    INSERT INTO annotation_expiry_total AS kept (project_id, total)
    SELECT t.project_id, sum(back.places) FROM back JOIN annotation_task t ON t.id = back.task_id
    GROUP BY t.project_id ORDER BY t.project_id
    ON CONFLICT (project_id) DO UPDATE SET total = kept.total + excluded.total
)
SELECT coalesce(sum(places), 0) FROM back
"""
