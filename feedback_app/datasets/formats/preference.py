"""TRL's preference form: prompt, chosen and rejected as message lists, with a margin and a weight for each pair."""

import json
from collections.abc import Iterator, Sequence

import pyarrow

from feedback_app.datasets.exporting.pairs import Pair, PairRules
from feedback_app.datasets.exporting.schema import MESSAGES, ORIGINS
from feedback_app.datasets.exporting.source import ExportTask

SCHEMA = pyarrow.schema(
    [
        ("prompt", MESSAGES),
        ("chosen", MESSAGES),
        ("rejected", MESSAGES),
        ("id", pyarrow.string()),
        ("margin", pyarrow.float64()),
        ("weight", pyarrow.float64()),
        ("prompt_id", pyarrow.string()),
        *ORIGINS,
    ]
)


def lines(tasks: Sequence[ExportTask], rules: PairRules) -> Iterator[str]:
    """Yield one row a pair."""
    for task, pair in rules.pairs_of_prompt(tasks):
        yield (
            f'{{"prompt": {task.messages_json}, "chosen": {answer(task, pair.chosen)}, '
            f'"rejected": {answer(task, pair.rejected)}, {about(task, pair)}}}'
        )


def answer(task: ExportTask, place: int) -> str:
    """Return a response as the list of one assistant message, in JSON."""
    return f'[{{"role": "assistant", "content": {task.responses[place].text_json}}}]'


def about(task: ExportTask, pair: Pair) -> str:
    """Return what every row of a pair says beside its texts, as the inside of a JSON object."""
    chosen, rejected = task.responses[pair.chosen], task.responses[pair.rejected]
    return (
        f'"id": "{pair.id}", "margin": {pair.margin}, "weight": {pair.weight}, "prompt_id": "{task.prompt_id}", '
        f'"chosen_id": "{chosen.id}", "rejected_id": "{rejected.id}", '
        f'"chosen_policy": {json.dumps(chosen.answered_by, ensure_ascii=False)}, '
        f'"rejected_policy": {json.dumps(rejected.answered_by, ensure_ascii=False)}, '
        f'"chosen_finish_reason": "{chosen.finish_reason}", "rejected_finish_reason": "{rejected.finish_reason}"'
    )
