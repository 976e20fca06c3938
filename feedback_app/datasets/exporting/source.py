"""Judged tasks out of the database as one COPY: PostgreSQL writes the JSON while Python shapes it, in flat memory.

A single statement is also a single snapshot: what is exported is what stood at one moment.
"""

import json
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass
from functools import lru_cache
from itertools import combinations
from typing import Any

from django.db import connection

from feedback_app.datasets.exporting.options import ExportOptions
from feedback_app.datasets.exporting.query import UNIT, export_query
from feedback_app.projects.models import Project

TRUNCATED = "length"
# The scanner behind json.loads: PostgreSQL's JSON needs none of the checks around it.
_read_json: Callable[[str, int], tuple[Any, int]] = json.JSONDecoder().scan_once  # type: ignore[attr-defined]
NO_FLAGS: frozenset[str] = frozenset()
# A binary COPY begins with a head of its own; a row is the number of its columns and the length of each before it.
SIGNATURE = b"PGCOPY\n\xff\r\n\x00"
FILE_HEAD = 19
ONE_COLUMN = b"\x00\x01"
ROW_HEAD = 6
# How many parts of a task's first row are the task's, and how many of every row the response's.
OF_TASK, OF_RESPONSE = 8, 8
OF_FIRST = OF_TASK + OF_RESPONSE


@dataclass(slots=True)
class ExportResponse:
    """A response; text_json is its text as JSON, ready to be written."""

    id: str
    text_json: str
    model: str
    policy: str
    policy_number: int | None
    finish_reason: str
    token_count: int | None
    seed: int | None
    flags: frozenset[str]

    @property
    def answered_by(self) -> str:
        """The policy version that gave it, or the model that the import named."""
        return self.policy or self.model


@dataclass(slots=True)
class ExportJudgment:
    """A judgment that counts; ranks, ratings, flags and rewrites are by canonical position."""

    id: str
    annotator: str
    simulated: bool
    ranks: list[int | None]
    all_bad: bool
    strength: int | None
    ratings: dict[int, dict[str, int]]
    flags: dict[int, list[str]]
    rewrites: dict[int, str]
    rationale: str
    lead_time: float | None
    created_at: str
    revision: int
    protocol: int
    guidelines: int | None


@dataclass(slots=True)
class ExportTask:
    """A task with its responses in canonical order and the judgments that passed the filters, oldest first.

    What ends in _json is JSON as PostgreSQL wrote it, to be passed on as it is.
    """

    id: str
    prompt_id: str
    split: str
    language: str
    external_json: str
    messages_json: str
    responses: list[ExportResponse]
    judgments: list[ExportJudgment]


def stream_tasks(*, project: Project, split: str, options: ExportOptions) -> Iterator[ExportTask]:
    """Yield the judged tasks of a project, a prompt's tasks together, in about the order in which they came in.

    split is one side, or "all". An adjudicated task has the reviewer's verdict alone, unless the options ignore it.
    Left out: gold, qualification and repeated tasks, surplus and void judgments, and what the options filter.
    """
    with closing(_stream_rows(*export_query(project, split, options))) as rows:
        for task_parts, responses in _by_task(rows):
            task, adjudicated = _read_task(task_parts, responses)
            if _passes(task, options):
                if adjudicated:
                    of = task.judgments[0]
                    task.judgments = [_judgment([*adjudicated, of.protocol, of.guidelines], task.responses)]
                yield task


def _stream_rows(query: str, values: dict[str, Any]) -> Generator[str, None, None]:
    """Yield the one text that each row of a binary COPY is."""
    with connection.cursor() as cursor, cursor.copy(query, values) as copy:
        for row in copy:
            if row[:2] == ONE_COLUMN:
                yield str(row[ROW_HEAD:], "utf-8")
            elif row[: len(SIGNATURE)] == SIGNATURE and len(row) > FILE_HEAD + ROW_HEAD:
                yield str(row[FILE_HEAD + ROW_HEAD :], "utf-8")


def _by_task(rows: Iterable[str]) -> Iterator[tuple[list[str], list[ExportResponse]]]:
    """Yield what the rows say of each task, and its responses in canonical order."""
    task: list[str] = []
    responses: list[ExportResponse] = []
    for row in rows:
        parts = row.split(UNIT)
        if len(parts) == OF_FIRST:
            if responses:
                yield task, responses
            task, responses = parts[:OF_TASK], []
        pk, model, policy, number, reason, tokens, seed, text = parts[-OF_RESPONSE:]
        responses.append(
            ExportResponse(
                pk, text, _read_name(model), _read_name(policy), int(number) if number else None, _read_name(reason),
                int(tokens) if tokens else None, int(seed) if seed else None, NO_FLAGS,
            )
        )  # fmt: skip
    if responses:
        yield task, responses


def _read_task(parts: list[str], responses: list[ExportResponse]) -> tuple[ExportTask, list[Any]]:
    """Return a task, and the reviewer's verdict that stands above its judgments, if there is one."""
    pk, prompt_id, split, language, external_id, verdicts, above, messages = parts
    judgments = [_judgment(item, responses) for item in _read_json(f"[{verdicts}]", 0)[0]]
    task = ExportTask(pk, prompt_id, split, _read_name(language), external_id, messages, responses, judgments)
    return task, _read_json(above, 0)[0] if above else []


@lru_cache(maxsize=1024)
def _read_name(written: str) -> str:
    """Return a JSON text of which there are few."""
    return str(json.loads(written))


def _judgment(item: list[Any], responses: list[ExportResponse]) -> ExportJudgment:
    """Return a verdict by canonical position; what it flags is noted on the responses."""
    judgment = ExportJudgment(*item)
    if judgment.ratings or judgment.rewrites or judgment.flags:
        places = {response.id: position for position, response in enumerate(responses)}
        judgment.ratings = {places[key]: value for key, value in judgment.ratings.items()}  # type: ignore[index]
        judgment.rewrites = {places[key]: value for key, value in judgment.rewrites.items()}  # type: ignore[index]
        judgment.flags = {places[key]: value for key, value in judgment.flags.items()}  # type: ignore[index]
        for place, names in judgment.flags.items():
            responses[place].flags |= frozenset(names)
    return judgment


def _passes(task: ExportTask, options: ExportOptions) -> bool:
    if options.policies and not all(response.answered_by in options.policies for response in task.responses):
        return False
    return not options.minimum_agreement or agreement_of(task) >= options.minimum_agreement


def agreement_of(task: ExportTask) -> float:
    """Return the share of annotator pairs that say the same of a pair of responses; 1 where nobody can disagree."""
    same, compared = agreed_of(task)
    return same / compared if compared else 1.0


def agreed_of(task: ExportTask) -> tuple[int, int]:
    """Return how often two annotators say the same of two responses, and how often both say something."""
    same = compared = 0
    for first, second in combinations(task.judgments, 2):
        for i, j in combinations(range(len(task.responses)), 2):
            one, other = verdict_on(first, i, j), verdict_on(second, i, j)
            if one is not None and other is not None:
                compared += 1
                same += one == other
    return same, compared


def verdict_on(judgment: ExportJudgment, i: int, j: int) -> int | None:
    """Return 1 where response i is ranked better than j, -1 where worse, 0 on a tie, None where one is unranked."""
    if not judgment.ranks:
        return None
    first, second = judgment.ranks[i], judgment.ranks[j]
    if first is None or second is None:
        return None
    return (first < second) - (first > second)
