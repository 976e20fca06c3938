"""How strong each preference is by the spread of an ensemble, and what to do about it (arXiv:2401.06080, section 2)."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from training.comparisons import Comparison
from training.config import RewardConfig

# Margins of rows are from 0 to 1; Llama 2's large ones (1 for a slight preference, 3 for a strong one) are these.
MARGIN_SCALE = 3.0


@dataclass(frozen=True)
class Strengths:
    """Of each training pair, how much better the members of an ensemble find the chosen answer: mean and deviation.

    Rankings have none: NaN.
    """

    mean_N: Tensor
    std_N: Tensor


def measure(differences_MN: Sequence[Sequence[float]]) -> Strengths:
    """Return the strengths from each member's differences of chosen and rejected scores."""
    table_MN = torch.tensor(differences_MN, dtype=torch.float64)
    return Strengths(table_MN.mean(0), table_MN.std(0, unbiased=False))


def contradicted(strengths: Strengths, share: float) -> set[int]:
    """Return which pairs to turn round: the weakest `share` of all, as far as the members' mean contradicts them."""
    pairs = [place for place, mean in enumerate(strengths.mean_N.tolist()) if not math.isnan(mean)]
    weakest = sorted(pairs, key=lambda place: float(strengths.mean_N[place]))[: int(share * len(pairs))]
    return {place for place in weakest if float(strengths.mean_N[place]) < 0}


def amend(comparisons: Sequence[Comparison], strengths: Strengths, config: RewardConfig) -> list[Comparison]:
    """Return comparisons with the contradicted ones turned round, and the strength as margin where it is asked for."""
    flipped, amended = contradicted(strengths, config.flip_share), []
    for place, each in enumerate(comparisons):
        mean = float(strengths.mean_N[place])
        if place in flipped:
            each, mean = each.turned(), -mean
        if config.adaptive_margin and each.is_pair:
            each = replace(each, margin=mean / MARGIN_SCALE)
        amended.append(each)
    return amended


def lines(comparisons: Sequence[Comparison], strengths: Strengths, config: RewardConfig) -> list[dict[str, Any]]:
    """Return what is known of each pair, for a reader: weakest first."""
    flipped = contradicted(strengths, config.flip_share)
    rows = [
        {
            "id": each.id,
            "row": place,  # among the rows that were trained on
            "prompt_id": each.prompt_id,
            "strength": float(strengths.mean_N[place]),
            "deviation": float(strengths.std_N[place]),
            "flipped": place in flipped,
        }
        for place, each in enumerate(comparisons)
        if each.is_pair
    ]
    return sorted(rows, key=lambda row: row["strength"])
