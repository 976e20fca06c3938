"""Early stopping by validation loss: which weights were the best so far, and for how long nothing has been better."""

import math
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from training.optimiser import MasterWeights


@dataclass
class Best:
    """The best of what was seen of one optimiser's weights; without `keeps` it is only noted, not copied."""

    optimiser: MasterWeights
    keeps: bool = True
    loss: float = math.inf
    step: int = 0
    worse: int = 0  # validations since
    weights: list[Tensor] = field(default_factory=list)

    def see(self, loss: float, step: int) -> None:
        """Take in the validation loss after `step` steps."""
        if loss < self.loss:
            self.loss, self.step, self.worse = loss, step, 0
            self.weights = self.optimiser.weights() if self.keeps else []
        else:
            self.worse += 1

    def put_back(self) -> None:
        """Set the weights to the best ones; where none were kept, they stay as they are."""
        if self.weights:
            self.optimiser.put_back(self.weights)

    def state(self) -> dict[str, Any]:
        return {"weights": self.weights, "loss": self.loss, "step": self.step, "worse": self.worse}

    def load(self, state: dict[str, Any]) -> None:
        self.weights, self.loss, self.step, self.worse = (state[key] for key in ("weights", "loss", "step", "worse"))
