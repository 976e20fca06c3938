"""Attention for training on CPUs: the textbook's matrix products, in half of eager attention's time, keeping a third.

Eager attention copies keys and values for every query head and keeps the weights twice, in float32 too; the fused
kernel's backward pass is slow on CPUs at the lengths of answers. Here query heads that share keys are one product, the
weights are kept once, as narrow as the model computes, and of long rows most of what no query may see is left out.
"""

from typing import Any

import torch
from torch import Tensor
from transformers import AttentionInterface
from transformers.masking_utils import AttentionMaskInterface, eager_mask

NAME = "lean"
# Families whose attention is this formula and nothing beside it: no capped scores, no sinks (tests hold it for each).
PLAIN_FAMILIES = frozenset({"llama", "qwen2", "qwen3", "mistral", "gpt_neox"})


# Queries at once, whose keys end where they do. The fastest of 48 to 128 at 88 to 430 tokens: fewer leave out more of
# what nobody sees, and make products too small to be fast.
BLOCK = 64


class _Attention(torch.autograd.Function):
    """softmax(Q K' scaling + mask) V (arXiv:1706.03762, eq. 1); G query heads to each of K key heads.

    A block of queries that looks at nothing later is worked out against the keys before its end alone.
    """

    @staticmethod
    def forward(
        ctx: Any, queries_BKGSD: Tensor, keys_BKLD: Tensor, values_BKLD: Tensor, mask_B11SL: Tensor | None,
        scaling: float, block: int,
    ) -> Tensor:  # fmt: skip
        b, k, g, s, d = queries_BKGSD.shape
        output_BKGSD = queries_BKGSD.new_empty(b, k, g, s, values_BKLD.shape[-1])
        kept = []
        for start, stop, seen in _blocks(s, keys_BKLD.shape[2], block):
            stacked = queries_BKGSD[:, :, :, start:stop].reshape(b, k, -1, d)
            weights = (stacked @ keys_BKLD[:, :, :seen].transpose(2, 3)).mul_(scaling)
            if mask_B11SL is not None:
                weights.view(b, k, g, stop - start, seen).add_(mask_B11SL[..., start:stop, :seen])
            weights = weights.softmax(-1)  # in float32 inside, whatever it is given
            output_BKGSD[:, :, :, start:stop] = (weights @ values_BKLD[:, :, :seen]).view(b, k, g, stop - start, -1)
            kept.append(weights)
        ctx.save_for_backward(queries_BKGSD, keys_BKLD, values_BKLD, *kept)
        ctx.scaling, ctx.block = scaling, block
        return output_BKGSD

    @staticmethod
    def backward(ctx: Any, grad_BKGSD: Tensor) -> tuple[Tensor, Tensor, Tensor, None, None, None]:
        queries_BKGSD, keys_BKLD, values_BKLD, *kept = ctx.saved_tensors
        b, k, _, s, d = queries_BKGSD.shape
        grad_queries = torch.empty_like(queries_BKGSD)
        parts_of_keys, parts_of_values = [], []
        for (start, stop, seen), weights in zip(_blocks(s, keys_BKLD.shape[2], ctx.block), kept, strict=True):
            grad = grad_BKGSD[:, :, :, start:stop].reshape(b, k, -1, grad_BKGSD.shape[-1])
            grad_weights = grad @ values_BKLD[:, :, :seen].transpose(2, 3)
            grad_scores = torch._softmax_backward_data(grad_weights, weights, -1, weights.dtype).mul_(ctx.scaling)
            grad_queries[:, :, :, start:stop] = (grad_scores @ keys_BKLD[:, :, :seen]).view(b, k, -1, stop - start, d)
            stacked = queries_BKGSD[:, :, :, start:stop].reshape(b, k, -1, d)
            parts_of_keys.append(grad_scores.transpose(2, 3) @ stacked)
            parts_of_values.append(weights.transpose(2, 3) @ grad)
        grad_keys, grad_values = _added(parts_of_keys), _added(parts_of_values)
        return grad_queries, grad_keys, grad_values, None, None, None


def _blocks(queries: int, keys: int, block: int) -> list[tuple[int, int, int]]:
    """Return (first query, end of queries, end of the keys they see); a block of 0 is all against all."""
    if not block:
        return [(0, queries, keys)]
    cuts = [(start, min(start + block, queries)) for start in range(0, queries, block)]
    return [(start, stop, stop) for start, stop in cuts]


def _added(parts: list[Tensor]) -> Tensor:
    """Return the sum of gradients of the first keys, of more and of all, rounded once."""
    *shorter, longest = parts
    if not shorter:
        return longest
    total = longest.to(torch.promote_types(longest.dtype, torch.float32))
    for part in shorter:
        total[:, :, : part.shape[2]] += part
    return total.to(longest.dtype)


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
    # Of a model that reads left to right; with a cache the queries are few, and see nearly all there is.
    block = BLOCK if getattr(module, "is_causal", False) and mask is not None and s == key.shape[2] else 0
    output_BKGSD: Tensor = _Attention.apply(  # type: ignore[no-untyped-call]
        query.view(b, k, h // k, s, d), key, value, mask, scaling, block
    )
    return output_BKGSD.reshape(b, h, s, d).transpose(1, 2).contiguous(), None


AttentionInterface.register(NAME, lean_attention)
AttentionMaskInterface.register(NAME, eager_mask)
