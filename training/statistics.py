"""Intervals that respect prompts: what several rows of one prompt say is not said independently."""

from collections import defaultdict
from collections.abc import Sequence

import numpy as np


def mean_interval(
    values: Sequence[float],
    groups: Sequence[str],
    *,
    draws: int = 1000,
    seed: int = 0,
    level: float = 0.95,
    unknown: tuple[float, float] = (0.0, 1.0),
) -> tuple[float, float, float]:
    """Return (mean, low, high): the percentile bootstrap over whole groups (Efron 1979), not over rows.

    With fewer than two groups nothing is known of the spread: the interval is `unknown`, a share's whole range.
    """
    by_group: dict[str, list[float]] = defaultdict(list)
    for value, group in zip(values, groups, strict=True):
        by_group[group].append(value)
    sums = np.array([sum(rows) for rows in by_group.values()])
    counts = np.array([len(rows) for rows in by_group.values()])
    mean = float(sums.sum() / counts.sum())
    if len(sums) < 2:
        return mean, *unknown
    chosen = np.random.default_rng(seed).integers(0, len(sums), size=(draws, len(sums)))
    means = sums[chosen].sum(axis=1) / counts[chosen].sum(axis=1)
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return mean, float(low), float(high)
