"""Judgments as they were given: judged rows, which the judged import reads back, with everything known beside them."""

import json
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any

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
        external = task.external_json if task.external_json != '""' else "null"
        responses = ", ".join(map(_response, task.responses))
        judgments = ", ".join(map(_judgment, task.judgments))
        yield (
            f'{{"id": "{task.id}", "external_id": {external}, "prompt_id": "{task.prompt_id}", '
            f'"split": "{task.split}", "language": {_text(task.language)}, "prompt": {task.messages_json}, '
            f'"responses": [{responses}], "judgments": [{judgments}]}}'
        )


# Written out by hand where the value's form is known: an encoder's call for each row is what an export waits for.
def _response(response: ExportResponse) -> str:
    policy = _text(response.policy) if response.policy else "null"
    tokens, seed = response.token_count, response.seed
    return (
        f'{{"text": {response.text_json}, "model": {_text(response.policy or response.model)}, "id": "{response.id}", '
        f'"policy": {policy}, "finish_reason": {_text(response.finish_reason)}, '
        f'"token_count": {"null" if tokens is None else tokens}, "seed": {"null" if seed is None else seed}}}'
    )


def _judgment(judgment: ExportJudgment) -> str:
    return (
        f'{{"annotator": {_text(judgment.annotator)}, "ranking": {_ranking(tuple(judgment.ranks))}, '
        f'"all_bad": {"true" if judgment.all_bad else "false"}, "strength": {_or_null(judgment.strength)}, '
        f'"ratings": {_object(judgment.ratings) if judgment.ratings else "{}"}, '
        f'"flags": {_object(judgment.flags) if judgment.flags else "{}"}, '
        f'"rewrites": {_object(judgment.rewrites) if judgment.rewrites else "{}"}, '
        f'"rationale": {_text(judgment.rationale)}, '
        f'"lead_time": {_or_null(judgment.lead_time)}, "created_at": "{judgment.created_at}", '
        f'"simulated": {"true" if judgment.simulated else "false"}, "id": "{judgment.id}", '
        f'"revision": {judgment.revision}, "protocol": {judgment.protocol}, '
        f'"guidelines": {_or_null(judgment.guidelines)}}}'
    )


_text = json.encoder.encode_basestring


def _or_null(value: float | None) -> str:
    return "null" if value is None else repr(value)


def _object(value: Mapping[int, Any]) -> str:
    return json.dumps(value, ensure_ascii=False)


@lru_cache(maxsize=4096)
def _ranking(ranks: tuple[int | None, ...]) -> str:
    """Return ranks as JSON: millions of judgments come to a few of them."""
    return str(ranking_of(ranks)) if ranks else "null"


def ranking_of(ranks: Sequence[int | None]) -> list[list[int]]:
    """Return ranks as tiers of indexes, best first; the unranked are left out."""
    tiers = sorted({rank for rank in ranks if rank is not None})
    return [[place for place, rank in enumerate(ranks) if rank == tier] for tier in tiers]
