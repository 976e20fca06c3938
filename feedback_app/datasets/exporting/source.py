"""Judged tasks out of the database as one COPY: PostgreSQL writes the JSON while Python shapes it, in flat memory.

A single statement is also a single snapshot: what is exported is what stood at one moment.
"""

import json
from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from dataclasses import dataclass
from itertools import combinations
from typing import Any

from django.db import connection

from feedback_app.datasets.exporting.options import ExportOptions
from feedback_app.projects.models import Project

# Stands between parts of one field: JSON never holds it unescaped.
UNIT = "\x1f"
TRUNCATED = "length"
# The scanner behind json.loads: PostgreSQL's JSON needs none of the checks around it.
_read_json: Callable[[str, int], tuple[Any, int]] = json.JSONDecoder().scan_once  # type: ignore[attr-defined]
NO_FLAGS: frozenset[str] = frozenset()


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


# The judgments are grouped and put in order first, then texts are looked up as they are sent: PostgreSQL works on the
# next rows while Python shapes these. Sorted with their texts, the first row came out when the last one was ready.
QUERY = """
COPY (
    WITH judged AS (
        SELECT judgment.task_id, '[' || string_agg(json_build_array(
                   judgment.id, CASE WHEN person.kind = 'imported' THEN person.display_name ELSE person.username END,
                   judgment.origin = 'simulated', judgment.ranks, judgment.all_bad, judgment.strength,
                   judgment.ratings, judgment.flags, judgment.rewrites, judgment.rationale, judgment.lead_time,
                   to_char(judgment.created_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"+00:00"'),
                   judgment.revision, protocol.number, guidelines.number
               )::text, ',' ORDER BY judgment.created_at, judgment.id) || ']' AS verdicts
        FROM annotation_judgment judgment
        JOIN accounts_user person ON person.id = judgment.annotator_id
        JOIN annotation_assignment assignment ON assignment.id = judgment.assignment_id
        JOIN projects_protocol_version protocol ON protocol.id = assignment.protocol_id
        LEFT JOIN projects_guidelines_version guidelines ON guidelines.id = assignment.guidelines_id
        WHERE judgment.project_id = %(project)s AND NOT judgment.surplus AND judgment.voided_at IS NULL
              {judgment_filters}
        GROUP BY judgment.task_id
    ), ready AS (
        SELECT task.id, task.prompt_id, task.external_id, judged.verdicts, {adjudicated} AS adjudicated
        FROM annotation_task task
        JOIN judged ON judged.task_id = task.id {adjudications}
        WHERE task.project_id = %(project)s AND task.kind IN ('normal', 'gate')
        ORDER BY task.prompt_id, task.id
    )
    SELECT ready.id, ready.prompt_id, prompt.split, prompt.language, to_json(ready.external_id)::text,
           prompt.messages::text, answered.texts, answered.about, ready.verdicts,
           ready.adjudicated
    FROM ready
    JOIN annotation_prompt prompt ON prompt.id = ready.prompt_id {prompt_filters}
    JOIN LATERAL (
        SELECT string_agg(to_json(response.text)::text, E'\\x1f' ORDER BY place.position) AS texts,
               '[' || string_agg(json_build_array(
                   response.id, response.model_name, policy.name, policy.number, response.finish_reason,
                   response.token_count, response.seed
               )::text, ',' ORDER BY place.position) || ']' AS about
        FROM annotation_task_response place
        JOIN annotation_response response ON response.id = place.response_id
        LEFT JOIN serving_policy_version policy ON policy.id = response.policy_id
        WHERE place.task_id = ready.id
    ) answered ON true
    ORDER BY ready.prompt_id, ready.id
) TO STDOUT
"""

# A reviewer's verdict has no assignment: the protocol and guidelines are those of the judgments it stands above.
ADJUDICATED = """coalesce(json_build_array(
            task.id, coalesce(reviewer.username, 'adjudicator'), false, adjudication.ranks, adjudication.all_bad,
            adjudication.strength, adjudication.ratings, adjudication.flags, json_build_object(),
            adjudication.rationale, null,
            to_char(adjudication.updated_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"+00:00"'), 1
        )::text, '')"""
ADJUDICATIONS = """JOIN annotation_adjudication adjudication ON adjudication.task_id = task.id
        LEFT JOIN accounts_user reviewer ON reviewer.id = adjudication.adjudicated_by_id"""


def stream_tasks(*, project: Project, split: str, options: ExportOptions) -> Iterator[ExportTask]:
    """Yield the judged tasks of a project, a prompt's tasks together; split is one side, or "all".

    An adjudicated task has the reviewer's verdict alone, unless the options ignore it.
    Left out: gold, qualification and repeated tasks, surplus and void judgments, and what the options filter.
    """
    with closing(_stream_lines(project, split, options)) as lines:
        for line in lines:
            task, adjudicated = _parse_line(line)
            if _passes(task, options):
                if adjudicated:
                    of = task.judgments[0]
                    task.judgments = [_judgment([*adjudicated, of.protocol, of.guidelines], task.responses)]
                yield task


def _stream_lines(project: Project, split: str, options: ExportOptions) -> Generator[str, None, None]:
    query, values = _filtered(project, split, options)
    with connection.cursor() as cursor, cursor.copy(query, values) as copy:
        # A message is a row. JSON escapes every control character itself, so COPY has only backslashes left to double.
        for row in copy:
            yield bytes(row[:-1]).replace(b"\\\\", b"\\").decode()


def _filtered(project: Project, split: str, options: ExportOptions) -> tuple[str, dict[str, Any]]:
    judgments, prompts = [], []
    values: dict[str, Any] = {"project": project.pk}
    if options.simulated != "include":
        judgments.append(f"judgment.origin {'=' if options.simulated == 'only' else '<>'} 'simulated'")
    for name, sign in (("since", ">="), ("until", "<")):
        if moment := getattr(options, name):
            judgments.append(f"judgment.created_at {sign} %({name})s::timestamptz")
            values[name] = moment
    if options.annotators:
        judgments.append(
            "(person.username = ANY(%(annotators)s)"
            " OR person.kind = 'imported' AND person.display_name = ANY(%(annotators)s))"
        )
        values["annotators"] = list(options.annotators)
    if options.minimum_strength:
        judgments.append("(judgment.strength IS NULL OR judgment.strength >= %(minimum_strength)s)")
        values["minimum_strength"] = options.minimum_strength
    if options.all_bad == "drop":
        judgments.append("NOT judgment.all_bad")
    if split != "all":
        prompts.append("prompt.split = %(split)s")
        values["split"] = split
    if options.languages:
        prompts.append("prompt.language = ANY(%(languages)s)")
        values["languages"] = list(options.languages)
    above = {"replace": f"LEFT {ADJUDICATIONS}", "only": ADJUDICATIONS, "ignore": ""}[options.adjudicated]
    query = QUERY.format(
        adjudications=above,
        adjudicated=f"CASE WHEN adjudication.id IS NULL THEN '' ELSE {ADJUDICATED} END" if above else "''",
        judgment_filters="".join(f"AND {condition} " for condition in judgments),
        prompt_filters="".join(f"AND {condition} " for condition in prompts),
    )
    return query, values


def _parse_line(line: str) -> tuple[ExportTask, list[Any]]:
    """Return a task, and the reviewer's verdict that stands above its judgments, if there is one."""
    pk, prompt_id, split, language, external_id, messages, texts, about, verdicts, above = line.split("\t")
    responses = [
        ExportResponse(pk, text, model or "", policy or "", number, reason, tokens, seed, NO_FLAGS)
        for text, (pk, model, policy, number, reason, tokens, seed) in zip(
            texts.split(UNIT), _read_json(about, 0)[0], strict=True
        )
    ]
    judgments = [_judgment(item, responses) for item in _read_json(verdicts, 0)[0]]
    task = ExportTask(pk, prompt_id, split, language, external_id, messages, responses, judgments)
    return task, _read_json(above, 0)[0] if above else []


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
