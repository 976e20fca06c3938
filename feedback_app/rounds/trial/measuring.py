"""Run two steps of each trainer on the longest examples there are, and measure what they take.

The longest, so that no batch of the round needs more memory than what was measured; the time is then an upper bound.
"""

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from django.conf import settings

from feedback_app.rounds.estimates import data_of, shape_of
from feedback_app.rounds.footprint import Cost, costs_of
from feedback_app.rounds.machine import Gauge
from feedback_app.rounds.models import Trial
from feedback_app.rounds.recipes import Recipe, parse_recipe
from feedback_app.rounds.trainers import last_words, log_path, trainer, write_command
from feedback_app.rounds.trial.examples import BATCHES, write_examples
from feedback_app.serving.selectors import deployment_of
from feedback_app.serving.services import ensure_base_policy

POLL_S, GAUGE_EVERY_S = 0.05, 0.5
# The first step is slower than the rest: caches are cold, memory is asked for. The second one is what is timed.
STEPS = 2
KILLED = -9


class TrialFailed(RuntimeError):
    """A trainer could not take its two steps; the message is for the manager."""


class Keeper(Protocol):
    """Who keeps the try's lease while a trainer runs."""

    def heartbeat(self) -> None: ...

    def note(self) -> None: ...


def trial_dir(job: Trial) -> Path:
    """Return where a try's trainers write; it is removed when the try ends."""
    return Path(settings.DATA_DIR) / "trials" / str(job.pk) / f"f{job.fence}"


def measure_all(job: Trial, keeper: Keeper) -> None:
    """Take two steps of each trainer and put what they took into the row."""
    recipe = parse_recipe(job.config, by_operator=True)
    home = trial_dir(job)
    home.mkdir(parents=True, exist_ok=True)
    try:
        examples = write_examples(project=job.project, recipe=recipe, folder=home)
    except ValueError as error:
        raise TrialFailed(str(error)) from error
    origin, reference = (_directory(job, choice) for choice in (recipe.start_from, recipe.reference))
    costs = _costs(job, recipe)
    for stage, config in _configs(recipe, origin, reference, home, examples).items():
        job.stage = stage
        keeper.note()
        job.results = [*job.results, _measure(job, keeper, stage, config, home / stage, costs.get(stage, 0.0))]
    keeper.note()


def _directory(job: Trial, choice: str) -> str:
    """Return the directory of the live policy or of the base; neither is written to."""
    deployment = deployment_of(project=job.project)
    if choice == "parent" and deployment is not None:
        return deployment.live.directory
    return ensure_base_policy(project=job.project).directory


def _costs(job: Trial, recipe: Recipe) -> dict[str, float]:
    """Return the operations of one step of each trainer, to go from this recipe to another one."""
    shape = shape_of(project=job.project, recipe=recipe)
    if shape is None:
        return {}
    costs: list[Cost] = costs_of(recipe, shape, data_of(project=job.project, recipe=recipe), on_gpu=False)
    return {cost.stage: cost.operations for cost in costs}


def _configs(
    recipe: Recipe, origin: str, reference: str, home: Path, examples: Mapping[str, Path]
) -> dict[str, dict[str, Any]]:
    """Return each trainer's config: the recipe's own, with as much to do as two steps are."""
    quiet = {"tensorboard": False, "checkpoint_every": 1_000_000}
    configs: dict[str, dict[str, Any]] = {}
    if "sft" in examples:
        sft = {**recipe.sft, **quiet, "epochs": 1, "patience": 0, "warmup": 0}
        configs["sft"] = {**sft, "model": origin, "train": str(examples["sft"])}
    once = {"epochs": 1, "evaluations": 1, "ensemble": 0, "flip_share": 0.0, "adaptive_margin": False}
    configs["reward"] = {
        **recipe.reward, **quiet, **once,
        "model": origin, "train": str(examples["train"]), "validation": str(examples["validation"]),
    }  # fmt: skip
    configs["ppo"] = {
        "reward": str(home / "reward"), **recipe.ppo, **quiet, "updates": STEPS, "critic_warmup": 0,
        "policy": origin, "reference": reference, "prompts": str(examples["prompts"]),
    }  # fmt: skip
    batch = int(recipe.evaluate.get("batch", 16))
    configs["evaluate"] = {
        "reward": str(home / "reward"), **recipe.evaluate, "tensorboard": False, "max_prompts": STEPS * batch,
        "policy": str(home / "ppo"), "prompts": str(examples["evaluate"]),
    }  # fmt: skip
    return configs


def _measure(
    job: Trial, keeper: Keeper, stage: str, config: Mapping[str, Any], directory: Path, operations: float
) -> dict[str, Any]:
    """Run one trainer to the end of its two steps; return what a step took, and what loading and saving took."""
    command = write_command(job.config["launcher"], stage=stage, config=config, directory=directory, resume=False)
    began, seen = time.monotonic(), Arrivals(directory / "progress.jsonl")
    with trainer(command, log_path(directory)) as process:
        gauge, gauged_at = Gauge(process.pid), 0.0
        while (code := process.poll()) is None:
            now = time.monotonic()
            if now - gauged_at >= GAUGE_EVERY_S:
                gauged_at = now
                gauge.read()  # nvidia-smi is asked too; memory's own high-water mark misses nothing in between
            seen.look(now)
            keeper.heartbeat()
            time.sleep(POLL_S)
    seen.look(time.monotonic())
    if code != 0:
        words = last_words(log_path(directory))
        killed = " (killed: memory may have run out)" if code == KILLED else ""
        raise TrialFailed(f"{stage} ended with exit code {code}{killed}: {words}")
    seconds, took = seen.seconds_a_step(), time.monotonic() - began
    steps = BATCHES if stage in ("sft", "reward") else STEPS
    return {
        "stage": stage, "seconds": seconds, "overhead": max(0.0, took - steps * seconds),
        "memory": gauge.peak, "gpu_memory": gauge.gpu_peak, "operations": operations,
    }  # fmt: skip


class Arrivals:
    """When each line of progress.jsonl came, and what the trainer's own clock says in it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.lines: list[dict[str, Any]] = []
        self.came: list[float] = []

    def look(self, now: float) -> None:
        """Read the whole lines that are new."""
        if not self.path.is_file():
            return
        whole = self.path.read_bytes()
        lines = whole[: whole.rfind(b"\n") + 1].splitlines()
        for line in lines[len(self.lines) :]:
            self.lines.append(json.loads(line))
            self.came.append(now)

    def seconds_a_step(self) -> float:
        """Return how long the second step took: by the trainer's own clock, else by when its line came."""
        if len(self.lines) < STEPS:
            raise TrialFailed("the trainer ended before its second step")
        second = self.lines[STEPS - 1]
        if "time/update_s" in second:
            return float(second.get("time/rollout_s", 0.0)) + float(second["time/update_s"])
        return max(POLL_S, self.came[STEPS - 1] - self.came[STEPS - 2])
