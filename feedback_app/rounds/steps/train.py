"""The training steps: each a trainer's run over the files that the export step left."""

import json
import logging
import time
from pathlib import Path
from typing import Any

from django.utils.translation import gettext_noop

from feedback_app.rounds.leases import kept
from feedback_app.rounds.models import RoundStep
from feedback_app.rounds.steps.inputs import made_by, metrics_of, origin_of, recipe_of, reference_of, start_of
from feedback_app.rounds.supervisor import StepRun, TrainerKilled, run_trainer
from feedback_app.rounds.workspace import find_complete, gather, take_over

logger = logging.getLogger(__name__)
RESTARTS = 3
RESTART_AFTER_S = 1.0


def train_part(
    run: StepRun, stage: str, name: str, config: dict[str, Any], part: str = ""
) -> tuple[Path, dict[str, Any]]:
    """Run one trainer to its end, or go on with what another fence left; return its directory and metrics."""
    with kept(round_id=run.held.pk, fence=run.held.fence):
        directory = find_complete(run.held, name, since=run.step.first_fence)
    if directory is None:
        directory = _train(run, stage, name, config, part)
    run.report_whole(directory / "progress.jsonl", part)
    metrics: dict[str, Any] = json.loads((directory / "metrics.json").read_text(encoding="utf-8"))
    return directory, metrics


def _train(run: StepRun, stage: str, name: str, config: dict[str, Any], part: str) -> Path:
    """Run the trainer, from its checkpoint again where something killed it; not for ever, for memory may be short."""
    for left in range(RESTARTS, -1, -1):
        directory, resume = take_over(run.held, name, since=run.step.first_fence)
        try:
            run_trainer(run, stage=stage, config=config, directory=directory, resume=resume, part=part)
            return directory
        except TrainerKilled as killed:
            if not left:
                raise
            logger.warning("round=%s step=%s: %s; going on from its checkpoint", run.held.pk, name, killed)
            time.sleep(RESTART_AFTER_S)
    raise AssertionError("the last try returns or raises")


def sft(run: StepRun) -> dict[str, Any]:
    """Learn from what annotators wrote; with no rewrites there is nothing to do."""
    recipe = recipe_of(run.held)
    if not metrics_of(run.held, RoundStep.Name.EXPORT).get("rewrites"):
        return {"skipped": gettext_noop("no rewrites")}
    files = made_by(run.held, RoundStep.Name.EXPORT)
    _, metrics = train_part(
        run, "sft", "sft", {**recipe.sft, "model": origin_of(run.held), "train": str(files / "sft.jsonl")}
    )
    return metrics


def reward(run: StepRun) -> dict[str, Any]:
    """Train PPO's reward model and, from prompts that it never saw, the judge of the outcome."""
    recipe = recipe_of(run.held)
    files = made_by(run.held, RoundStep.Name.EXPORT)
    settings = {**recipe.reward, "model": start_of(run.held)}
    model, metrics = train_part(
        run, "reward", "reward/model", {**settings, "train": str(files / "reward.jsonl")}, part="reward"
    )
    if metrics_of(run.held, RoundStep.Name.EXPORT)["pairs/judge"]:
        seed = int(settings.get("seed", 0)) + 1
        judge, judged = train_part(
            run, "reward", "reward/judge", {**settings, "train": str(files / "judge.jsonl"), "seed": seed}, part="judge"
        )
        # A worker that died between the two left one of them to the next: they are looked for in one place.
        with kept(round_id=run.held.pk, fence=run.held.fence):
            gather(run.held, "reward", [model, judge])
        metrics = {**metrics, **{f"judge/{name}": value for name, value in judged.items()}}
    return metrics


def ppo(run: StepRun) -> dict[str, Any]:
    """Train the policy against the reward model, or against the reward that an operator's recipe names."""
    recipe = recipe_of(run.held)
    files = made_by(run.held, RoundStep.Name.EXPORT)
    config = {
        "reward": str(made_by(run.held, RoundStep.Name.REWARD) / "model"),
        **recipe.ppo,
        "policy": start_of(run.held),
        "reference": reference_of(run.held),
        "prompts": str(files / "prompts.jsonl"),
    }
    _, metrics = train_part(run, "ppo", "ppo", config)
    return metrics
