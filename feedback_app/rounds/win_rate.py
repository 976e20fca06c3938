"""A win rate that may be looked at after every judgment: its interval holds at all looks together."""

from collections.abc import Callable, Sequence
from math import lgamma, log, log1p

LEVEL = 0.95
PRECISION = 1e-6


def running_interval(shares: Sequence[float], *, level: float = LEVEL) -> tuple[float, float]:
    """Return (low, high), a confidence sequence for the mean of shares (each 0 to 1, a tie 0.5), one a prompt.

    A gate that looks at a Wilson or bootstrap interval after every judgment looks a hundred times, and lets chance
    decide far more often than in one of twenty. This one is the set of means p at which the likelihood ratio of a
    uniform mixture of Bernoulli means against p has stayed below 1 / (1 - level): by Ville's inequality the true mean
    is left out at any look with probability 1 - level at the most (Robbins 1970). Shares between 0 and 1 are no more
    spread than wins and losses of the same mean, so that it holds for them too.
    """
    n, wins = len(shares), sum(shares)
    if not n:
        return 0.0, 1.0
    limit = -log1p(-level)
    mixture = lgamma(wins + 1) + lgamma(n - wins + 1) - lgamma(n + 2)

    def is_out(mean: float) -> bool:
        likelihood = (wins * log(mean) if wins else 0.0) + ((n - wins) * log1p(-mean) if wins < n else 0.0)
        return mixture - likelihood >= limit

    middle = wins / n
    return (_edge(0.0, middle, is_out) if wins else 0.0), (_edge(1.0, middle, is_out) if wins < n else 1.0)


def _edge(out: float, inside: float, is_out: Callable[[float], bool]) -> float:
    """Return where the interval ends between a mean outside and one inside it."""
    while abs(out - inside) > PRECISION:
        between = (out + inside) / 2
        out, inside = (between, inside) if is_out(between) else (out, between)
    return inside
