"""Runs stages and kills them at named places: python -m tests.training.killed JSON

JSON is a list of {"stage", "settings", "whole", "kills": [{"output", "place", "count"}]}. Everything is imported once,
and each run is a fork of that: a SIGKILL then costs no more than the run itself.
"""

import io
import json
import os
import signal
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import peft  # noqa: F401 - once, before the forks
import torch
from transformers import LlamaForCausalLM, LlamaForSequenceClassification, PreTrainedTokenizerFast  # noqa: F401

from training import checkpoint, language, ppo, pretrain, reward, rollout, sft  # noqa: F401
from training.__main__ import main
from training.records import MANIFEST


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def before(owner: Any, name: str, count: int, when: Callable[..., bool] = lambda *_: True) -> None:
    """Die instead of the count-th call of owner.name whose arguments fulfil `when`."""
    real, seen = getattr(owner, name), 0

    def counted(*given: Any, **named: Any) -> Any:
        nonlocal seen
        seen += when(*given)
        if seen == count and when(*given):
            die()
        return real(*given, **named)

    setattr(owner, name, counted)


def after_line(count: int) -> None:
    """Die when the count-th line of progress has been written."""
    real = checkpoint.OutputDirectory.log

    def logged(self: checkpoint.OutputDirectory, line: Mapping[str, Any]) -> None:
        real(self, line)
        if line["update"] == count:
            die()

    checkpoint.OutputDirectory.log = logged  # type: ignore[method-assign]


def half_written(count: int) -> None:
    """Die in the middle of writing the count-th checkpoint."""
    real, seen = torch.save, 0

    def save(content: Any, file: Any) -> None:
        nonlocal seen
        seen += 1
        if seen == count:
            whole = io.BytesIO()
            real(content, whole)
            file.write(whole.getvalue()[: len(whole.getvalue()) // 2])
            file.flush()
            die()
        real(content, file)

    setattr(torch, "save", save)  # noqa: B010 - another signature, to mypy


def is_checkpoint(path: Path, *_: Any) -> bool:
    return path.parent.name == "checkpoints"


def is_manifest(path: Path, *_: Any) -> bool:
    return path.name == MANIFEST


PLACES: dict[str, Callable[[int], None]] = {
    "after a line": after_line,
    "in a checkpoint": half_written,
    "before a checkpoint has its name": lambda n: before(Path, "rename", n, is_checkpoint),
    "before an old checkpoint goes": lambda n: before(Path, "unlink", n, is_checkpoint),
    "in a rollout": lambda n: before(rollout._State, "step", n),
    "between a rollout and its update": lambda n: before(ppo.PPO, "learn", n),
    "between steps of an update": lambda n: before(ppo.PPO, "step", n),
    "between files of a model": lambda n: before(PreTrainedTokenizerFast, "save_pretrained", n),
    "before the manifest": lambda n: before(checkpoint, "_write_atomically", n, is_manifest),
}


def run(stage: str, settings: Mapping[str, object], output: str, *flags: str, place: str = "", count: int = 0) -> int:
    """Return how a fork that ran a stage ended: its exit code, or minus the signal's number."""
    if (child := os.fork()) == 0:
        if place:
            PLACES[place](count)
        code = 1
        try:
            code = main([stage, "--output", output, *(f"--set={k}={v}" for k, v in settings.items()), *flags])
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def go_through(jobs: list[dict[str, Any]]) -> None:
    """Run each stage whole, then killed and resumed at each place; exit with what went otherwise."""
    for job in jobs:
        stage, settings = job["stage"], job["settings"]
        if (code := run(stage, settings, job["whole"])) != 0:
            sys.exit(f"{stage}: ended with {code}")
        for kill in job["kills"]:
            where = f"{stage}, {kill['place']} {kill['count']}"
            if (code := run(stage, settings, kill["output"], place=kill["place"], count=kill["count"])) != -9:
                sys.exit(f"{where}: ended with {code} and was not killed")
            if (Path(kill["output"]) / MANIFEST).exists():
                sys.exit(f"{where}: was done already")
            if (code := run(stage, settings, kill["output"], "--resume")) != 0:
                sys.exit(f"{where}: ended with {code} when it was resumed")


if __name__ == "__main__":
    go_through(json.loads(sys.argv[1]))
