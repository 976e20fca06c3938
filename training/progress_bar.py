"""A bar for somebody who watches a stage at a terminal; a log, a pipe and a supervisor get none."""

import os
import sys
from collections.abc import Mapping
from typing import Any

from training import processes
from training.config import LIFELINE_VARIABLE

# What stands beside the bar, of the figures that a line has.
SHOWN = {
    "objective/scores": "score", "objective/kl": "KL", "loss/reward": "loss", "loss/train": "loss",
    "loss/validation": "validation", "reward/accuracy": "accuracy", "role": "of",
}  # fmt: skip


class ProgressBar:
    """Shows the lines of progress.jsonl as they are written; to be closed before anything else is said."""

    def __init__(self) -> None:
        self.bar: Any = None
        self.figures: dict[str, str] = {}  # the last of each: not every line has all

    def show(self, line: Mapping[str, Any]) -> None:
        """Move to a line's update, where somebody watches."""
        if not is_watched() or "updates" not in line:
            return
        if self.bar is None:
            from tqdm import tqdm  # for those who watch

            self.bar = tqdm(total=line["updates"], initial=line["update"] - 1, file=sys.stderr, dynamic_ncols=True)
        self.figures |= {
            name: f"{line[key]:.3g}" if isinstance(line[key], float) else str(line[key])
            for key, name in SHOWN.items()
            if line.get(key) is not None
        }
        self.bar.set_postfix(self.figures, refresh=False)
        self.bar.update(line["update"] - self.bar.n)

    def close(self) -> None:
        """Leave the bar as it is, on a line of its own."""
        if self.bar is not None:
            self.bar.close()
            self.bar = None


def is_watched() -> bool:
    """Say whether standard error is a terminal, no supervisor holds the process, and it is the one that speaks."""
    return sys.stderr.isatty() and LIFELINE_VARIABLE not in os.environ and processes.is_first()
