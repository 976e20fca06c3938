"""Attribute scores (HelpSteer2's form) as judged answers: of a prompt's responses the higher weighted sum is better."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from training.records import (
    MOST_RESPONSES,
    DataError,
    Messages,
    PreferenceRow,
    RankingRow,
    parse_messages,
    read_lines,
    read_number,
)

# What else stands in a row of the export, and in HelpSteer2's own files.
BESIDE = ("prompt", "response", "id", "prompt_id", "response_id", "policy", "finish_reason", "weight")
# A prompt of several turns as HelpSteer2 writes it.
_TURN = re.compile(r"(?:^|\n)<extra_id_[01]>(User|Assistant|System|Tool)\n")


def is_ratings(path: str) -> bool:
    """Say whether a file's first row is a rated response."""
    return any("response" in row and "chosen" not in row for _, row in [next(iter(read_lines(path)), (0, {}))])


def read_ratings(path: str, weights: Mapping[str, float]) -> list[PreferenceRow | RankingRow]:
    """Read {"prompt", "response", attribute: number, ...} lines; return a row for each prompt.

    A response's score is the sum of its attributes by their weights; without weights each counts alike. One that is
    rated more than once has the mean. Of two responses the margin is their distance as a share of the file's widest.

    Raises:
        DataError: names the file and line, or the prompt that has too few or too many responses.
    """
    prompts: dict[str, Messages] = {}
    scores: dict[str, dict[str, list[float]]] = {}
    for number, row in read_lines(path):
        where = f"{path}:{number}"
        if not isinstance(row.get("response"), str):
            raise DataError(f"{where}: response: text is needed")
        prompt = _prompt(row.get("prompt"), where)
        key = str(row.get("prompt_id") or prompt)
        prompts.setdefault(key, prompt)
        scores.setdefault(key, {}).setdefault(row["response"], []).append(_score(row, weights, where))
    if not prompts:
        raise DataError(f"{path}: no rows")
    means = {
        key: {text: sum(values) / len(values) for text, values in rated.items()} for key, rated in scores.items()
    }  # fmt: skip
    widest = max(max(rated.values()) - min(rated.values()) for rated in means.values())
    return [_judged(prompts[key], rated, key, widest, path) for key, rated in means.items()]


def _prompt(value: object, where: str) -> Messages:
    if not isinstance(value, str):
        return parse_messages(value, f"{where}: prompt")
    before, *turns = _TURN.split(value)
    messages: Messages = [{"role": "user", "content": before}] if before or not turns else []
    for name, content in zip(turns[::2], turns[1::2], strict=True):
        messages.append({"role": name.lower(), "content": content})
    return messages


def _score(row: Mapping[str, Any], weights: Mapping[str, float], where: str) -> float:
    if not weights:
        values = [read_number(value, f"{where}: {name}") for name, value in row.items() if name not in BESIDE]
        if not values:
            raise DataError(f"{where}: an attribute's score is needed")
        return sum(values) / len(values)
    return sum(weight * read_number(row.get(name), f"{where}: {name}") for name, weight in weights.items())


def _judged(
    prompt: Messages, rated: Mapping[str, float], key: str, widest: float, path: str
) -> PreferenceRow | RankingRow:
    if not 2 <= len(rated) <= MOST_RESPONSES:
        raise DataError(f"{path}: prompt {key[:80]}: {len(rated)} rated responses; 2 to {MOST_RESPONSES} are needed")
    texts: Sequence[str] = sorted(rated, key=lambda text: -rated[text])
    answers: list[Messages] = [[{"role": "assistant", "content": text}] for text in texts]
    tiers = sorted(set(rated.values()), reverse=True)
    if len(texts) == len(tiers) == 2:
        margin = (tiers[0] - tiers[1]) / widest
        return PreferenceRow(prompt, chosen=answers[0], rejected=answers[1], margin=margin, prompt_id=key)
    return RankingRow(prompt, answers, [tiers.index(rated[text]) for text in texts], prompt_id=key)
