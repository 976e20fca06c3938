"""Every stage, from random weights to an evaluation: python -m training.examples.whole_pipeline [FOLDER]"""

import sys
import tempfile
from pathlib import Path
from typing import Any

from training.api import run_stage
from training.examples.world import SMALL, folder_of, make_policy, write_preferences, write_prompts


def main(folder: Path) -> dict[str, Any]:
    """Pretrain, fine-tune, train a reward model, optimise against it and evaluate; print and return what came of it."""
    policy, prompts = make_policy(folder), write_prompts(folder)
    preferences = write_preferences(folder, 200)
    learned = run_stage("reward", folder / "reward", model=policy, train=preferences, lr=1e-3, **SMALL)
    print(f"reward model: right about {learned['reward/accuracy']:.0%} of pairs on prompts it never saw")
    run_stage(
        "ppo", folder / "ppo", policy=policy, prompts=prompts, reward=str(folder / "reward"), updates=15,
        rollout_batch=20, minibatch=10, response_length=24, lr=1e-3, kl_coef=0.02, **SMALL,
    )  # fmt: skip
    seen = run_stage(
        "evaluate", folder / "evaluation", policy=str(folder / "ppo"), parent=policy, prompts=prompts,
        reward="training.examples.world:kindness", response_length=24, **SMALL,
    )  # fmt: skip
    print(f"kindness: {seen['objective/scores_parent']:+.2f} before, {seen['objective/scores']:+.2f} after PPO")
    print(f"it wins {seen['win_rate/parent']:.0%} of prompts, {seen['kl/parent']:.1f} nats from where it began")
    return seen


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as temporary:
        main(folder_of(sys.argv, temporary))
