"""Log-probabilities of chosen tokens straight from hidden states, without ever holding a batch's logits.

Over a vocabulary of 50,000, the logits of 16 x 48 tokens and their gradients take most of a PPO step's memory and a
good part of its time. Here they are made a piece at a time, once forward and once again backward.
"""

from typing import Any

import torch
from torch import Tensor

# Tokens whose logits are held at once.
CHUNK = 256


class _TokenLogprobs(torch.autograd.Function):
    """log softmax(W h / temperature)[token], with softmax taken inside a nucleus where there is one."""

    @staticmethod
    def forward(
        ctx: Any, states_NH: Tensor, weight_VH: Tensor, tokens_N: Tensor, temperature: float, nucleus_NV: Tensor | None
    ) -> Tensor:
        logprobs_N = states_NH.new_empty(len(tokens_N), dtype=torch.promote_types(states_NH.dtype, torch.float32))
        normalisers_N = torch.empty_like(logprobs_N)
        for rows in _chunks(len(tokens_N)):
            logits_CV = _logits(states_NH, weight_VH, temperature, nucleus_NV, rows)
            normalisers_N[rows] = logits_CV.logsumexp(-1)
            chosen_C = logits_CV.gather(-1, tokens_N[rows, None]).squeeze(-1)
            logprobs_N[rows] = chosen_C - normalisers_N[rows]
        ctx.save_for_backward(states_NH, weight_VH, tokens_N, normalisers_N, nucleus_NV)
        ctx.temperature = temperature
        return logprobs_N

    @staticmethod
    def backward(ctx: Any, grad_N: Tensor) -> tuple[Tensor, Tensor | None, None, None, None]:
        states_NH, weight_VH, tokens_N, normalisers_N, nucleus_NV = ctx.saved_tensors
        wants_weight = ctx.needs_input_grad[1]
        grad_states_NH = torch.empty_like(states_NH)
        grad_weight_VH = torch.zeros_like(weight_VH) if wants_weight else None
        for rows in _chunks(len(tokens_N)):
            # d logprob / d logits = onehot(token) - softmax
            logits_CV = _logits(states_NH, weight_VH, ctx.temperature, nucleus_NV, rows)
            gradient_CV = logits_CV.sub_(normalisers_N[rows, None]).exp_().mul_(-grad_N[rows, None])
            gradient_CV.scatter_add_(-1, tokens_N[rows, None], grad_N[rows, None].to(gradient_CV.dtype))
            narrow_CV = gradient_CV.div_(ctx.temperature).to(states_NH.dtype)
            grad_states_NH[rows] = narrow_CV @ weight_VH
            if grad_weight_VH is not None:
                grad_weight_VH.addmm_(narrow_CV.T, states_NH[rows])
        return grad_states_NH, grad_weight_VH, None, None, None


def _chunks(count: int) -> list[slice]:
    return [slice(start, min(start + CHUNK, count)) for start in range(0, count, CHUNK)]


def _logits(states_NH: Tensor, weight_VH: Tensor, temperature: float, nucleus_NV: Tensor | None, rows: slice) -> Tensor:
    logits_CV = states_NH[rows] @ weight_VH.T
    logits_CV = logits_CV.to(torch.promote_types(logits_CV.dtype, torch.float32))
    if temperature != 1:
        logits_CV = logits_CV / temperature
    if nucleus_NV is not None:
        logits_CV = logits_CV.masked_fill(~nucleus_NV[rows], -torch.inf)
    return logits_CV


def state_logprobs(
    states_BTH: Tensor,
    weight_VH: Tensor,
    tokens_BT: Tensor,
    mask_BT: Tensor,
    temperature: float = 1.0,
    nucleus_BTV: Tensor | None = None,
) -> Tensor:
    """Return the log-probability (B, T) of each token under the mask; 0 elsewhere, where nothing is computed.

    The same as losses.token_logprobs of the logits, gradients included; float32 or better whatever the states are.
    """
    inside = None if nucleus_BTV is None else nucleus_BTV[mask_BT]
    logprobs_N = _TokenLogprobs.apply(  # type: ignore[no-untyped-call]
        states_BTH[mask_BT], weight_VH, tokens_BT[mask_BT], temperature, inside
    )
    zeros_BT: Tensor = logprobs_N.new_zeros(mask_BT.shape)
    return zeros_BT.masked_scatter(mask_BT, logprobs_N)


@torch.no_grad()
def state_entropies(states_BTH: Tensor, weight_VH: Tensor, mask_BT: Tensor, temperature: float = 1.0) -> Tensor:
    """Return the entropy (B, T), in nats, of each position's distribution; 0 outside the mask. Carries no gradient."""
    states_NH = states_BTH[mask_BT]
    entropies_N = states_NH.new_empty(len(states_NH), dtype=torch.promote_types(states_NH.dtype, torch.float32))
    for rows in _chunks(len(states_NH)):
        logits_CV = _logits(states_NH, weight_VH, temperature, None, rows)
        normalisers_C = logits_CV.logsumexp(-1)
        expected_C = (logits_CV.sub(normalisers_C[:, None]).exp_() * logits_CV).sum(-1)
        entropies_N[rows] = normalisers_C - expected_C
    return entropies_N.new_zeros(mask_BT.shape).masked_scatter(mask_BT, entropies_N)
