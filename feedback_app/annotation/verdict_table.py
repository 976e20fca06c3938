"""A project's verdicts as columns of numbers: what is counted over all of them is counted by NumPy, not row by row.

200,000 judgments take a second this way, most of it PostgreSQL's; read as rows of Python objects they took six.
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date, timedelta
from itertools import combinations
from typing import Any

import numpy as np
from django.db import connection

from feedback_app.annotation.comparisons import FIRST, SECOND, TIE
from feedback_app.annotation.models import Judgment, Task
from feedback_app.projects.models import Project

Integers = np.ndarray[Any, np.dtype[np.int64]]
Floats = np.ndarray[Any, np.dtype[np.float64]]
Booleans = np.ndarray[Any, np.dtype[np.bool_]]

CATEGORIES = 3
# Gold and repeats measure something else than agreement.
KINDS = (Task.Kind.NORMAL, Task.Kind.GATE)
MOST_RESPONSES = 9
SILENT = -1  # of a pair with an unranked response, and of a strength that was not given
MONDAY_BEFORE_1970 = 3  # days: 1970-01-01 was a Thursday
UNRANKED = 9  # ranks are 0 to 8


@dataclass(frozen=True)
class VerdictTable:
    """Judgments (N) by task, and within a task by annotator; surplus ones stand in it, but speak of no pair (P).

    task counts up from 0, annotator is a user's id, strength -1 where none was given, seconds NaN where unknown, day
    counts from 1970-01-01 (UTC).
    verdicts: a row a pair of responses, by canonical position: first, second, tie, or -1 where it says nothing.
    preferred_first: whether the preferred one of the pair was shown first, -1 where nobody can know.
    """

    task_N: Integers
    annotator_N: Integers
    surplus_N: Booleans
    strength_N: Integers
    seconds_N: Floats
    day_N: Integers
    verdicts_PN: list[Integers]
    preferred_first_PN: list[Integers]

    @property
    def tasks(self) -> int:
        """How many tasks have a judgment that counts."""
        return len(np.unique(self.task_N[~self.surplus_N]))

    def counts(self) -> Integers:
        """Return how often first, second and tie were said of each pair of a task that anybody spoke of (U, 3)."""
        tables = []
        most = int(self.task_N[-1]) + 1 if len(self.task_N) else 0
        for verdict_N in self.verdicts_PN:
            said = verdict_N != SILENT
            cells = np.bincount(self.task_N[said] * CATEGORIES + verdict_N[said], minlength=most * CATEGORIES)
            table = cells.reshape(most, CATEGORIES)
            tables.append(table[table.any(axis=1)])
        return np.concatenate(tables) if tables else np.zeros((0, CATEGORIES), np.int64)

    def meetings(self) -> Iterator[tuple[Integers, Integers, Integers, Integers]]:
        """Yield (rows, other rows, verdicts, other verdicts) of judgments on one pair; every two meet once a pair.

        The first row's annotator has the smaller id.
        """
        left = np.flatnonzero(~self.surplus_N)
        task, step = self.task_N[left], 1
        places = np.arange(len(left))
        while True:
            places = places[places + step < len(left)]
            places = places[task[places] == task[places + step]]
            if not len(places):
                return
            rows, others = left[places], left[places + step]
            for verdict_N in self.verdicts_PN:
                both = (verdict_N[rows] != SILENT) & (verdict_N[others] != SILENT)
                if both.any():
                    yield rows[both], others[both], verdict_N[rows[both]], verdict_N[others[both]]
            step += 1

    def confusions(self) -> dict[tuple[int, int], Counter[tuple[int, int]]]:
        """Return by two annotators how often the one said this while the other said that."""
        people, number_N = np.unique(self.annotator_N, return_inverse=True)
        found: dict[tuple[int, int], Counter[tuple[int, int]]] = {}
        for rows, others, said, other_said in self.meetings():
            who = number_N[rows] * len(people) + number_N[others]
            keys, times = np.unique((who * CATEGORIES + said) * CATEGORIES + other_said, return_counts=True)
            for key, count in zip(keys.tolist(), times.tolist(), strict=True):
                pair, verdicts = divmod(key, CATEGORIES * CATEGORIES)
                a, b = divmod(pair, len(people))
                table = found.setdefault((int(people[a]), int(people[b])), Counter())
                table[divmod(verdicts, CATEGORIES)] += count
        return found

    def agreement_by_strength(self) -> tuple[Integers, Integers]:
        """Return by strength how often others said the same as a judgment of it, and how often they said anything."""
        size = int(self.strength_N.max(initial=0)) + 1
        agreed, compared = np.zeros(size, np.int64), np.zeros(size, np.int64)
        for rows, others, said, other_said in self.meetings():
            for side in (rows, others):
                given = self.strength_N[side] != SILENT
                strength = self.strength_N[side][given]
                compared += np.bincount(strength, minlength=size)
                agreed += np.bincount(strength[(said == other_said)[given]], minlength=size)
        return agreed, compared

    def agreement_by_week(self) -> tuple[list[date], Integers, Integers]:
        """Return the weeks' Mondays (W), and by annotator how often they agreed and could have (A + 1, W).

        Annotators are in order of id, all of them together last. Two judgments meet in the week of the later one.
        """
        people, number_N = np.unique(self.annotator_N, return_inverse=True)
        weeks, slot_N = np.unique((self.day_N + MONDAY_BEFORE_1970) // 7, return_inverse=True)
        agreed, compared = (np.zeros((len(people) + 1, len(weeks)), np.int64) for _ in range(2))
        for rows, others, said, other_said in self.meetings():
            slot = np.maximum(slot_N[rows], slot_N[others])
            for who in (number_N[rows], number_N[others], np.full(len(rows), len(people))):
                cells, size = who * len(weeks) + slot, compared.size
                compared += np.bincount(cells, minlength=size).reshape(compared.shape)
                agreed += np.bincount(cells[said == other_said], minlength=size).reshape(compared.shape)
        mondays = [date(1970, 1, 1) + timedelta(days=7 * week - MONDAY_BEFORE_1970) for week in weeks.tolist()]
        return mondays, agreed, compared


def read_verdicts(*, project: Project, simulated: bool) -> VerdictTable:
    """Read the project's judgments that are not void: simulated ones, or all others."""
    columns = _read(project, simulated)
    halves = columns["task"]
    order = np.lexsort((columns["annotator"], halves[:, 1], halves[:, 0]))
    columns, halves = columns[order], halves[order]
    fresh = np.any(halves[1:] != halves[:-1], axis=1)
    surplus_N = columns["surplus"].astype(np.bool_)
    verdicts, preferred_first = _pairs(_digits(columns["ranks"]), _digits(columns["shown"]), surplus_N)
    return VerdictTable(
        task_N=np.concatenate([np.zeros(min(1, len(columns)), np.int64), np.cumsum(fresh)]),
        annotator_N=columns["annotator"].astype(np.int64),
        surplus_N=surplus_N,
        strength_N=columns["strength"].astype(np.int64),
        seconds_N=columns["seconds"].astype(np.float64),
        day_N=columns["day"].astype(np.int64),
        verdicts_PN=verdicts,
        preferred_first_PN=preferred_first,
    )


def _pairs(ranks_NK: Integers, shown_NK: Integers, surplus_N: Booleans) -> tuple[list[Integers], list[Integers]]:
    """Return verdicts and whether the preferred one was shown first, by pair; digits as _digits gives them."""
    slots_NK = _slots(shown_NK)
    shown_N = shown_NK[:, 0] != UNRANKED
    verdicts, preferred_first = [], []
    for i, j in combinations(range(MOST_RESPONSES), 2):
        left, right = ranks_NK[:, i], ranks_NK[:, j]
        said = (left != UNRANKED) & (right != UNRANKED) & ~surplus_N
        if not said.any():
            continue
        verdict = np.where(left == right, TIE, np.where(left < right, FIRST, SECOND))
        verdict[~said] = SILENT
        known = shown_N & said & (verdict != TIE)
        first = slots_NK[:, i] < slots_NK[:, j]
        verdicts.append(verdict)
        preferred_first.append(np.where(known, first == (verdict == FIRST), SILENT).astype(np.int64))
    return verdicts, preferred_first


def _digits(codes: Any) -> Integers:
    """Return the digits after the leading 1 of each number (N, K), filled up with UNRANKED."""
    digits = np.full((len(codes), MOST_RESPONSES), UNRANKED, np.int64)
    for length in range(1, MOST_RESPONSES + 1):
        rows = np.flatnonzero((codes >= 10**length) & (codes < 2 * 10**length))
        rest = codes[rows].astype(np.int64)
        for place in range(length):
            digits[rows, place] = rest // 10 ** (length - 1 - place) % 10
    return digits


def _slots(shown_NK: Integers) -> Integers:
    """Return where each response was shown (N, K), from which response was shown where."""
    slots = np.zeros_like(shown_NK)
    for slot in range(MOST_RESPONSES):
        rows = np.flatnonzero(shown_NK[:, slot] != UNRANKED)
        slots[rows, shown_NK[rows, slot]] = slot
    return slots


# A field of PostgreSQL's binary COPY is its length and its bytes; none here is NULL, so every row is as long.
_FIELDS: tuple[tuple[str, Any], ...] = (
    ("task", (">u8", (2,))), ("annotator", ">i8"), ("ranks", ">i8"), ("shown", ">i8"), ("surplus", "?"),
    ("strength", ">i8"), ("seconds", ">f8"), ("day", ">i8"),
)  # fmt: skip
_ROW = np.dtype(
    [("fields", ">i2"), *(part for name, kind in _FIELDS for part in ((f"{name}_length", ">i4"), (name, kind)))]
)
_HEADER, _TRAILER = 19, 2

# Small arrays come as one number: a 1 and a digit an element, so that a row has one length. Nobody knows what the
# annotators of an imported file were shown first.
_COPY = """
COPY (
    SELECT j.task_id, j.annotator_id::bigint, ('1' || array_to_string(j.ranks, '', '9'))::bigint,
        CASE WHEN j.origin = 'imported' THEN 1 ELSE ('1' || array_to_string(a.shown_order, ''))::bigint END,
        j.surplus, coalesce(j.strength, -1)::bigint, coalesce(j.lead_time, j.active_seconds, 'NaN')::float8,
        ((j.created_at AT TIME ZONE 'UTC')::date - date '1970-01-01')::bigint
    FROM annotation_judgment j
    JOIN annotation_assignment a ON a.id = j.assignment_id
    JOIN annotation_task t ON t.id = j.task_id
    WHERE j.project_id = {project} AND j.voided_at IS NULL AND (j.origin = 'simulated') = {simulated}
        AND t.kind IN ({kinds})
) TO STDOUT (FORMAT BINARY)
"""


def _read(project: Project, simulated: bool) -> Any:
    # COPY takes no parameters; these are a number, a truth value and names of our own.
    kinds = ", ".join(f"'{kind.value}'" for kind in KINDS)
    statement = _COPY.format(project=int(project.pk), simulated=bool(simulated), kinds=kinds)
    with connection.cursor() as cursor, cursor.copy(statement) as copy:
        content = b"".join(bytes(piece) for piece in copy)
    return np.frombuffer(content, _ROW, offset=_HEADER, count=(len(content) - _HEADER - _TRAILER) // _ROW.itemsize)


@dataclass(frozen=True)
class ScoreCounts:
    """How often each score was given to a response (R, S) in an attribute, over all tasks."""

    counts_RS: Integers
    total: int
    given: int


def read_scores(*, project: Project, simulated: bool) -> dict[str, ScoreCounts]:
    """Read the ratings by attribute, of the judgments that count; negative scores are in no column."""
    kinds = [kind.value for kind in KINDS]
    with connection.cursor() as cursor:
        cursor.execute(_SCORES, [project.pk, str(Judgment.Origin.SIMULATED), simulated, kinds])
        rows = cursor.fetchall()
    found: dict[str, list[tuple[list[int], int]]] = {}
    for attribute, scores, times in rows:
        found.setdefault(attribute, []).append((scores, times))
    return {attribute: _score_counts(groups) for attribute, groups in sorted(found.items())}


def _score_counts(groups: list[tuple[list[int], int]]) -> ScoreCounts:
    top = max(score for scores, _times in groups for score in scores)
    distinct = np.array([[scores.count(step) for step in range(top + 1)] for scores, _times in groups])
    return ScoreCounts(
        counts_RS=np.repeat(distinct, [times for _scores, times in groups], axis=0),
        total=sum(sum(scores) * times for scores, times in groups),
        given=sum(len(scores) * times for scores, times in groups),
    )


# Responses with the same scores are one row with their number.
_SCORES = """
SELECT attribute, scores, count(*) FROM (
    SELECT score.key AS attribute, array_agg(score.value::text::int ORDER BY score.value::text::int) AS scores
    FROM annotation_judgment j
    JOIN annotation_task t ON t.id = j.task_id
    CROSS JOIN LATERAL jsonb_each(j.ratings) response
    CROSS JOIN LATERAL jsonb_each(response.value) score
    WHERE j.project_id = %s AND j.voided_at IS NULL AND NOT j.surplus AND (j.origin = %s::text) = %s
        AND t.kind = ANY(%s) AND j.ratings <> '{}'
    GROUP BY j.task_id, response.key, score.key
) AS given
GROUP BY attribute, scores
"""
