"""Where a step finds what earlier steps made, and the policies that the round stands on."""

from pathlib import Path
from typing import Any

from django.conf import settings
from django.utils.translation import gettext_noop as _

from feedback_app.rounds.models import Round, RoundStep
from feedback_app.rounds.recipes import Recipe, parse_recipe
from feedback_app.rounds.supervisor import StepFailed
from feedback_app.serving.artifacts import bring_here
from feedback_app.serving.models import PolicyVersion

LENT = (RoundStep.Name.EXPORT, RoundStep.Name.REWARD)


def recipe_of(held: Round) -> Recipe:
    """Return the recipe that was frozen into the round: checked when it was written, so by an operator or a page."""
    return parse_recipe(held.config, by_operator=True)


def made_by(held: Round, name: str) -> Path:
    """Return the directory of a finished step."""
    step = _step(held, name)
    if not step.directory:
        raise StepFailed(_("step %(name)s has left no directory"), name=name)
    return Path(settings.DATA_DIR) / step.directory


def metrics_of(held: Round, name: str) -> dict[str, Any]:
    """Return what a finished step reported."""
    metrics: dict[str, Any] = _step(held, name).metrics
    return metrics


def _step(held: Round, name: str) -> RoundStep:
    """Return a step of the round, or of the one that it borrows prompts and judge from."""
    steps = RoundStep.objects.defer("progress")
    found = steps.filter(round=held, name=name).first()
    if found is None and name in LENT and held.elsewhere.get("borrows"):
        found = steps.filter(round_id=held.elsewhere["borrows"], name=name).first()
    if found is None:
        raise StepFailed(_("there is no step %(name)s"), name=name)
    return found


def policy_under_test(held: Round) -> str:
    """Return the directory of the policy that the round evaluates: the one it trained, or one made elsewhere."""
    if held.elsewhere:
        if held.policy is None:
            raise StepFailed(_("the policy made elsewhere is not registered"))
        return held.policy.directory
    return str(made_by(held, RoundStep.Name.PPO))


def base_of(held: Round) -> PolicyVersion:
    """Return the project's version 0."""
    return PolicyVersion.objects.get(project=held.project, number=0)


def parent_of(held: Round) -> PolicyVersion:
    """Return the version that was live when the round was started."""
    return held.parent or base_of(held)


def bring_what_it_stands_on(held: Round) -> None:
    """Have the policies and the results that a round did not make on this machine, where a store has them."""
    for policy in filter(None, (parent_of(held), base_of(held), held.policy)):
        bring_here(policy.directory)
    if not (borrowed := held.elsewhere.get("borrows")):
        return
    lent = RoundStep.objects.defer("progress").filter(round_id=borrowed, name__in=LENT)
    for step in lent.exclude(directory=""):
        directory = Path(settings.DATA_DIR) / step.directory
        for part in (directory, directory / "model", directory / "judge"):
            bring_here(part)


def start_of(held: Round) -> str:
    """Return the directory that training starts from: the recipe's choice, or this round's own SFT."""
    if held.config["use_sft"] and _has_sft(held):
        return str(made_by(held, RoundStep.Name.SFT))
    return origin_of(held)


def origin_of(held: Round) -> str:
    """Return the directory of the policy that the recipe starts from."""
    policy = parent_of(held) if held.config["start_from"] == "parent" else base_of(held)
    return policy.directory


def _has_sft(held: Round) -> bool:
    return not metrics_of(held, RoundStep.Name.SFT).get("skipped")


def reference_of(held: Round) -> str:
    """Return the directory of the policy that KL is measured from while training."""
    policy = parent_of(held) if held.config["reference"] == "parent" else base_of(held)
    return policy.directory
