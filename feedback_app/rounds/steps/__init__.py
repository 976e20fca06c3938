"""The steps of a round: each takes a StepRun, writes one directory, and returns what is to be remembered of it."""

from collections.abc import Callable
from typing import Any

from feedback_app.rounds.models import RoundStep
from feedback_app.rounds.steps.adopt import adopt
from feedback_app.rounds.steps.evaluate import evaluate
from feedback_app.rounds.steps.export import export
from feedback_app.rounds.steps.gate import gate
from feedback_app.rounds.steps.push import push
from feedback_app.rounds.steps.train import ppo, reward, sft
from feedback_app.rounds.supervisor import StepRun

STEPS: dict[str, Callable[[StepRun], dict[str, Any]]] = {
    RoundStep.Name.ADOPT: adopt,
    RoundStep.Name.EXPORT: export,
    RoundStep.Name.SFT: sft,
    RoundStep.Name.REWARD: reward,
    RoundStep.Name.PPO: ppo,
    RoundStep.Name.EVALUATE: evaluate,
    RoundStep.Name.GATE: gate,
    RoundStep.Name.PUSH: push,
}
