"""Judged answers as tokens: a pair is a ranking of two, and whole prompts stand on one side of a split."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from training.models import encode, render_dialogue, render_prompt
from training.records import DataError, Messages, PreferenceRow, RankingRow
from training.shared_prefix import packed_length

Judged = PreferenceRow | RankingRow
Row = TypeVar("Row", PreferenceRow, RankingRow, Judged)


@dataclass(frozen=True)
class Comparison:
    """A judged row as tokens, of a pair the chosen answer first. Ranks count up from the best; equal ones tie."""

    texts: list[list[int]]
    ranks: list[int]
    margin: float | None
    weight: float
    prompt_id: str
    id: str = ""
    answers: tuple[int, ...] = ()  # how many tokens at the end of each text are the answer's; none were asked for

    @property
    def length(self) -> int:
        """Return the tokens of all its texts, what they share counted once: rows alike in it need little padding."""
        return packed_length(self.texts)

    @property
    def is_pair(self) -> bool:
        """Say whether one of two answers is the better."""
        return self.ranks == [0, 1]

    def turned(self) -> "Comparison":
        """Return a pair the other way round."""
        return replace(self, texts=self.texts[::-1], answers=self.answers[::-1])


def tokenize(
    tokenizer: Any, rows: Sequence[Judged], max_length: int, *, with_answers: bool = False
) -> list[Comparison]:
    """Return rows as tokens; of a dialogue that is too long the beginning goes, so that the answers stay."""
    return [_comparison(tokenizer, row, max_length, with_answers) for row in rows]


def _comparison(tokenizer: Any, row: Judged, max_length: int, with_answers: bool) -> Comparison:
    if isinstance(row, PreferenceRow):
        answers, ranks, margin = [row.chosen, row.rejected], [0, 1], row.margin
    else:
        answers, ranks, margin = row.responses, row.ranks, None
    dialogues = [render_dialogue(tokenizer, [*row.prompt, *answer]) for answer in answers]
    texts = [encode(tokenizer, dialogue)[-max_length:] for dialogue in dialogues]
    counts: tuple[int, ...] = ()
    if with_answers:
        prompts = [[*row.prompt, *answer][:-1] for answer in answers]
        counts = tuple(_answer_length(tokenizer, *each) for each in zip(prompts, dialogues, texts, strict=True))
    return Comparison(texts, ranks, margin, row.weight, row.prompt_id, row.id, counts)


def _answer_length(tokenizer: Any, prompt: Messages, dialogue: str, text: list[int]) -> int:
    """Return how many tokens the last turn has, its end included; of a cut text all but the first at most."""
    before = render_prompt(tokenizer, prompt)
    if not dialogue.startswith(before):
        raise DataError("chat template: it writes an answered prompt differently from an open one; lm_coef must be 0")
    return min(len(encode(tokenizer, dialogue[len(before) :])), len(text) - 1)


def longest(comparison: Comparison) -> int:
    """Return the tokens of the longest of a comparison's texts."""
    return max(map(len, comparison.texts))


def as_pairs(rows: Sequence[Judged]) -> list[PreferenceRow]:
    """Return pairs as they are, and of rankings every pair they imply: what accuracy is counted on."""
    return [pair for row in rows for pair in ([row] if isinstance(row, PreferenceRow) else row.pairs())]


def split_by_prompt(rows: Sequence[Row], share: float) -> tuple[list[Row], list[Row]]:
    """Return (train, validation): whole prompts go to one side, by a hash, so that no validation prompt is trained on.

    Where chance gives one side nothing, its nearest prompt by hash is moved there.
    """
    places = {row.prompt_id: _place(row.prompt_id) for row in rows}
    ordered = sorted(places, key=lambda prompt: places[prompt])
    if len(ordered) < 2:
        raise DataError("train: rows of two prompts at least are needed to split validation off; or give validation")
    held = {prompt for prompt in ordered if places[prompt] < share} or {ordered[0]}
    if len(held) == len(ordered):
        held.discard(ordered[-1])
    return [row for row in rows if row.prompt_id not in held], [row for row in rows if row.prompt_id in held]


def _place(prompt_id: str) -> float:
    return int.from_bytes(hashlib.sha256(prompt_id.encode()).digest()[:8], "big") / 2**64
