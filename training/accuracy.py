"""How often a reward is right about what annotators chose, how sure it is, and what the rule of length says."""

from collections.abc import Sequence

from torch import Tensor, sigmoid

from training.comparisons import Comparison
from training.ranking import expected_calibration_error
from training.records import PreferenceRow
from training.statistics import mean_interval


def accuracy_metrics(
    chosen_N: Tensor, rejected_N: Tensor, groups: Sequence[str], draws: int = 1000
) -> dict[str, float]:
    """Return accuracy with its interval over prompts, and calibration; equal scores count half."""
    right_N = _right(chosen_N, rejected_N)
    mean, low, high = mean_interval(right_N.tolist(), groups, draws=draws)
    probabilities_N = sigmoid((chosen_N - rejected_N).abs())
    return {
        "reward/accuracy": mean,
        "reward/accuracy_low": low,
        "reward/accuracy_high": high,
        "reward/ece": expected_calibration_error(probabilities_N, right_N),
    }


def _right(chosen_N: Tensor, rejected_N: Tensor) -> Tensor:
    """Return 1 where the chosen answer has the higher score, 0.5 where both have the same."""
    return (chosen_N > rejected_N).double() + 0.5 * (chosen_N == rejected_N).double()


def longer_wins(row: PreferenceRow) -> float:
    """Return 1 where the chosen answer is the longer one in characters, 0 where it is the shorter, 0.5 where equal."""
    chosen, rejected = (sum(len(m["content"]) for m in side) for side in (row.chosen, row.rejected))
    return 0.5 if chosen == rejected else float(chosen > rejected)


def by_strength(pairs: Sequence[Comparison], chosen_N: Tensor, rejected_N: Tensor) -> dict[str, dict[str, float]]:
    """Return accuracy and count by the pairs' margins."""
    table: dict[str, list[float]] = {}
    for pair, right in zip(pairs, _right(chosen_N, rejected_N).tolist(), strict=True):
        name = "unknown" if pair.margin is None else f"{pair.margin:.2f}"
        table.setdefault(name, []).append(right)
    return {name: {"accuracy": sum(rows) / len(rows), "n": len(rows)} for name, rows in sorted(table.items())}
