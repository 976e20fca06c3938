"""TRL's unpaired form, for KTO: one completion a row, and whether it is wanted."""

import json
from collections.abc import Iterator, Sequence

import pyarrow

from feedback_app.datasets.exporting.pairs import PairRules
from feedback_app.datasets.exporting.schema import MESSAGES
from feedback_app.datasets.exporting.source import ExportTask
from feedback_app.datasets.formats.preference import answer

SCHEMA = pyarrow.schema(
    [
        ("prompt", MESSAGES),
        ("completion", MESSAGES),
        ("label", pyarrow.bool_()),
        ("id", pyarrow.string()),
        ("weight", pyarrow.float64()),
        ("prompt_id", pyarrow.string()),
        ("response_id", pyarrow.string()),
        ("policy", pyarrow.string()),
        ("finish_reason", pyarrow.string()),
    ]
)


def lines(tasks: Sequence[ExportTask], rules: PairRules) -> Iterator[str]:
    """Yield the best responses of a verdict as wanted and its worst as not; those between say neither."""
    for task in tasks:
        for label in rules.labels_of(task):
            response = task.responses[label.place]
            yield (
                f'{{"prompt": {task.messages_json}, "completion": {answer(task, label.place)}, '
                f'"label": {"true" if label.wanted else "false"}, "id": "{label.id}", "weight": {label.weight}, '
                f'"prompt_id": "{task.prompt_id}", "response_id": "{response.id}", '
                f'"policy": {json.dumps(response.answered_by, ensure_ascii=False)}, '
                f'"finish_reason": {json.dumps(response.finish_reason)}}}'
            )
