"""Intervals of shares: one without its interval says more than is known."""

from math import sqrt

# Of the standard normal distribution: 95 % lie within.
Z = 1.959964


def wilson_interval(share: float | None, n: int) -> tuple[float, float] | None:
    """Return the 95 % interval of a share of n (Wilson 1927); None where nothing was counted."""
    if share is None or n == 0:
        return None
    centre = (share + Z * Z / (2 * n)) / (1 + Z * Z / n)
    half = Z * sqrt(share * (1 - share) / n + Z * Z / (4 * n * n)) / (1 + Z * Z / n)
    return max(0.0, centre - half), min(1.0, centre + half)
