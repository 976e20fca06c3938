"""Judgments as they were given: judged rows, which the judged import reads back, with everything known beside them."""

import json
from collections.abc import Iterator, Sequence

import pyarrow

from feedback_app.datasets.exporting.pairs import PairRules
from feedback_app.datasets.exporting.schema import MESSAGES
from feedback_app.datasets.exporting.source import ExportJudgment, ExportResponse, ExportTask

# Ratings, flags and rewrites are keyed by index and attribute: as JSON texts they have one type in every project.
SCHEMA = pyarrow.schema(
    [
        ("id", pyarrow.string()),
        ("external_id", pyarrow.string()),
        ("prompt_id", pyarrow.string()),
        ("split", pyarrow.string()),
        ("language", pyarrow.string()),
        ("prompt", MESSAGES),
        (
            "responses",
            pyarrow.list_(
                pyarrow.struct(
                    [
                        ("text", pyarrow.string()),
                        ("model", pyarrow.string()),
                        ("id", pyarrow.string()),
                        ("policy", pyarrow.string()),
                        ("finish_reason", pyarrow.string()),
                        ("token_count", pyarrow.int64()),
                        ("seed", pyarrow.int64()),
                    ]
                )
            ),
        ),
        (
            "judgments",
            pyarrow.list_(
                pyarrow.struct(
                    [
                        ("annotator", pyarrow.string()),
                        ("ranking", pyarrow.list_(pyarrow.list_(pyarrow.int64()))),
                        ("all_bad", pyarrow.bool_()),
                        ("strength", pyarrow.int64()),
                        ("ratings", pyarrow.string()),
                        ("flags", pyarrow.string()),
                        ("rewrites", pyarrow.string()),
                        ("rationale", pyarrow.string()),
                        ("lead_time", pyarrow.float64()),
                        ("created_at", pyarrow.string()),
                        ("simulated", pyarrow.bool_()),
                        ("id", pyarrow.string()),
                        ("revision", pyarrow.int64()),
                        ("protocol", pyarrow.int64()),
                        ("guidelines", pyarrow.int64()),
                    ]
                )
            ),
        ),
    ]
)
AS_TEXT = ("ratings", "flags", "rewrites")


def lines(tasks: Sequence[ExportTask], rules: PairRules) -> Iterator[str]:
    """Yield one judged row a task."""
    for task in tasks:
        external = json.dumps(task.external_id, ensure_ascii=False) if task.external_id else "null"
        responses = ", ".join(map(_response, task.responses))
        judgments = ", ".join(map(_judgment, task.judgments))
        yield (
            f'{{"id": "{task.id}", "external_id": {external}, "prompt_id": "{task.prompt_id}", '
            f'"split": "{task.split}", "language": "{task.language}", "prompt": {task.messages_json}, '
            f'"responses": [{responses}], '
            f'"judgments": [{judgments}]}}'
        )


def _response(response: ExportResponse) -> str:
    about = json.dumps(
        {
            "model": response.answered_by,
            "id": response.id,
            "policy": response.policy or None,
            "finish_reason": response.finish_reason,
            "token_count": response.token_count,
            "seed": response.seed,
        },
        ensure_ascii=False,
    )
    return f'{{"text": {response.text_json}, {about[1:]}'


def _judgment(judgment: ExportJudgment) -> str:
    return json.dumps(
        {
            "annotator": judgment.annotator,
            "ranking": ranking_of(judgment.ranks) if judgment.ranks else None,
            "all_bad": judgment.all_bad,
            "strength": judgment.strength,
            "ratings": judgment.ratings,
            "flags": judgment.flags,
            "rewrites": judgment.rewrites,
            "rationale": judgment.rationale,
            "lead_time": judgment.lead_time,
            "created_at": judgment.created_at,
            "simulated": judgment.simulated,
            "id": judgment.id,
            "revision": judgment.revision,
            "protocol": judgment.protocol,
            "guidelines": judgment.guidelines,
        },
        ensure_ascii=False,
    )


def ranking_of(ranks: Sequence[int | None]) -> list[list[int]]:
    """Return ranks as tiers of indexes, best first; the unranked are left out."""
    tiers = sorted({rank for rank in ranks if rank is not None})
    return [[place for place, rank in enumerate(ranks) if rank == tier] for tier in tiers]
