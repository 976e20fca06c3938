"""Notices when more reward is no longer better: the proxy rises while what it stands for falls (arXiv:2210.10760).

Losses and the reward itself do not show it (MOSS-RLHF, arXiv:2307.04964, section 5.2): a second reward, the distance
from the reference and the responses' length do.
"""

import math
from collections.abc import Sequence
from itertools import pairwise
from statistics import fmean
from typing import Any

from training.config import PPOConfig

# Standard errors by which the watched reward must lie under its best. Of many looks at a level curve the best is luck:
# with 4 the alarm rang in 6 of 100 level runs of 100 updates, with 4.5 in 1 of 200.
CERTAINTY = 4.5


class Alarm:
    """Sees each rollout's metrics in turn and says which signs ring; what it remembers goes into checkpoints."""

    def __init__(self, config: PPOConfig) -> None:
        self.config = config
        self.history: dict[str, list[float]] = {name: [] for name in ("objective/scores", "watch/scores", "length")}
        self.best: tuple[float, int] | None = None  # (the watched reward's smoothed best, how many were seen then)

    def see(self, metrics: dict[str, float]) -> dict[str, bool]:
        """Take in one rollout; return each sign that is asked for, True where it rings."""
        config = self.config
        self.history["length"].append(metrics["response/length"])
        signs = {}
        if config.alarm_kl:
            signs["kl"] = metrics["objective/kl"] > config.alarm_kl
        if config.alarm_length_ratio:
            signs["length"] = self._length_drifts()
        if config.watch_reward:
            for name in ("objective/scores", "watch/scores"):
                self.history[name].append(metrics[name])
            signs["watch"] = self._reward_parts()
        return signs

    @property
    def at_best(self) -> bool:
        """Say whether the last rollout is the one to come back to: the watched reward's best, or any without one."""
        if not self.config.watch_reward:
            return True
        return self.best is not None and self.best[1] == len(self.history["watch/scores"])

    def _length_drifts(self) -> bool:
        lengths, size = self.history["length"], self.config.alarm_window
        if len(lengths) < 2 * size:
            return False
        ratio = fmean(lengths[-size:]) / fmean(lengths[:size])
        return not 1 / self.config.alarm_length_ratio <= ratio <= self.config.alarm_length_ratio

    def _reward_parts(self) -> bool:
        """Say whether the watched reward has fallen from its best, for certain, while PPO's own has risen."""
        watched, proxy, size = self.history["watch/scores"], self.history["objective/scores"], self.config.alarm_window
        seen = len(watched)
        if seen < size:
            return False
        now = watched[-size:]
        if self.best is None or fmean(now) > self.best[0]:
            self.best = (fmean(now), seen)
            return False
        then = slice(self.best[1] - size, self.best[1])
        fallen = self.best[0] - fmean(now) > CERTAINTY * _noise(watched) * math.sqrt(2 / size)
        return fallen and fmean(proxy[-size:]) > fmean(proxy[then])

    def state(self) -> dict[str, Any]:
        return {"history": self.history, "best": self.best}

    def load(self, state: dict[str, Any]) -> None:
        self.history, self.best = state["history"], state["best"]


def _noise(values: Sequence[float]) -> float:
    """Return the standard deviation about a trend, from successive differences (von Neumann 1941)."""
    return math.sqrt(fmean((b - a) ** 2 for a, b in pairwise(values)) / 2)
