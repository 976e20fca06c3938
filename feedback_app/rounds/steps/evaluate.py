"""Measure the new policy beside its parent and base, by a judge that PPO has not used."""

from pathlib import Path
from typing import Any

from django.utils.translation import gettext_noop

from feedback_app.rounds.leases import fenced, kept
from feedback_app.rounds.models import RoundStep
from feedback_app.rounds.steps.inputs import base_of, made_by, metrics_of, parent_of, policy_under_test, recipe_of
from feedback_app.rounds.steps.train import train_part
from feedback_app.rounds.supervisor import StepFailed, StepRun
from feedback_app.rounds.workspace import is_complete
from feedback_app.serving.models import PolicyVersion


def evaluate(run: StepRun) -> dict[str, Any]:
    """Return the evaluation's metrics."""
    held, recipe = run.held, recipe_of(run.held)
    files, rewards = made_by(held, RoundStep.Name.EXPORT), made_by(held, RoundStep.Name.REWARD)
    exported = metrics_of(held, RoundStep.Name.EXPORT)
    judge = rewards / ("judge" if exported["pairs/judge"] else "model")
    if held.elsewhere:
        _check_whole(run, files, judge)
    config: dict[str, Any] = {
        "reward": str(judge),
        **recipe.evaluate,
        "policy": policy_under_test(held),
        "parent": parent_of(held).directory,
        "base": base_of(held).directory,
        "prompts": str(files / "eval_prompts.jsonl"),
    }
    if exported["pairs/held_out"]:
        config |= {"preferences": str(files / "held_out.jsonl"), "reward_under_test": str(rewards / "model")}
    _, metrics = train_part(run, "evaluate", "evaluate", config)
    ceiling = {name: value for name, value in exported.items() if name.startswith("agreement/")}
    # A policy made elsewhere was optimised against none of our models.
    apart = bool(exported["pairs/judge"]) or "reward" in recipe.evaluate or bool(held.elsewhere)
    found = {**metrics, **ceiling, "independent_judge": apart}
    if held.elsewhere and held.policy is not None:
        with fenced(round_id=held.pk, fence=held.fence):
            PolicyVersion.objects.filter(pk=held.policy.pk).update(evaluation=found)
    return found


def _check_whole(run: StepRun, *directories: Path) -> None:
    """Verify what another round has left: a round's own steps are verified as it goes on from them."""
    with kept(round_id=run.held.pk, fence=run.held.fence):
        for directory in directories:
            if not is_complete(directory):
                words = gettext_noop("%(folder)s is not whole any more; a round that trains makes one anew")
                raise StepFailed(words, folder=str(directory))
