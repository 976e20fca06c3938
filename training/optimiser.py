"""What moves weights: an optimiser that rounding does not stop, and the schedule of its learning rate.

A weight that is computed with in bfloat16 is kept as two halves of its float32 self: the bfloat16 and the 16 bits
below it. Nothing is lost, and there is no second copy. AdamW's moments are bfloat16 beside such weights, as in the
DeepSeek-V3 technical report (arXiv:2412.19437, section 3.3.3), with the same betas: 8 bytes a weight in place of 14.
"""

import math
import sys
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.adamw import adamw
from torch.optim.rmsprop import rmsprop
from torch.optim.sgd import sgd

from training import processes
from training.config import OptimiserConfig

# So many weights are widened at once: few enough for a CPU's cache, with their gradient and moments, and for little
# memory elsewhere; enough for few calls, each of which wakes threads that sleep.
BLOCK, BLOCK_ELSEWHERE = 2**20, 2**22
# Where the halves of 32 bits lie in memory.
LOWER, UPPER = (slice(0, None, 2), slice(1, None, 2))[:: 1 if sys.byteorder == "little" else -1]
MOMENTS = {"adamw": 2, "sgd": 1, "rmsprop": 1}
BETAS = (0.9, 0.95)


class Weight:
    """One parameter: its float32 self, its gradient so far, and what the optimiser remembers of it."""

    def __init__(self, parameter: nn.Parameter, lr: float, config: OptimiserConfig) -> None:
        self.parameter, self.lr = parameter, lr
        self.gradient: Tensor | None = None
        self.low: Tensor | None = None
        wide = parameter.dtype
        if parameter.dtype == torch.bfloat16:
            parameter.data = parameter.data.contiguous()
            self.low, wide = torch.zeros_like(parameter, dtype=torch.int16), torch.float32
        # RMSprop's moment moves by a hundredth a step, too little for bfloat16; AdamW's second by a twentieth.
        narrow = config.optimiser == "adamw" and config.moments == "auto"
        kept = parameter.dtype if narrow else wide
        count = MOMENTS[config.optimiser]
        self.moments = [torch.zeros_like(parameter, dtype=kept, requires_grad=False) for _ in range(count)]
        self.steps = torch.zeros((), dtype=torch.float32, device=parameter.device)

    def collect(self) -> None:
        """Take the gradient of a backward pass over; of several passes it is added up in float32."""
        new, self.parameter.grad = self.parameter.grad, None
        if new is None:
            return
        if self.gradient is not None:
            new = _wide(self.gradient).add_(new)
        self.gradient = new

    def halves(self) -> list[Tensor]:
        """Return what holds the weight: the parameter, and what bfloat16 has no room for."""
        return [self.parameter.detach(), *([] if self.low is None else [self.low])]

    def blocks(self, room: "Room") -> Iterator[tuple[Tensor, Tensor, list[Tensor]]]:
        """Yield (weights, gradient, moments), wide enough to compute in; what is changed in them is kept."""
        assert self.gradient is not None
        if self.low is None:
            yield self.parameter.detach(), _wide(self.gradient), self.moments
            return
        high, low = (half.view(-1) for half in self.halves())
        kept, gradient = [moment.view(-1) for moment in self.moments], self.gradient.reshape(-1)
        for here in room.slices(high.numel()):
            weights, wide, spare, *moments = room.rows(here, 3 + len(kept))
            _join(high[here], low[here], weights)
            for tensor, value in zip([wide, *moments], [gradient, *kept], strict=True):
                tensor.copy_(value[here])
            yield weights, wide, moments
            _part(weights, high[here], low[here], spare)
            for moment, value in zip(kept, moments, strict=True):
                moment[here].copy_(value)


class Room:
    """Memory to widen a block of weights in, the same for all: a new one each time costs more than the arithmetic."""

    def __init__(self, device: torch.device) -> None:
        self.size = BLOCK if device.type == "cpu" else BLOCK_ELSEWHERE
        self.memory = torch.empty(5, self.size, dtype=torch.float32, device=device)

    def slices(self, count: int) -> Iterator[slice]:
        """Yield the blocks of so many weights."""
        for start in range(0, count, self.size):
            yield slice(start, min(start + self.size, count))

    def rows(self, here: slice, count: int) -> list[Tensor]:
        """Return rows as long as a block, to be written into."""
        return [row[: here.stop - here.start] for row in self.memory[:count]]

    def norms(self, gradient: Tensor) -> Iterator[Tensor]:
        """Yield the norms of a gradient's blocks."""
        if gradient.dtype != torch.bfloat16:
            yield torch.linalg.vector_norm(gradient)
            return
        flat = gradient.reshape(-1)
        for here in self.slices(flat.numel()):
            (row,) = self.rows(here, 1)
            yield torch.linalg.vector_norm(row.copy_(flat[here]))


def _wide(tensor: Tensor) -> Tensor:
    """Return a tensor in float32, or in float64 where it is that already."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def _join(high: Tensor, low: Tensor, weights: Tensor) -> None:
    """Write the float32 numbers of two halves, bfloat16 and int16."""
    weights.copy_(high)
    weights.view(torch.int32).add_(low)


def _part(weights: Tensor, high: Tensor, low: Tensor, spare: Tensor) -> None:
    """Write float32 numbers into two halves, the first rounded to the nearest bfloat16.

    Half-way cases are rounded away from zero: to even, the halves could not say which way it went.
    """
    bits, rounded = weights.view(torch.int32), spare.view(torch.int32)
    torch.add(bits, 0x8000, out=rounded)
    # A number's distance from the rounded one, -2^15 to 2^15 - 1, has the lower bits that it has itself.
    high.view(torch.int16).copy_(rounded.view(torch.int16)[UPPER])
    low.copy_(bits.view(torch.int16)[LOWER])


class MasterWeights:
    """An optimiser over weights as float32 has them, though they may be computed with in less.

    In bfloat16 a step of lr 1e-5 is lost to rounding. Of several processes all begin with the first one's weights, and
    step by the sum of their gradients.
    """

    def __init__(self, groups: Sequence[tuple[Sequence[nn.Parameter], float]], config: OptimiserConfig) -> None:
        self.config = config
        self.kept = [Weight(p, lr, config) for parameters, lr in groups for p in parameters if p.requires_grad]
        self.room = Room(self.kept[0].parameter.device if self.kept else torch.device("cpu"))
        processes.begin_alike([weight.parameter.detach() for weight in self.kept])

    def collect(self) -> None:
        """Take the gradients of a backward pass over, added to what is there."""
        for weight in self.kept:
            weight.collect()

    @torch.no_grad()
    def step(self, scale: float = 1.0) -> float:
        """Take one step at `scale` times the learning rates; return the gradient's norm before clipping.

        A gradient that is not finite changes nothing and is returned as it is: the caller sees it and says so.
        """
        self.collect()
        self._sum_over_processes()
        moving = [weight for weight in self.kept if weight.gradient is not None]
        norm = self._norm()
        if math.isfinite(norm):
            shortened = min(1.0, self.config.max_grad_norm / (norm + 1e-6))
            for weight in moving:
                self._move(weight, weight.lr * scale, shortened)
        for weight in moving:
            weight.gradient = None
        return norm

    def _move(self, weight: Weight, lr: float, shortened: float) -> None:
        weight.steps += 1
        for numbers, gradient, moments in weight.blocks(self.room):
            _update(self.config, numbers, gradient.mul_(shortened), moments, weight.steps - 1, lr)

    def _norm(self) -> float:
        """Return the norm of all gradients as one vector."""
        gradients = [weight.gradient for weight in self.kept if weight.gradient is not None]
        norms = [norm for gradient in gradients for norm in self.room.norms(gradient)]
        if not norms:
            return 0.0
        return float(torch.linalg.vector_norm(torch.stack([norm.to(norms[0].dtype) for norm in norms])))

    def _sum_over_processes(self) -> None:
        if processes.count() == 1:
            return
        gradients = [None if w.gradient is None else _wide(w.gradient) for w in self.kept]
        summed = processes.sum_gradients(gradients, [w.parameter for w in self.kept])
        for weight, gradient in zip(self.kept, summed, strict=True):
            weight.gradient = gradient

    def weights(self) -> list[Tensor]:
        """Return a copy of the weights, in their halves."""
        return [half.clone() for weight in self.kept for half in weight.halves()]

    def put_back(self, weights: Sequence[Tensor]) -> None:
        """Set the weights to what weights() returned; the optimiser's own state stays."""
        _copy(weights, [half for weight in self.kept for half in weight.halves()])

    def state(self) -> dict[str, Any]:
        return {
            "weights": [half for weight in self.kept for half in weight.halves()],
            "moments": [moment for weight in self.kept for moment in weight.moments],
            "steps": [weight.steps for weight in self.kept],
        }

    def load(self, state: dict[str, Any]) -> None:
        for name, tensors in self.state().items():
            _copy(state[name], tensors)


def _copy(values: Sequence[Tensor], tensors: Sequence[Tensor]) -> None:
    for value, tensor in zip(values, tensors, strict=True):
        tensor.copy_(value)


def _update(
    config: OptimiserConfig, weights: Tensor, gradient: Tensor, moments: list[Tensor], steps: Tensor, lr: float
) -> None:
    """Move weights in place by the rule of torch's optimiser of that name, after so many steps before."""
    decay = config.weight_decay
    if config.optimiser == "sgd":
        # A first step from a momentum of 0 is torch's, which starts with the gradient itself.
        sgd([weights], [gradient], [moments[0]], lr=lr, momentum=0.9, weight_decay=decay, dampening=0.0,
            nesterov=False, maximize=False)  # fmt: skip
    elif config.optimiser == "rmsprop":
        rmsprop([weights], [gradient], [moments[0]], [], [], [steps], lr=lr, alpha=0.99, eps=1e-8, weight_decay=decay,
                momentum=0.0, centered=False)  # fmt: skip
    else:
        # Fused: one pass over weights and moments in place of a dozen, on CPUs too.
        fused = weights.device.type in ("cpu", "cuda")
        adamw([weights], [gradient], [moments[0]], [moments[1]], [], [steps], fused=fused, lr=lr, beta1=BETAS[0],
              beta2=BETAS[1], weight_decay=decay, eps=1e-8, amsgrad=False, maximize=False)  # fmt: skip


def schedule_scale(config: OptimiserConfig, step: int, steps: int) -> float:
    """Return what the learning rate is multiplied by at a step (from 0) of `steps`: warm-up, then the schedule."""
    if step < config.warmup:
        return (step + 1) / config.warmup
    left = 1 - (step - config.warmup) / max(1, steps - config.warmup)
    if config.schedule == "linear":
        return max(left, 0.02)
    if config.schedule == "cosine":
        return 0.02 + 0.98 * 0.5 * (1 + math.cos((1 - left) * math.pi))
    if config.schedule == "exponential":
        return float(0.02 ** (1 - left))
    if config.schedule == "inverse_sqrt":
        return float((max(config.warmup, 1) / max(step + 1, config.warmup, 1)) ** 0.5)
    return 1.0
