"""Whether a reward likes an answer for its length: what annotators do a little, reward models do more (2310.03716)."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from training.records import Messages, PreferenceRow

Numbers = NDArray[np.float64]


def length_bias(rows: Sequence[PreferenceRow], chosen_N: Tensor, rejected_N: Tensor) -> dict[str, float]:
    """Return how scores go with length in characters; what cannot be said (one length, one score) is left out.

    Correlations are over all answers. Shares are over the pairs of unequal length, equal scores counting half:
    longer_preferred is the reward's share for the longer, longer_chosen the annotators'.
    """
    ours_N, theirs_N = (np.asarray(scores.tolist(), dtype=np.float64) for scores in (chosen_N, rejected_N))
    lengths_2N = np.array([[_length(row.chosen) for row in rows], [_length(row.rejected) for row in rows]], dtype=float)
    right_N = (ours_N > theirs_N) + 0.5 * (ours_N == theirs_N)
    longer_N, shorter_N = lengths_2N[0] > lengths_2N[1], lengths_2N[0] < lengths_2N[1]
    scores, lengths = np.concatenate([ours_N, theirs_N]), lengths_2N.ravel()
    found = {"reward/length_pearson": _pearson(scores, lengths)}
    found["reward/length_spearman"] = _pearson(_ranks(scores), _ranks(lengths))
    if unequal := int((longer_N | shorter_N).sum()):
        preferred = right_N[longer_N].sum() + (1 - right_N[shorter_N]).sum()
        found["reward/longer_preferred"] = float(preferred) / unequal
        found["reward/longer_chosen"] = float(longer_N.sum()) / unequal
    for name, these_N in (("longer", longer_N), ("shorter", shorter_N)):
        if these_N.any():
            found[f"reward/accuracy_{name}_chosen"] = float(right_N[these_N].mean())
    found["reward/n_shorter_chosen"] = float(shorter_N.sum())
    return {name: value for name, value in found.items() if value is not None}


def _length(side: Messages) -> int:
    return sum(len(message["content"]) for message in side)


def _pearson(a_N: Numbers, b_N: Numbers) -> float | None:
    """Return the correlation; None where one of the two does not vary."""
    a_N, b_N = a_N - a_N.mean(), b_N - b_N.mean()
    size = float(np.sqrt((a_N**2).sum() * (b_N**2).sum()))
    return float((a_N * b_N).sum()) / size if size > 0 else None


def _ranks(values_N: Numbers) -> Numbers:
    """Return each value's place from 1; equal ones share the mean of theirs."""
    _, places_N, counts = np.unique(values_N, return_inverse=True, return_counts=True)
    last = counts.cumsum()
    means: Numbers = last - (counts - 1) / 2
    return means[places_N]
