"""A world small enough to learn in seconds: sentences that call things kind or dull, and a model that writes them."""

import json
import random
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from transformers.utils import logging

from training.api import run_stage
from training.records import Messages

THINGS = ("cat", "dog", "house", "river", "garden", "teacher", "song", "train", "letter", "winter")
KIND = ("lovely", "bright", "gentle")
DULL = ("awful", "gloomy", "rude")
# A model this small loses by a second thread.
SMALL: dict[str, Any] = {"dtype": "float32", "threads": 1}
QUESTIONS = tuple(f"Tell me about the {thing}." for thing in THINGS)


def say(thing: str, words: Sequence[str], draw: random.Random) -> str:
    """Return a sentence about a thing."""
    return f"The {thing} is {draw.choice(words)} and {draw.choice(words)}."


def kindness(prompts: Sequence[Messages], responses: Sequence[str]) -> list[float]:
    """Score each response from -1, all dull, to 1, all kind: a reward that needs no model.

    A share, not a count: counted, more words would be kinder, and PPO would learn to repeat itself.
    """
    counts = [[sum(text.count(word) for word in words) for words in (KIND, DULL)] for text in responses]
    return [(kind - dull) / max(1, kind + dull) for kind, dull in counts]


def write_lines(path: Path, rows: Iterable[Mapping[str, Any]]) -> str:
    """Write JSON lines; return the path as text."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def make_policy(folder: Path) -> str:
    """Pretrain a random model on sentences and fine-tune it to answer, kindly or not; return its directory.

    A quarter of a million weights and a tokenizer of its own: a few seconds on one core.
    """
    draw = random.Random(0)
    tone = (KIND, DULL)
    texts = [say(draw.choice(THINGS), draw.choice(tone), draw) for _ in range(300)]
    run_stage(
        "pretrain", folder / "pretrained", train=write_lines(folder / "texts.jsonl", ({"text": t} for t in texts)),
        near_duplicates=0.0, vocabulary=360, hidden_size=64, layers=2, heads=4, max_length=64, epochs=2, lr=3e-3,
        **SMALL,
    )  # fmt: skip
    rows = [
        {"prompt": f"Tell me about the {thing}.", "completion": say(thing, draw.choice(tone), draw)}
        for thing in THINGS
        for _ in range(40)
    ]
    run_stage(
        "sft", folder / "policy", model=str(folder / "pretrained"), train=write_lines(folder / "answers.jsonl", rows),
        epochs=3, lr=3e-3, schedule="cosine", batch=16, **SMALL,
    )  # fmt: skip
    return str(folder / "policy")


def write_prompts(folder: Path) -> str:
    """Write the questions; return the file."""
    return write_lines(folder / "prompts.jsonl", ({"prompt": question} for question in QUESTIONS))


def write_preferences(folder: Path, count: int, flipped: float = 0.0) -> str:
    """Write pairs in which the kind answer is chosen, but for a share that says the opposite; return the file."""
    draw = random.Random(1)
    rows = []
    for _ in range(count):
        thing = draw.choice(THINGS)
        pair = [say(thing, KIND, draw), say(thing, DULL, draw)]
        if wrong := draw.random() < flipped:
            pair.reverse()
        name = "wrong" if wrong else "right"
        rows.append({"prompt": f"Tell me about the {thing}.", "chosen": pair[0], "rejected": pair[1], "id": name})
    return write_lines(folder / "preferences.jsonl", rows)


def folder_of(arguments: Sequence[str], temporary: str) -> Path:
    """Return the folder that an example's command line names, made where it is not there; else the temporary one."""
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    logging.set_verbosity_error()  # type: ignore[no-untyped-call]  # of a new head's weights it would say that they are missing
    folder = Path(arguments[1] if len(arguments) > 1 else temporary)
    folder.mkdir(parents=True, exist_ok=True)
    return folder
