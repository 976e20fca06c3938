"""Attention for training on CPUs: the textbook's matrix products, in half of eager attention's time, keeping a third.

Eager attention copies keys and values for every query head and keeps the weights twice, in float32 too; the fused
kernel's backward pass is slow on CPUs at the lengths of answers. Here query heads that share keys are one product, and
the weights are kept once, as narrow as the model computes.
"""

from typing import Any

import torch
from torch import Tensor
from transformers import AttentionInterface
from transformers.masking_utils import AttentionMaskInterface, eager_mask

NAME = "lean"
# Families whose attention is this formula and nothing beside it: no capped scores, no sinks (tests hold it for each).
PLAIN_FAMILIES = frozenset({"llama", "qwen2", "qwen3", "mistral", "gpt_neox"})


class _Attention(torch.autograd.Function):
    """softmax(Q K' scaling + mask) V (arXiv:1706.03762, eq. 1); G query heads to each of K key heads."""

    @staticmethod
    def forward(
        ctx: Any, queries_BKGSD: Tensor, keys_BKLD: Tensor, values_BKLD: Tensor, mask_B11SL: Tensor | None,
        scaling: float,
    ) -> Tensor:  # fmt: skip
        b, k, g, s, d = queries_BKGSD.shape
        stacked = queries_BKGSD.reshape(b, k, g * s, d)
        weights = (stacked @ keys_BKLD.transpose(2, 3)).mul_(scaling)
        if mask_B11SL is not None:
            weights.view(b, k, g, s, -1).add_(mask_B11SL)
        weights = weights.softmax(-1)  # in float32 inside, whatever it is given
        ctx.save_for_backward(stacked, keys_BKLD, values_BKLD, weights)
        ctx.scaling = scaling
        return (weights @ values_BKLD).view(b, k, g, s, d)

    @staticmethod
    def backward(ctx: Any, grad_BKGSD: Tensor) -> tuple[Tensor, Tensor, Tensor, None, None]:
        stacked, keys_BKLD, values_BKLD, weights = ctx.saved_tensors
        grad = grad_BKGSD.reshape(stacked.shape)
        grad_values = weights.transpose(2, 3) @ grad
        grad_weights = grad @ values_BKLD.transpose(2, 3)
        grad_scores = torch._softmax_backward_data(grad_weights, weights, -1, weights.dtype).mul_(ctx.scaling)
        grad_keys = grad_scores.transpose(2, 3) @ stacked
        return (grad_scores @ keys_BKLD).view(grad_BKGSD.shape), grad_keys, grad_values, None, None


def choose_attention(family: str, dtype: torch.dtype, device: torch.device) -> str:
    """Return the attention measured best: the fused one on GPUs, ours on CPUs where a family allows it, else eager."""
    if device.type != "cpu" or dtype == torch.float64:
        # Eager attention takes its softmax in float32: in float64 one wants more.
        return "sdpa"
    return NAME if family in PLAIN_FAMILIES else "eager"


def lean_attention(
    module: Any, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, scaling: float,
    dropout: float = 0.0, **_: Any,
) -> tuple[Tensor, None]:  # fmt: skip
    """Return attention's output (B, S, H, D), as transformers' AttentionInterface asks; query (B, H, S, D).

    Raises:
        ValueError: dropout is asked for, which no stage of ours does.
    """
    if dropout:
        raise ValueError("lean attention knows no dropout")
    b, h, s, d = query.shape
    k = key.shape[1]
    mask = None if attention_mask is None else attention_mask[:, :, None, :, : key.shape[2]]
    output_BKGSD: Tensor = _Attention.apply(  # type: ignore[no-untyped-call]
        query.view(b, k, h // k, s, d), key, value, mask, scaling
    )
    return output_BKGSD.reshape(b, h, s, d).transpose(1, 2).contiguous(), None


AttentionInterface.register(NAME, lean_attention)
AttentionMaskInterface.register(NAME, eager_mask)
