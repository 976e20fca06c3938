"""Where the seconds of a PPO update and of a reward model's step go: the parts by the clock, the operators by torch.

    python -m benchmarks.where_time_goes [--model var/models/base] [--work ppo reward] [--rank 0] [--critic head]
                                         [--attention eager]

The work is that of trainers.py. Parts are timed in one run, without a profiler's own weight; operators in one more
update under torch.profiler. Prints one JSON line: seconds by part (the parts of a part are counted once, in the inner
one), and the ten operators that took most.
"""

import argparse
import json
import os
import resource
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from pathlib import Path
from typing import Any

# As the stages' own command line does, before torch is loaded: threads that spin would be counted as work.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import torch

from benchmarks.trainers import BATCH, EPOCHS, NEW_TOKENS, PAIR_BATCH, PAIR_TOKENS, ROOT, prepare
from training import models
from training.allocator import keep_freed_memory
from training.config import load_config

TOP = 10
STEPS = 4  # of the reward model: half of the pairs


class Clock:
    """Seconds by part; while an inner part runs, the outer one's clock stands still."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self.open: list[str] = []
        self.since = time.perf_counter()

    def _turn(self) -> None:
        now = time.perf_counter()
        if self.open:
            self.seconds[self.open[-1]] = self.seconds.get(self.open[-1], 0.0) + now - self.since
        self.since = now

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Count a block's time as a part's."""
        self._turn()
        self.open.append(name)
        try:
            yield
        finally:
            self._turn()
            self.open.pop()

    def watch(self, owner: Any, attribute: str, name: str) -> None:
        """Count every call of a function or method as a part's."""
        inner: Callable[..., Any] = getattr(owner, attribute)

        @wraps(inner)
        def timed(*args: Any, **kwargs: Any) -> Any:
            with self.part(name):
                return inner(*args, **kwargs)

        setattr(owner, attribute, timed)


def settings(stage: str, values: dict[str, Any]) -> Any:
    """Return a stage's config from settings, as the command line makes it."""
    return load_config(stage, "", [f"{key}={value}" for key, value in values.items()])


def profile(work: Callable[[], Any], clock: Clock) -> dict[str, Any]:
    """Warm up, time the parts of one piece of work, and ask torch for the operators of another."""
    work()
    clock.seconds.clear()
    began, cpu_began = time.perf_counter(), time.process_time()
    with clock.part("everything else"):
        work()
    parts = {name: round(seconds, 2) for name, seconds in sorted(clock.seconds.items(), key=lambda item: -item[1])}
    total, cpu = round(time.perf_counter() - began, 2), round(time.process_time() - cpu_began, 2)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as seen:
        work()
    operators = sorted(seen.key_averages(), key=lambda operator: -operator.self_cpu_time_total)[:TOP]
    return {
        "total_s": total,
        "cpu_s": cpu,  # of all threads: what a busy machine does not stretch
        "max_rss_gb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6, 2),
        "parts_s": parts,
        "operators_s": {operator.key: round(operator.self_cpu_time_total / 1e6, 2) for operator in operators},
    }


def ppo(folder: Path, model: str, critic: str, rank: int) -> dict[str, Any]:
    """Profile one PPO update."""
    from training import ppo as stage
    from training.optimiser import MasterWeights

    config = settings("ppo", {
        "policy": model, "reward": str(folder / "reward"), "prompts": str(folder / "prompts.jsonl"),
        "rollout_batch": BATCH, "minibatch": BATCH, "response_length": NEW_TOKENS, "ppo_epochs": EPOCHS,
        "critic": critic, "lora_rank": rank,
    })  # fmt: skip
    run, clock = stage.PPO(config), Clock()
    clock.watch(stage, "sample_responses", "rollout")
    clock.watch(stage.PPO, "score", "score by policy, reference and critic")
    clock.watch(stage, "judged_together", "reward model")
    for loss in ("_policy_loss", "_value_loss"):
        clock.watch(stage.PPO, loss, "forward")
    clock.watch(torch.Tensor, "backward", "backward")
    clock.watch(MasterWeights, "collect", "optimiser")
    clock.watch(MasterWeights, "step", "optimiser")

    def update() -> None:
        found, *_ = run.roll_out(0)
        run.learn(found, 0)

    return profile(update, clock)


def reward(folder: Path, model: str) -> dict[str, Any]:
    """Profile the steps over trainers.py's pairs."""
    from training import reward as stage
    from training.optimiser import MasterWeights

    config = settings("reward", {
        "model": model, "train": str(folder / "pairs.jsonl"), "validation": str(folder / "validation.jsonl"),
        "epochs": 1, "batch": PAIR_BATCH, "max_length": PAIR_TOKENS,
    })  # fmt: skip
    run, clock = stage.RewardTraining(config), Clock()
    clock.watch(stage.RewardTraining, "scores", "forward")
    clock.watch(torch.Tensor, "backward", "backward")
    clock.watch(MasterWeights, "collect", "optimiser")
    clock.watch(MasterWeights, "step", "optimiser")
    return profile(lambda: [run.step(step) for step in range(STEPS)], clock)


def main() -> None:
    """Profile what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=str(ROOT / "var" / "models" / "base"))
    parser.add_argument("--work", nargs="+", choices=("ppo", "reward"), default=("ppo", "reward"))
    parser.add_argument("--critic", default="head")
    parser.add_argument("--rank", type=int, default=0)
    parser.add_argument("--attention", default="", help="another than the one chosen: eager, sdpa")
    args = parser.parse_args()
    if args.attention:
        setattr(models, "choose_attention", lambda *_: args.attention)  # noqa: B010 - taken from its module by load
    keep_freed_memory()
    report = {}
    with tempfile.TemporaryDirectory(prefix="where-time-goes-") as temporary:
        prepare(Path(temporary), args.model)
        if "ppo" in args.work:
            report["ppo"] = ppo(Path(temporary), args.model, args.critic, args.rank)
        if "reward" in args.work:
            report["reward"] = reward(Path(temporary), args.model)
    print(json.dumps(report))


if __name__ == "__main__":
    main()
