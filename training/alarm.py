"""Notices when more reward is no longer better: the proxy rises while what it stands for falls (arXiv:2210.10760).

Losses and the reward itself do not show it (MOSS-RLHF, arXiv:2307.04964, section 5.2): a second reward, the distance
from the reference and the responses' length do. So does an ensemble that PPO learns from: the mean less the members'
deviation falls where the policy goes to what they know nothing of, though the mean rises (arXiv:2310.02743).
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
PROXY, WATCHED, LOWER = "objective/scores", "watch/scores", "objective/scores_lower"


class Alarm:
    """Sees each rollout's metrics in turn and says which signs ring; what it remembers goes into checkpoints."""

    def __init__(self, config: PPOConfig) -> None:
        self.config = config
        self.history: dict[str, list[float]] = {name: [] for name in (PROXY, WATCHED, LOWER, "length")}
        # Of each figure that should rise with the proxy: its smoothed best, and how many were seen then.
        self.best: dict[str, tuple[float, int]] = {}

    def see(self, metrics: dict[str, float]) -> dict[str, bool]:
        """Take in one rollout; return each sign that is asked for, True where it rings."""
        config = self.config
        self.history["length"].append(metrics["response/length"])
        signs = {}
        if config.alarm_kl:
            signs["kl"] = metrics["objective/kl"] > config.alarm_kl
        if config.alarm_length_ratio:
            signs["length"] = self._length_drifts()
        self.history[PROXY].append(metrics[PROXY])
        for sign, name in self._companions.items():
            self.history[name].append(metrics[name])
            signs[sign] = self._parts(name)
        return signs

    @property
    def _companions(self) -> dict[str, str]:
        """Return each sign that compares the proxy with another figure, and that figure's name."""
        asked = {"watch": (self.config.watch_reward, WATCHED), "ensemble": (self.config.ensemble, LOWER)}
        return {sign: name for sign, (there, name) in asked.items() if there}

    @property
    def at_best(self) -> bool:
        """Say whether the last rollout is the one to come back to.

        It is where the watched reward is at its best; without one where the ensemble's lower bound is; else any is.
        """
        name = next(iter(self._companions.values()), None)
        return name is None or (name in self.best and self.best[name][1] == len(self.history[name]))

    def _length_drifts(self) -> bool:
        lengths, size = self.history["length"], self.config.alarm_window
        if len(lengths) < 2 * size:
            return False
        ratio = fmean(lengths[-size:]) / fmean(lengths[:size])
        return not 1 / self.config.alarm_length_ratio <= ratio <= self.config.alarm_length_ratio

    def _parts(self, name: str) -> bool:
        """Say whether a figure has fallen from its best, for certain, while PPO's own reward has risen."""
        watched, proxy, size = self.history[name], self.history[PROXY], self.config.alarm_window
        seen = len(watched)
        if seen < size:
            return False
        now = watched[-size:]
        if name not in self.best or fmean(now) > self.best[name][0]:
            self.best[name] = (fmean(now), seen)
            return False
        best, place = self.best[name]
        then = slice(place - size, place)
        fallen = best - fmean(now) > CERTAINTY * _noise(watched) * math.sqrt(2 / size)
        return fallen and fmean(proxy[-size:]) > fmean(proxy[then])

    def state(self) -> dict[str, Any]:
        return {"history": self.history, "best": self.best}

    def load(self, state: dict[str, Any]) -> None:
        self.history, self.best = state["history"], state["best"]


def _noise(values: Sequence[float]) -> float:
    """Return the standard deviation about a trend, from successive differences (von Neumann 1941)."""
    return math.sqrt(fmean((b - a) ** 2 for a, b in pairwise(values)) / 2)
