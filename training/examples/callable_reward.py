"""PPO from a Python function: python -m training.examples.callable_reward [FOLDER]"""

import json
import sys
import tempfile
from pathlib import Path

from training.api import run_stage
from training.examples.world import SMALL, folder_of, make_policy, write_prompts


def main(folder: Path) -> list[float]:
    """Teach a small model to be kind; print and return the reward after each update."""
    run_stage(
        "ppo", folder / "ppo", policy=make_policy(folder), prompts=write_prompts(folder),
        reward="training.examples.world:kindness", updates=15, rollout_batch=20, minibatch=10, response_length=24,
        lr=1e-3, kl_coef=0.02, **SMALL,
    )  # fmt: skip
    curve = []
    for line in (folder / "ppo" / "progress.jsonl").read_text(encoding="utf-8").splitlines():
        seen = json.loads(line)
        curve.append(seen["objective/scores"])
        print(f"update {seen['update']:3}  kindness {curve[-1]:+.2f}  KL {seen['objective/kl']:.2f} nats")
    return curve


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as temporary:
        main(folder_of(sys.argv, temporary))
