"""hh-rlhf's form, which TRL calls implicit: chosen and rejected are whole dialogues that share their beginning."""

import json
from collections.abc import Iterator, Sequence
from typing import Any

import pyarrow
from django.utils.translation import gettext as _

from feedback_app.datasets.exporting.pairs import PairRules
from feedback_app.datasets.exporting.schema import ORIGINS
from feedback_app.datasets.exporting.source import ExportTask
from feedback_app.datasets.formats.base import RowRefused, convert_each
from feedback_app.datasets.formats.dialogues import MARKS, read_dialogue, write_dialogue
from feedback_app.datasets.formats.preference import about, chosen_row

SCHEMA = pyarrow.schema(
    [
        ("chosen", pyarrow.string()),
        ("rejected", pyarrow.string()),
        ("id", pyarrow.string()),
        ("margin", pyarrow.float64()),
        ("weight", pyarrow.float64()),
        ("prompt_id", pyarrow.string()),
        *ORIGINS,
    ]
)


def lines(tasks: Sequence[ExportTask], rules: PairRules) -> Iterator[str]:
    """Yield one row a pair."""
    # JSON text may be joined inside its quotes.
    start = json.dumps(write_dialogue(json.loads(tasks[0].messages_json)) + MARKS["assistant"], ensure_ascii=False)[:-1]
    for task, pair in rules.pairs_of_prompt(tasks):
        chosen, rejected = (task.responses[place].text_json[1:] for place in (pair.chosen, pair.rejected))
        yield f'{{"chosen": {start}{chosen}, "rejected": {start}{rejected}, {about(task, pair)}}}'


def convert_row(row: dict[str, Any]) -> dict[str, Any]:
    """Return the judged row of two dialogues that differ in their last answer."""
    dialogues = {}
    for side in ("chosen", "rejected"):
        text = row.get(side)
        if not isinstance(text, str):
            raise RowRefused(_("%(side)s: a dialogue as text is needed") % {"side": side})
        dialogues[side] = read_dialogue(text)
        if len(dialogues[side]) < 2 or dialogues[side][-1]["role"] != "assistant":
            raise RowRefused(
                _("%(side)s: turns marked Human: and Assistant:, the last of the assistant, are needed")
                % {"side": side}
            )
    if dialogues["chosen"][:-1] != dialogues["rejected"][:-1]:
        raise RowRefused(_("rejected: differs from chosen in more than the last answer"))
    answers = [dialogues[side][-1]["content"] for side in ("chosen", "rejected")]
    return chosen_row(row, dialogues["chosen"][:-1], *answers)


convert = convert_each(convert_row)
