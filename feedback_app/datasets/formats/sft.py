"""Rewrites as examples to learn from: a prompt, and the completion that an annotator made of a response."""

import json
from collections.abc import Iterator, Sequence

import pyarrow

from feedback_app.datasets.exporting.pairs import PairRules
from feedback_app.datasets.exporting.schema import MESSAGES
from feedback_app.datasets.exporting.source import ExportTask

SCHEMA = pyarrow.schema(
    [
        ("prompt", MESSAGES),
        ("completion", MESSAGES),
        ("id", pyarrow.string()),
        ("prompt_id", pyarrow.string()),
        ("response_id", pyarrow.string()),
        ("policy", pyarrow.string()),
        ("finish_reason", pyarrow.string()),
    ]
)


def lines(tasks: Sequence[ExportTask], rules: PairRules) -> Iterator[str]:
    """Yield one row a rewrite, whatever its response was: a person finished it, and mended what a flag was for.

    response_id, policy and finish_reason are those of the response that was rewritten.
    """
    for task in tasks:
        for judgment in task.judgments:
            for place, text in sorted(judgment.rewrites.items()):
                response = task.responses[place]
                about = json.dumps(
                    {
                        "completion": [{"role": "assistant", "content": text}],
                        "id": f"{judgment.id}:{place}",
                        "prompt_id": task.prompt_id,
                        "response_id": response.id,
                        "policy": response.answered_by,
                        "finish_reason": response.finish_reason,
                    },
                    ensure_ascii=False,
                )
                yield f'{{"prompt": {task.messages_json}, {about[1:]}'
