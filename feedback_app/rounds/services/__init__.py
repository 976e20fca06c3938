"""Writes to rounds: started, steered by people, and worked on."""

from feedback_app.rounds.services.elsewhere import evaluate_elsewhere, register_elsewhere
from feedback_app.rounds.services.recipes import publish_recipe, recipe_of
from feedback_app.rounds.services.steering import (
    RoundRefused,
    approve_round,
    cancel_round,
    pause_round,
    queue_fed_rounds,
    reject_round,
    resume_round,
    retry_round,
    settle_round,
    start_round,
)

__all__ = [
    "RoundRefused", "approve_round", "cancel_round", "evaluate_elsewhere", "pause_round", "publish_recipe",
    "queue_fed_rounds", "recipe_of", "register_elsewhere",
    "reject_round", "resume_round", "retry_round", "settle_round", "start_round",
]  # fmt: skip
