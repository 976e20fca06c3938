"""The repetition penalty: tokens that stand in the text already are less likely (arXiv:1909.05858, section 4.1)."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from training.batches import Batch


def penalise(logits_NV: Tensor, seen_NV: Tensor, penalty: float) -> Tensor:
    """Return logits with those of seen tokens divided by the penalty, or multiplied where they are negative."""
    return logits_NV * slopes(logits_NV, seen_NV, penalty)


def slopes(logits_NV: Tensor, seen_NV: Tensor, penalty: float) -> Tensor:
    """Return what each logit is multiplied by; a penalised logit keeps its sign, so either one tells."""
    slopes_NV = torch.where(logits_NV < 0, logits_NV.new_tensor(penalty), logits_NV.new_tensor(1 / penalty))
    return slopes_NV.masked_fill(~seen_NV, 1.0)


def seen_in(prompts: Sequence[Sequence[int]], vocabulary: int) -> Tensor:
    """Return True (N, V) for each prompt's tokens."""
    seen_NV = torch.zeros(len(prompts), vocabulary, dtype=torch.bool)
    for row, prompt in enumerate(prompts):
        seen_NV[row, list(prompt)] = True
    return seen_NV


@dataclass(frozen=True)
class Repetition:
    """Which tokens stand before each response token under a mask; worked out a piece at a time, for (N, V) is large."""

    penalty: float
    tokens_BS: Tensor
    rows_N: Tensor  # in which row each token stands
    places_N: Tensor  # and where

    @classmethod
    def of(cls, batch: Batch, penalty: float) -> "Repetition | None":
        """Return a batch's; None where there is no penalty."""
        if penalty == 1:
            return None
        mask_BT = batch.mask_BT
        return cls(penalty, batch.tokens_BS, mask_BT.nonzero()[:, 0], batch.response_positions_BT[mask_BT])

    def seen(self, part: slice, vocabulary: int) -> Tensor:
        """Return True (C, V) for what stands before each token of a part."""
        tokens_CS = self.tokens_BS[self.rows_N[part]]
        before_CS = torch.arange(tokens_CS.shape[1], device=tokens_CS.device) < self.places_N[part, None]
        # A prompt has one token at least: what does not stand before is replaced by the row's first, which does.
        tokens_CS = torch.where(before_CS, tokens_CS, tokens_CS[:, :1])
        seen_CV = torch.zeros(len(tokens_CS), vocabulary, dtype=torch.bool, device=tokens_CS.device)
        return seen_CV.scatter_(1, tokens_CS, True)
