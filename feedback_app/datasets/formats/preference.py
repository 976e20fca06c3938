"""TRL's preference form: prompt, chosen and rejected as message lists, with a margin and a weight for each pair."""

import hashlib
import json
from collections.abc import Iterator, Sequence
from typing import Any

import pyarrow
from django.utils.translation import gettext as _

from feedback_app.datasets.exporting.pairs import Pair, PairRules
from feedback_app.datasets.exporting.schema import MESSAGES, ORIGINS
from feedback_app.datasets.exporting.source import ExportTask
from feedback_app.datasets.formats.base import RowRefused, convert_each
from feedback_app.datasets.formats.dialogues import MARKS, read_dialogue

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


_text = json.encoder.encode_basestring


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
        f'"chosen_policy": {_text(chosen.answered_by)}, "rejected_policy": {_text(rejected.answered_by)}, '
        f'"chosen_finish_reason": {_text(chosen.finish_reason)}, '
        f'"rejected_finish_reason": {_text(rejected.finish_reason)}'
    )


def convert_row(row: dict[str, Any]) -> dict[str, Any]:
    """Return the judged row of a pair: with a prompt of its own, or with whole conversations that share one."""
    if row.get("prompt") is None and isinstance(row.get("chosen"), str) and isinstance(row.get("rejected"), str):
        row = {**row, **_parted(row["chosen"], row["rejected"])}
    chosen, rejected = (_messages(row, side) for side in ("chosen", "rejected"))
    if row.get("prompt") is not None:
        given = row["prompt"]
        prompt = [{"role": "user", "content": given}] if isinstance(given, str) else given
        if isinstance(prompt, list) and chosen[: len(prompt)] == prompt == rejected[: len(prompt)]:
            chosen, rejected = chosen[len(prompt) :], rejected[len(prompt) :]  # some write the prompt there once more
    else:
        shared = next(
            (n for n, (a, b) in enumerate(zip(chosen, rejected, strict=False)) if a != b),
            min(len(chosen), len(rejected)) - 1,
        )
        prompt, chosen, rejected = chosen[:shared], chosen[shared:], rejected[shared:]
        if not prompt:
            raise RowRefused(
                _("prompt: is needed, or chosen and rejected as whole conversations that share their beginning")
            )
    for side, answer in (("chosen", chosen), ("rejected", rejected)):
        if len(answer) != 1 or answer[0].get("role") != "assistant" or not isinstance(answer[0].get("content"), str):
            raise RowRefused(_("%(side)s: one answer of the assistant is needed after the prompt") % {"side": side})
    return chosen_row(row, prompt, chosen[0]["content"], rejected[0]["content"])


def _parted(chosen: str, rejected: str) -> dict[str, Any]:
    """Return the parts of two texts that begin with their prompt: dialogues by their marks, others where they part.

    The space before the first differing word belongs to the answers, as TRL's extract_prompt has it.
    """
    if MARKS["user"] in chosen and MARKS["user"] in rejected:
        return {"chosen": read_dialogue(chosen), "rejected": read_dialogue(rejected)}
    shared = next(
        (place for place, (a, b) in enumerate(zip(chosen, rejected, strict=False)) if a != b),
        min(len(chosen), len(rejected)),
    )
    if shared and chosen[shared - 1] == " ":
        shared -= 1
    return {"prompt": chosen[:shared] or None, "chosen": chosen[shared:], "rejected": rejected[shared:]}


def _messages(row: dict[str, Any], side: str) -> list[Any]:
    value = row.get(side)
    if isinstance(value, str):
        return [{"role": "assistant", "content": value}]
    if not isinstance(value, list) or not value or not all(isinstance(message, dict) for message in value):
        raise RowRefused(_("%(side)s: a text or a list of messages is needed") % {"side": side})
    return value


def chosen_row(row: dict[str, Any], prompt: Any, chosen: str, rejected: str) -> dict[str, Any]:
    """Return the judged row of one answer chosen over another.

    The answers stand in the order of their hashes: chosen first everywhere would make the order a tell.
    """
    sides = [(chosen, row.get("chosen_policy"), 0), (rejected, row.get("rejected_policy"), 1)]
    sides.sort(key=lambda side: hashlib.sha256(side[0].encode(errors="surrogatepass")).digest())
    judgment: dict[str, Any] = {"annotator": row.get("annotator") or "dataset"}
    judgment["ranking"] = [[[place for *_, place in sides].index(0)], [[place for *_, place in sides].index(1)]]
    if strength := _strength(row.get("margin")):
        judgment["strength"] = strength
    return {
        "prompt": prompt,
        "responses": [{"text": text, "model": model} for text, model, _ in sides],
        "judgments": [judgment],
        "external_id": row.get("id"),
    }


def _strength(margin: Any) -> int:
    """Return the strength that a margin in thirds stands for, 0 where it stands for none."""
    if isinstance(margin, bool) or not isinstance(margin, int | float):
        return 0
    thirds = margin * 3
    return round(thirds) if abs(thirds - round(thirds)) < 1e-3 and 1 <= round(thirds) <= 3 else 0


convert = convert_each(convert_row)
