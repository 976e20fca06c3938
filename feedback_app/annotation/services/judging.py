"""Verdicts: stored exactly once, and counted while a place is free."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

from django.db import transaction
from django.db.models.functions import Now
from django.utils import timezone
from django.utils.translation import gettext as _

from feedback_app.accounts.models import User
from feedback_app.annotation.errors import NotAssigned, VerdictDiffers, VerdictInvalid
from feedback_app.annotation.models import Assignment, IdempotentAnswer, Judgment, TaskResponse
from feedback_app.annotation.services.checks import Expected, act_on_check, ask_third_judgment
from feedback_app.annotation.services.reservations import HEARTBEAT_SECONDS, MEMBER
from feedback_app.annotation.services.rewrites import keep_rewrites
from feedback_app.annotation.verdicts import Verdict, hash_body, parse_verdict, read_protocol
from feedback_app.metrics import COMPARISONS
from feedback_app.prepared import fetch_prepared

LONGEST_KEY = 200


@dataclass(frozen=True, kw_only=True)
class _Place:
    """A task and its assignment, both locked, with what a verdict on them is checked against."""

    project_id: int
    free: bool
    assignment_id: UUID
    state: str
    active_seconds: float
    protocol: str
    kind: str
    responses: list[UUID]
    task_kind: str
    full_of_two: bool
    expected: Expected
    pauses: bool


# The task before its assignment, as everywhere; what is read beside them never changes.
_LOCK = f"""
SELECT t.project_id, t.overlap IS NULL OR t.reserved + t.counted < t.overlap, a.id, a.state,
    a.active_seconds + least(%(bound)s, greatest(0, extract(epoch FROM clock_timestamp() - a.last_seen_at)))::float8,
    protocol.spec::text, annotator.kind,
    ARRAY(SELECT response_id FROM annotation_task_response WHERE task_id = t.id ORDER BY position),
    t.kind, project.third_on_disagreement AND t.overlap = 2 AND t.counted = 1,
    coalesce(project.pause_gold_below, project.pause_consistency_below, project.pause_seconds_below) IS NOT NULL,
    CASE WHEN t.kind = 'repeat' THEN (SELECT ranks FROM annotation_judgment WHERE id = t.repeat_of_id)
        ELSE gold.ranks END, gold.ratings::json, gold.tolerance
FROM annotation_task t
JOIN projects_project project ON project.id = t.project_id
JOIN annotation_assignment a ON a.task_id = t.id AND a.annotator_id = %(annotator)s
JOIN accounts_user annotator ON annotator.id = a.annotator_id
JOIN projects_protocol_version protocol ON protocol.id = a.protocol_id
LEFT JOIN annotation_gold_answer gold ON gold.task_id = t.id
WHERE t.id = %(task)s AND {MEMBER}
FOR NO KEY UPDATE OF t, a
"""
# One statement for every kind of task: what takes longer on gold would tell that it is gold.
_STORE = """
WITH stored AS (
    INSERT INTO annotation_judgment (
        id, assignment_id, project_id, task_id, annotator_id, origin, ranks, all_bad, strength, ratings, flags,
        rewrites, rationale, lead_time, active_seconds, surplus, revision, body_sha256, created_at, updated_at,
        void_reason)
    VALUES (
        %(id)s, %(assignment)s, %(project)s, %(task)s, %(annotator)s, %(origin)s, %(ranks)s::int2[], %(all_bad)s,
        %(strength)s, %(ratings)s::jsonb, %(flags)s::jsonb, %(rewrites)s::jsonb, %(rationale)s, %(lead_time)s,
        %(active_seconds)s, NOT %(counts)s, 1, %(body_sha256)s, %(at)s, %(at)s, '')
), closed AS (
    UPDATE annotation_assignment
    SET state = 'submitted', active_seconds = %(active_seconds)s, draft = NULL, draft_saved_at = NULL
    WHERE id = %(assignment)s
), checked AS (
    INSERT INTO annotation_check (judgment_id, project_id, annotator_id, kind, score, created_at)
    SELECT %(id)s, %(project)s, %(annotator)s, %(task_kind)s, %(score)s, %(at)s WHERE %(score)s::float8 IS NOT NULL
)
UPDATE annotation_task t
SET reserved = t.reserved - %(held)s, counted = t.counted + 1,
    open = t.open AND (t.overlap IS NULL OR t.reserved - %(held)s + t.counted + 1 < t.overlap)
WHERE t.id = %(task)s AND %(counts)s
"""


@transaction.atomic
def submit_judgment(
    *, task_id: UUID, annotator: User, body: Mapping[str, Any], idempotency_key: str = ""
) -> dict[str, Any]:
    """Store a verdict on a task exactly once and return the API's judgment.

    A repeat, by the Idempotency-Key or by the assignment itself, returns the first result. One that comes after its
    reservation ended is counted while a place is free and stored as surplus otherwise. Locks the task, then its
    assignment.

    Raises:
        NotAssigned: the annotator never had the task, or left the project.
        VerdictInvalid: names the fields that the protocol does not take.
        VerdictDiffers: another body was stored for the assignment or sent with the key.
    """
    place = _lock_place(task_id, annotator)
    digest = hash_body(body)
    request_digest = hash_body([str(task_id), digest]) if idempotency_key else ""
    if idempotency_key and (first := _answered(annotator, idempotency_key, request_digest)) is not None:
        return first
    if place.state == Assignment.State.SUBMITTED:
        answer = _repeat(place.assignment_id, digest, place.responses)
    else:
        answer = _store(task_id, annotator, place, body, digest)
        transaction.on_commit(COMPARISONS.inc)
    if idempotency_key:
        _remember(annotator, idempotency_key, request_digest, answer)
    return answer


def _lock_place(task_id: UUID, annotator: User) -> _Place:
    row = fetch_prepared(_LOCK, {"task": task_id, "annotator": annotator.pk, "bound": HEARTBEAT_SECONDS})
    if row is None:
        raise NotAssigned({"task": [_("No such task of yours.")]})
    names = ("project_id", "free", "assignment_id", "state", "active_seconds", "protocol", "kind", "responses",
             "task_kind", "full_of_two", "pauses")  # fmt: skip
    expected = Expected(*row[len(names) :])
    return _Place(**dict(zip(names, row, strict=False)), expected=expected)


def _store(task_id: UUID, annotator: User, place: _Place, body: Mapping[str, Any], digest: str) -> dict[str, Any]:
    responses = [str(response) for response in place.responses]
    verdict = parse_verdict(body, protocol=read_protocol(place.protocol), responses=responses)
    held = place.state == Assignment.State.RESERVED
    score = place.expected.score(place.task_kind, verdict)
    identity, now = uuid4(), timezone.now()
    values: dict[str, Any] = {
        "id": identity, "assignment": place.assignment_id, "project": place.project_id, "task": task_id,
        "annotator": annotator.pk, "origin": _origin(place.kind), "ranks": verdict.ranks, "all_bad": verdict.all_bad,
        "strength": verdict.strength, "ratings": json.dumps(verdict.ratings), "flags": json.dumps(verdict.flags),
        "rewrites": json.dumps(verdict.rewrites), "rationale": verdict.rationale, "lead_time": verdict.lead_time,
        "active_seconds": place.active_seconds, "counts": held or place.free, "held": int(held),
        "body_sha256": digest, "at": now, "task_kind": place.task_kind, "score": score,
    }  # fmt: skip
    fetch_prepared(_STORE, values)
    if verdict.rewrites:
        keep_rewrites(judgment_id=identity)
    act_on_check(
        project_id=place.project_id, annotator=annotator, kind=None if score is None else place.task_kind,
        pauses=place.pauses,
    )  # fmt: skip
    if values["counts"] and place.full_of_two:
        ask_third_judgment(task_id=task_id)
    return _as_json(
        identity=identity, task_id=task_id, responses=responses, verdict=verdict, surplus=not values["counts"],
        revision=1, created_at=now,
    )  # fmt: skip


def _origin(kind: str) -> str:
    return str(Judgment.Origin.SIMULATED if kind == User.Kind.SIMULATED else Judgment.Origin.HUMAN)


def _repeat(assignment_id: UUID, digest: str, responses: Sequence[UUID]) -> dict[str, Any]:
    judgment = Judgment.objects.get(assignment_id=assignment_id)
    if judgment.body_sha256 != digest:
        raise VerdictDiffers({"assignment": [_("Another verdict is stored for this task; edit that one.")]})
    return judgment_as_json(judgment=judgment, responses=[str(response) for response in responses])


def _answered(annotator: User, key: str, request_digest: str) -> dict[str, Any] | None:
    if len(key) > LONGEST_KEY or not key.isprintable():
        raise VerdictInvalid({"Idempotency-Key": [_("at most 200 printable characters")]})
    found = IdempotentAnswer.objects.filter(user=annotator, key=key).first()
    if found is None:
        return None
    if found.request_sha256 != request_digest:
        raise VerdictDiffers({"Idempotency-Key": [_("was sent with another request before")]})
    body: dict[str, Any] = found.body
    return body


def _remember(annotator: User, key: str, request_digest: str, answer: dict[str, Any]) -> None:
    # A request with the same key that is under way on another task is waited for here, and wins.
    IdempotentAnswer.objects.bulk_create(
        [IdempotentAnswer(user=annotator, key=key, request_sha256=request_digest, status=201, body=answer)],
        ignore_conflicts=True,
    )
    _answered(annotator, key, request_digest)


def forget_answers(*, older_than: timedelta = timedelta(days=7)) -> int:
    """Delete remembered answers of old keys and return how many; the assignment itself still answers a repeat."""
    return IdempotentAnswer.objects.filter(created_at__lt=Now() - older_than).delete()[0]


def response_ids(task_id: UUID) -> list[str]:
    """Return the ids of a task's responses in canonical order."""
    places = TaskResponse.objects.filter(task_id=task_id).order_by("position")
    return [str(response) for response in places.values_list("response_id", flat=True)]


def verdict_of(judgment: Judgment) -> Verdict:
    """Return what a judgment says."""
    return Verdict(
        ranks=list(judgment.ranks), all_bad=judgment.all_bad, strength=judgment.strength, ratings=judgment.ratings,
        flags=judgment.flags, rewrites=judgment.rewrites, rationale=judgment.rationale, lead_time=judgment.lead_time,
    )  # fmt: skip


def judgment_as_json(*, judgment: Judgment, responses: Sequence[str]) -> dict[str, Any]:
    """Return the API's judgment; responses are the ids in canonical order."""
    return _as_json(
        identity=judgment.pk, task_id=judgment.task_id, responses=responses, verdict=verdict_of(judgment),
        surplus=judgment.surplus, revision=judgment.revision, created_at=judgment.created_at,
    )  # fmt: skip


def _as_json(
    *, identity: UUID, task_id: UUID, responses: Sequence[str], verdict: Verdict, surplus: bool, revision: int,
    created_at: datetime,
) -> dict[str, Any]:  # fmt: skip
    return {
        "id": str(identity),
        "task": str(task_id),
        "ranking": tiers_of(verdict.ranks, responses),
        "all_bad": verdict.all_bad,
        "strength": verdict.strength,
        "ratings": verdict.ratings,
        "flags": verdict.flags,
        "rewrites": verdict.rewrites,
        "rationale": verdict.rationale,
        "lead_time": verdict.lead_time,
        "surplus": surplus,
        "revision": revision,
        "created_at": created_at.isoformat(),
    }


def tiers_of(ranks: Sequence[int | None], responses: Sequence[str]) -> list[list[str]]:
    """Return ranks by canonical position as tiers of response ids, best first; unranked ones are left out."""
    tiers: dict[int, list[str]] = {}
    for response, rank in zip(responses, ranks, strict=False):
        if rank is not None:
            tiers.setdefault(rank, []).append(response)
    return [tiers[rank] for rank in sorted(tiers)]
