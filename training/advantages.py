"""Advantages and the running statistics that rewards are scaled by."""

from typing import Any

import torch
from torch import Tensor


def gae(rewards_BT: Tensor, values_BT: Tensor, mask_BT: Tensor, gamma: float, lam: float) -> tuple[Tensor, Tensor]:
    """Return (advantages, returns) by generalised advantage estimation (arXiv:1506.02438, eq. 16).

    Rows are left-aligned: mask_BT is True over each row's tokens, then False. The value after a row's last token is 0.
    Both results are 0 where the mask is False, whatever stands there in rewards and values.
    """
    rewards_BT = rewards_BT.masked_fill(~mask_BT, 0.0)
    values_BT = values_BT.masked_fill(~mask_BT, 0.0)
    next_values_BT = torch.cat([values_BT[:, 1:], torch.zeros_like(values_BT[:, :1])], dim=1)
    deltas_BT = rewards_BT + gamma * next_values_BT - values_BT
    advantages_BT = torch.zeros_like(deltas_BT)
    running_B = torch.zeros_like(deltas_BT[:, 0])
    for t in reversed(range(deltas_BT.shape[1])):
        running_B = (deltas_BT[:, t] + gamma * lam * running_B) * mask_BT[:, t]
        advantages_BT[:, t] = running_B
    return advantages_BT, (advantages_BT + values_BT).masked_fill(~mask_BT, 0.0)


def masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    """Return the mean over the True cells of the mask; 0 where there is none."""
    return values.masked_fill(~mask, 0.0).sum() / mask.sum().clamp(min=1)


def whiten(values: Tensor, mask: Tensor) -> Tensor:
    """Return values with mean 0 and standard deviation 1 over the True cells, 0 elsewhere."""
    mean = masked_mean(values, mask)
    variance = masked_mean((values - mean) ** 2, mask)
    return ((values - mean) * torch.rsqrt(variance + 1e-8)).masked_fill(~mask, 0.0)


class RunningMoments:
    """Mean and variance of everything seen, merged batch by batch (Chan et al. 1979), in float64."""

    def __init__(self) -> None:
        self.count, self.mean, self.squares = 0, 0.0, 0.0

    def update(self, values_B: Tensor) -> None:
        """Take in a batch of any size above 0."""
        batch = values_B.double()
        count, mean = batch.numel(), float(batch.mean())
        squares = float(((batch - mean) ** 2).sum())
        total = self.count + count
        shift = mean - self.mean
        self.squares += squares + shift**2 * self.count * count / total
        self.mean += shift * count / total
        self.count = total

    @property
    def std(self) -> float:
        """Return the sample standard deviation; 1 until two values differ, so that scaling by it changes nothing."""
        if self.count < 2:
            return 1.0
        std = float((self.squares / (self.count - 1)) ** 0.5)
        # The mean of equal values differs from them by rounding, and that is no spread.
        return std if std > 1e-9 * max(1.0, abs(self.mean)) else 1.0

    def state(self) -> dict[str, Any]:
        return {"count": self.count, "mean": self.mean, "squares": self.squares}

    def load(self, state: dict[str, Any]) -> None:
        self.count, self.mean, self.squares = state["count"], state["mean"], state["squares"]
