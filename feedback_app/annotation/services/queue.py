"""The next task for an annotator: one short transaction that costs the same with a thousand tasks and a million."""

import random
from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from django.db import transaction
from django.utils.translation import gettext as _

from feedback_app.accounts.models import User
from feedback_app.annotation.errors import LimitReached, MemberPaused, NotAssigned
from feedback_app.annotation.models import Task
from feedback_app.annotation.services.repeats import make_repeat
from feedback_app.annotation.services.reservations import expire_reservations
from feedback_app.prepared import fetch_prepared
from feedback_app.projects.models import Project

# A page judges one task and prefetches another.
LIVE_AT_MOST = 2
# An annotator's position is written once it is this far behind: passing the rows between costs less than writing.
POSITION_SLACK = 16
ABOVE_ALL = 32768


@dataclass(frozen=True, kw_only=True)
class ReservedTask:
    """What an annotator is shown: no model names, nothing from which they follow, responses in the shown order."""

    id: UUID
    assignment_id: UUID
    expires_at: datetime
    messages: list[dict[str, str]]
    responses: list[dict[str, str]]
    protocol: dict[str, Any]
    draft: dict[str, Any] | None

    def as_json(self) -> dict[str, Any]:
        """Return the API's task."""
        return {
            "id": str(self.id),
            "assignment": {"id": str(self.assignment_id), "expires_at": self.expires_at.isoformat()},
            "prompt": {"messages": self.messages},
            "responses": self.responses,
            "protocol": self.protocol,
            "draft": self.draft,
        }


def next_task(*, project: Project | str, annotator: User, hold: Collection[UUID] = ()) -> ReservedTask | None:
    """Return the annotator's oldest live reservation that is not in hold, or else reserve a task.

    Highest priority first, then by position; never a task the annotator has had; two live reservations at most, so a
    caller that holds two gets nothing. The project may be given by its slug, which saves reading it. Takes the
    annotator's advisory lock, then one task's row lock.

    Raises:
        NotAssigned: there is no such project, or the annotator is not of it.
        MemberPaused: the annotator is paused in this project.
        LimitReached: the annotator has judged today's share, what they hold included, and holds nothing more.
    """
    slug = project if isinstance(project, str) else project.slug
    if found := _answer(slug, annotator, hold, _QUICK):
        return found
    # Before "nothing to do": places whose reservations ran out come back, and one scan of the whole queue finds what a
    # position passed by: rows that were locked, or committed out of sequence. The sweep is a transaction of its own:
    # the scan waits for row locks, and must hold none itself.
    expire_reservations(project_slug=slug)
    return _answer(slug, annotator, hold, _WHOLE)


@transaction.atomic
def _answer(slug: str, annotator: User, hold: Collection[UUID], statement: str) -> ReservedTask | None:
    entry = _enter(slug, annotator)
    values: dict[str, Any] = {
        "project": entry.project, "annotator": annotator.pk, "hold": list(hold), "below": ABOVE_ALL,
        "live": 0 if entry.limited else LIVE_AT_MOST, "languages": entry.languages, "kind": "",
    }  # fmt: skip
    if entry.limited:
        found = _fetch(statement, values)[1]
        if found is None and not hold:
            raise LimitReached({"detail": [_("You have judged as many today as this project takes from one person.")]})
        return found
    if entry.unqualified:
        return _fetch(_WITH_ANSWER, values | {"kind": str(Task.Kind.QUALIFICATION)})[1]
    drawn = _draw(entry)
    if drawn is None:
        return _from_queue(statement, values)[1]
    # What is mixed in takes the place of a task that stood next: where all others are done, one that comes all the
    # same would show what it is, and asking again and again would bring nothing else.
    before = transaction.savepoint()
    held, found = _from_queue(statement, values)
    if found is None or held:
        return found
    transaction.savepoint_rollback(before)
    return _mixed_in(drawn, values, annotator) or _from_queue(statement, values)[1]


def _from_queue(statement: str, values: dict[str, Any]) -> tuple[bool, ReservedTask | None]:
    """Return whether it was held already, and the task: a live reservation, or else the next that fits."""
    below = ABOVE_ALL
    while True:
        priority, found = _fetch(statement, values | {"below": below})
        if found is not None or priority is None:
            return priority is None, found
        below = priority  # nothing fit at this priority: the next lower one


def _fetch(statement: str, values: dict[str, Any]) -> tuple[int | None, ReservedTask | None]:
    row = fetch_prepared(statement, values)
    assert row is not None  # the statement starts from one row
    priority, *found = row
    if found[0] is None:
        return priority, None
    return priority, ReservedTask(**dict(zip(_COLUMNS, found, strict=True)))


def _draw(entry: "_Entry") -> Task.Kind | None:
    """Say by lot what is mixed in this time, by the project's shares; None: nothing."""
    draw = random.random()
    if draw < entry.gold_share:
        return Task.Kind.GOLD
    return Task.Kind.REPEAT if draw < entry.gold_share + entry.repeat_share else None


def _mixed_in(kind: Task.Kind, values: dict[str, Any], annotator: User) -> ReservedTask | None:
    """Reserve a gold task or a repeat; None where there is none for this annotator."""
    if kind == Task.Kind.REPEAT and not make_repeat(project_id=values["project"], annotator=annotator):
        return None
    return _fetch(_WITH_ANSWER, values | {"kind": str(kind)})[1]


@dataclass(frozen=True, kw_only=True)
class _Entry:
    """A project that the annotator may work in, and by which rules."""

    project: int
    limited: bool
    unqualified: bool
    gold_share: float
    repeat_share: float
    languages: list[str]


def _enter(slug: str, annotator: User) -> _Entry:
    """Check that the annotator may work, and let one request of theirs at a time pass."""
    row = fetch_prepared(_ENTER, {"slug": slug, "annotator": annotator.pk})
    if row is None or not (row[1] or annotator.is_superuser):
        raise NotAssigned({"project": [_("No such project of yours.")]})
    project, _member, paused_at, reason, limited, unqualified, gold_share, repeat_share, languages, _lock = row
    if paused_at is not None:
        raise MemberPaused({"detail": [reason or _("You are paused in this project.")]})
    return _Entry(
        project=int(project), limited=limited, unqualified=unqualified, gold_share=gold_share,
        repeat_share=repeat_share, languages=languages or [],
    )  # fmt: skip


# One annotator's requests for work in one project come one after the other, so that two tabs never reserve three.
# The lock is taken in a statement of its own: the next one's snapshot must be younger than it.
_ENTER = """
SELECT p.id, m.id IS NOT NULL, m.paused_at, m.pause_reason,
    CASE WHEN p.daily_limit IS NULL THEN false ELSE (
        SELECT count(*) FROM annotation_judgment j
        WHERE j.annotator_id = %(annotator)s AND j.project_id = p.id AND j.created_at >= date_trunc('day', now())
    ) + (
        SELECT count(*) FROM annotation_assignment a JOIN annotation_task t ON t.id = a.task_id
        WHERE a.annotator_id = %(annotator)s AND a.state = 'reserved' AND a.expires_at > now() AND t.project_id = p.id
    ) >= p.daily_limit END,
    CASE WHEN p.qualification_pass IS NULL OR m.role IS DISTINCT FROM 'annotator' OR m.qualified_at IS NOT NULL
        THEN false
        ELSE EXISTS (
            SELECT FROM annotation_task t
            WHERE t.project_id = p.id AND t.kind = 'qualification' AND t.state = 'active')
    END,
    p.gold_share, p.repeat_share, m.languages,
    pg_advisory_xact_lock((p.id %% 2147483648)::int, (%(annotator)s::bigint %% 2147483648)::int)::text
FROM projects_project p
LEFT JOIN projects_member m ON m.project_id = p.id AND m.user_id = %(annotator)s
WHERE p.slug = %(slug)s AND p.archived_at IS NULL
"""

_COLUMNS = ("assignment_id", "id", "expires_at", "draft", "messages", "protocol", "responses")

# A reservation that is live already, or else one of the task that {choose} picks.
_PICK = """
WITH held AS MATERIALIZED (
    SELECT a.id, a.created_at
    FROM annotation_assignment a JOIN annotation_task t ON t.id = a.task_id
    WHERE a.annotator_id = %(annotator)s AND a.state = 'reserved' AND a.expires_at > now()
      AND t.project_id = %(project)s
), again AS MATERIALIZED (
    SELECT id FROM held WHERE NOT id = ANY(%(hold)s::uuid[]) ORDER BY created_at, id LIMIT 1
), {choose}, taken AS (
    UPDATE annotation_task t
    SET reserved = t.reserved + 1, open = t.open AND (t.overlap IS NULL OR t.reserved + 1 + t.counted < t.overlap)
    FROM picked WHERE t.id = picked.id RETURNING t.id, t.repeat_of_id
), given AS (
    INSERT INTO annotation_assignment (
        id, task_id, annotator_id, state, created_at, expires_at, shown_order, protocol_id, guidelines_id,
        active_seconds, last_seen_at, reason)
    SELECT gen_random_uuid(), taken.id, %(annotator)s, 'reserved', clock_timestamp(),
        clock_timestamp() + make_interval(secs => p.reservation_seconds),
        coalesce({order}, ARRAY(
            SELECT position FROM annotation_task_response WHERE task_id = taken.id ORDER BY random())),
        p.protocol_id, p.guidelines_id, 0, clock_timestamp(), ''
    FROM taken JOIN projects_project p ON p.id = %(project)s
    RETURNING id, task_id, expires_at, draft, shown_order, protocol_id
), answer AS (
    SELECT * FROM given
    UNION ALL
    SELECT a.id, a.task_id, a.expires_at, a.draft, a.shown_order, a.protocol_id
    FROM annotation_assignment a JOIN again ON again.id = a.id
)
SELECT level.priority, answer.id, answer.task_id, answer.expires_at, answer.draft::json,
    prompt.messages::json, protocol.spec::json,
    (SELECT json_agg(json_build_object('id', r.id, 'text', r.text)
                     ORDER BY array_position(answer.shown_order, tr.position))
     FROM annotation_task_response tr JOIN annotation_response r ON r.id = tr.response_id
     WHERE tr.task_id = answer.task_id)
FROM (SELECT) AS always
LEFT JOIN level ON true
LEFT JOIN answer ON true
LEFT JOIN annotation_task task ON task.id = answer.task_id
LEFT JOIN annotation_prompt prompt ON prompt.id = task.prompt_id
LEFT JOIN projects_protocol_version protocol ON protocol.id = answer.protocol_id
"""
# `level` is the highest priority below %(below)s with an open task, and how far this annotator has come there.
# `first_fit` is seen without locks: rows before it are had, or addressed to somebody else, for good, so the position
# may move up to it, but past it only once this annotator has had it; rows after it may be locked or come back.
# "had" is written as a scalar subquery because NOT EXISTS becomes an anti-join over all that the annotator ever had.
_CHOOSE = """level AS MATERIALIZED (
    SELECT t.priority, {start} AS start
    FROM annotation_task t
    WHERE t.project_id = %(project)s AND t.open AND t.priority < %(below)s
      AND NOT EXISTS (SELECT FROM again) AND (SELECT count(*) FROM held) < %(live)s
    ORDER BY t.priority DESC LIMIT 1
), first_fit AS MATERIALIZED (
    SELECT t.position
    FROM annotation_task t
    WHERE t.project_id = %(project)s AND t.open AND t.priority = (SELECT priority FROM level)
      AND t.position > (SELECT start FROM level) AND {fit}
    ORDER BY t.position LIMIT 1
), picked AS MATERIALIZED (
    SELECT t.id
    FROM annotation_task t
    WHERE t.project_id = %(project)s AND t.open AND t.priority = (SELECT priority FROM level)
      AND t.position >= (SELECT position FROM first_fit) AND {fit}
    ORDER BY t.position LIMIT 1 FOR NO KEY UPDATE OF t {locked}
), moved AS (
    INSERT INTO annotation_annotator_position (project_id, annotator_id, priority, position)
    SELECT %(project)s, %(annotator)s, level.priority, first_fit.position - 1
    FROM level, first_fit WHERE {move}
    ON CONFLICT (project_id, annotator_id, priority) DO UPDATE SET position = excluded.position
)"""
# Gold and qualification tasks are in nobody's queue: any that the annotator has not had, nor met its prompt before.
# A repeat is made for one annotator a moment before it is picked.
_CHOOSE_WITH_ANSWER = """level AS MATERIALIZED (
    SELECT 0 AS priority WHERE false
), picked AS MATERIALIZED (
    SELECT t.id
    FROM annotation_task t
    WHERE t.project_id = %(project)s AND t.kind = %(kind)s AND t.state = 'active'
      AND NOT EXISTS (SELECT FROM again) AND (SELECT count(*) FROM held) < %(live)s
      AND (t.addressed_to_id = %(annotator)s OR t.addressed_to_id IS NULL)
      AND CASE WHEN t.kind = 'repeat'
          THEN t.addressed_to_id = %(annotator)s AND NOT EXISTS (
              SELECT FROM annotation_assignment a WHERE a.task_id = t.id)
          ELSE NOT EXISTS (
              SELECT FROM annotation_assignment a JOIN annotation_task had ON had.id = a.task_id
              WHERE a.annotator_id = %(annotator)s AND had.prompt_id = t.prompt_id)
      END
    ORDER BY random() LIMIT 1 FOR NO KEY UPDATE OF t SKIP LOCKED
)"""
_FIT = """t.kind NOT IN ('gold', 'qualification', 'repeat')
      AND (t.language = '' OR %(languages)s::varchar[] = '{}' OR t.language = ANY(%(languages)s::varchar[]))
      AND (t.addressed_to_id IS NULL OR t.addressed_to_id = %(annotator)s)
      AND (SELECT true FROM annotation_assignment a
           WHERE a.task_id = t.id AND a.annotator_id = %(annotator)s) IS NOT TRUE"""
_REMEMBERED = """coalesce((
        SELECT seen.position FROM annotation_annotator_position seen
        WHERE seen.project_id = %(project)s AND seen.annotator_id = %(annotator)s AND seen.priority = t.priority
    ), 0)"""

_RANDOM_ORDER = "NULL"
# A repeat shows the responses in the opposite of the order that was shown before: what moves then is the place's pull.
_OPPOSITE_ORDER = """(
            SELECT ARRAY(SELECT place FROM unnest(before.shown_order) WITH ORDINALITY AS o (place, n) ORDER BY n DESC)
            FROM annotation_judgment j JOIN annotation_assignment before ON before.id = j.assignment_id
            WHERE j.id = taken.repeat_of_id)"""


def _pick(*, start: str, locked: str, move: str) -> str:
    statement = _PICK.format(
        choose=_CHOOSE.format(start=start, fit=_FIT, locked=locked, move=move), order=_RANDOM_ORDER
    )
    return _short(statement)


def _short(statement: str) -> str:
    # psycopg reads a statement of 4,096 characters or more anew at each call: without its indentation it is shorter.
    return " ".join(statement.split())


# From the remembered position, passing by what others have locked.
_QUICK = _pick(start=_REMEMBERED, locked="SKIP LOCKED", move=f"first_fit.position - 1 > level.start + {POSITION_SLACK}")
# From the very beginning, waiting for what others have locked, and putting the position right.
_WHOLE = _pick(start="0", locked="", move="true")
_WITH_ANSWER = _short(_PICK.format(choose=_CHOOSE_WITH_ANSWER, order=_OPPOSITE_ORDER))
