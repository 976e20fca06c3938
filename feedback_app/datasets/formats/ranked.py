"""Rankings whole: a prompt, its responses, and the rank of each, 0 best, equal for a tie."""

import json
from collections.abc import Iterator, Sequence

import pyarrow

from feedback_app.datasets.exporting.pairs import PairRules
from feedback_app.datasets.exporting.schema import MESSAGES
from feedback_app.datasets.exporting.source import ExportTask

SCHEMA = pyarrow.schema(
    [
        ("prompt", MESSAGES),
        ("responses", pyarrow.list_(pyarrow.string())),
        ("ranks", pyarrow.list_(pyarrow.int64())),
        ("id", pyarrow.string()),
        ("weight", pyarrow.float64()),
        ("prompt_id", pyarrow.string()),
        ("response_ids", pyarrow.list_(pyarrow.string())),
        ("policies", pyarrow.list_(pyarrow.string())),
        ("finish_reasons", pyarrow.list_(pyarrow.string())),
    ]
)


def lines(tasks: Sequence[ExportTask], rules: PairRules) -> Iterator[str]:
    """Yield one row a judgment, or one a task where judgments are combined; the unranked are left out of it."""
    for task in tasks:
        for ranking in rules.rankings_of(task):
            responses = [task.responses[place] for place in ranking.places]
            about = json.dumps(
                {
                    "ranks": ranking.ranks,
                    "id": ranking.id,
                    "weight": ranking.weight,
                    "prompt_id": task.prompt_id,
                    "response_ids": [response.id for response in responses],
                    "policies": [response.answered_by for response in responses],
                    "finish_reasons": [response.finish_reason for response in responses],
                },
                ensure_ascii=False,
            )
            texts = ", ".join(response.text_json for response in responses)
            yield f'{{"prompt": {task.messages_json}, "responses": [{texts}], {about[1:]}'
