"""Root-mean-square norms and gated MLPs that keep for the backward pass what it needs and no more.

As transformers writes them, a norm leaves three float32 copies of its input to autograd, and a gate its activation
beside its input: of a reward model's activations that was more than half. Here their numbers are the same, forward to
the bit, and the backward passes are written out.
"""

from types import MethodType
from typing import Any

import torch
from torch import Tensor, nn

from training.attention import PLAIN_FAMILIES


class _Norm(torch.autograd.Function):
    """weight * x / sqrt(mean(x^2) + epsilon) (arXiv:1910.07467, eq. 4), worked out in float32 or better."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight_H: Tensor, epsilon: float) -> Tensor:
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        scale = torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + epsilon)
        ctx.save_for_backward(x, weight_H, scale)
        return weight_H * (wide * scale).to(x.dtype)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor | None, None]:
        x, weight_H, scale = ctx.saved_tensors
        normed, wide_grad = x * scale, grad.to(scale.dtype)  # a product of both is as wide as the wider
        grad_weight = None
        if ctx.needs_input_grad[1]:
            grad_weight = (wide_grad * normed).flatten(0, -2).sum(0).to(weight_H.dtype)
        through = wide_grad * weight_H
        # d/dx of x * scale: what changes the length of x is taken out.
        along = (through * normed).mean(-1, keepdim=True)
        return through.sub_(normed.mul_(along)).mul_(scale).to(x.dtype), grad_weight, None


class _Gate(torch.autograd.Function):
    """silu(gate) * up (arXiv:2002.05202, section 2)."""

    @staticmethod
    def forward(ctx: Any, gate: Tensor, up: Tensor) -> Tensor:
        ctx.save_for_backward(gate, up)
        return nn.functional.silu(gate).mul_(up)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor]:
        gate, up = ctx.saved_tensors
        grad_up = nn.functional.silu(gate).mul_(grad)
        return torch.ops.aten.silu_backward(grad * up, gate), grad_up


def _norm(module: Any, hidden_states: Tensor) -> Tensor:
    normed: Tensor = _Norm.apply(hidden_states, module.weight, module.variance_epsilon)  # type: ignore[no-untyped-call]
    return normed


def _gated(module: Any, x: Tensor) -> Tensor:
    inner = _Gate.apply(module.gate_proj(x), module.up_proj(x))  # type: ignore[no-untyped-call]
    projected: Tensor = module.down_proj(inner)
    return projected


def make_lean(model: Any) -> None:
    """Give a model's norms and gated MLPs these forward passes, where its family was tried with them; else nothing."""
    if model.config.model_type not in PLAIN_FAMILIES:
        return
    for module in model.modules():
        if hasattr(module, "variance_epsilon"):
            module.forward = MethodType(_norm, module)
        elif hasattr(module, "gate_proj") and model.config.hidden_act == "silu":
            module.forward = MethodType(_gated, module)
