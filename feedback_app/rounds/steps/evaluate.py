"""Measure the new policy beside its parent and base, by a judge that PPO has not used."""

from typing import Any

from feedback_app.rounds.models import RoundStep
from feedback_app.rounds.steps.inputs import base_of, made_by, metrics_of, parent_of, recipe_of
from feedback_app.rounds.steps.train import train_part
from feedback_app.rounds.supervisor import StepRun


def evaluate(run: StepRun) -> dict[str, Any]:
    """Return the evaluation's metrics."""
    held, recipe = run.held, recipe_of(run.held)
    files, rewards = made_by(held, RoundStep.Name.EXPORT), made_by(held, RoundStep.Name.REWARD)
    exported = metrics_of(held, RoundStep.Name.EXPORT)
    judge = rewards / ("judge" if exported["pairs/judge"] else "model")
    config: dict[str, Any] = {
        "reward": str(judge),
        **recipe.evaluate,
        "policy": str(made_by(held, RoundStep.Name.PPO)),
        "parent": parent_of(held).directory,
        "base": base_of(held).directory,
        "prompts": str(files / "eval_prompts.jsonl"),
    }
    if exported["pairs/held_out"]:
        config |= {"preferences": str(files / "held_out.jsonl"), "reward_under_test": str(rewards / "model")}
    _, metrics = train_part(run, "evaluate", "evaluate", config)
    ceiling = {name: value for name, value in exported.items() if name.startswith("agreement/")}
    return {**metrics, **ceiling, "independent_judge": bool(exported["pairs/judge"]) or "reward" in recipe.evaluate}
