"""Log-probabilities of chosen tokens straight from hidden states, without ever holding a batch's logits.

Over a vocabulary of 50,000, the logits of 16 x 48 tokens and their gradients take most of a PPO step's memory and a
good part of its time. Here they are made a piece at a time, once forward and once again backward.
"""

from typing import Any

import torch
from torch import Tensor

from training.repetition import Repetition, penalise, slopes

# Tokens whose logits are held at once.
CHUNK = 256


class _TokenLogprobs(torch.autograd.Function):
    """log softmax(W h / temperature)[token]; W h penalised for repetition, softmax taken inside a nucleus, if any."""

    @staticmethod
    def forward(
        ctx: Any,
        states_NH: Tensor,
        weight_VH: Tensor,
        tokens_N: Tensor,
        temperature: float,
        nucleus_NV: Tensor | None,
        repetition: Repetition | None,
    ) -> Tensor:
        logprobs_N = states_NH.new_empty(len(tokens_N), dtype=torch.promote_types(states_NH.dtype, torch.float32))
        normalisers_N = torch.empty_like(logprobs_N)
        for rows in _chunks(len(tokens_N)):
            logits_CV = _logits(states_NH, weight_VH, temperature, nucleus_NV, repetition, rows)
            normalisers_N[rows] = logits_CV.logsumexp(-1)
            chosen_C = logits_CV.gather(-1, tokens_N[rows, None]).squeeze(-1)
            logprobs_N[rows] = chosen_C - normalisers_N[rows]
        ctx.save_for_backward(states_NH, weight_VH, tokens_N, normalisers_N, nucleus_NV)
        ctx.temperature, ctx.repetition = temperature, repetition
        return logprobs_N

    @staticmethod
    def backward(ctx: Any, grad_N: Tensor) -> tuple[Tensor, Tensor | None, None, None, None, None]:
        states_NH, weight_VH, tokens_N, normalisers_N, nucleus_NV = ctx.saved_tensors
        wants_weight = ctx.needs_input_grad[1]
        grad_states_NH = torch.empty_like(states_NH)
        grad_weight_VH = torch.zeros_like(weight_VH) if wants_weight else None
        for rows in _chunks(len(tokens_N)):
            # d logprob / d logits = onehot(token) - softmax
            logits_CV = _logits(states_NH, weight_VH, ctx.temperature, nucleus_NV, ctx.repetition, rows)
            slopes_CV = _slopes(logits_CV, ctx.repetition, rows)
            gradient_CV = logits_CV.sub_(normalisers_N[rows, None]).exp_().mul_(-grad_N[rows, None])
            gradient_CV.scatter_add_(-1, tokens_N[rows, None], grad_N[rows, None].to(gradient_CV.dtype))
            if slopes_CV is not None:
                gradient_CV.mul_(slopes_CV)
            narrow_CV = gradient_CV.div_(ctx.temperature).to(states_NH.dtype)
            grad_states_NH[rows] = narrow_CV @ weight_VH
            if grad_weight_VH is not None:
                grad_weight_VH.addmm_(narrow_CV.T, states_NH[rows])
        return grad_states_NH, grad_weight_VH, None, None, None, None


class _Entropies(torch.autograd.Function):
    """The entropy of softmax(W h / temperature)."""

    @staticmethod
    def forward(ctx: Any, states_NH: Tensor, weight_VH: Tensor, temperature: float) -> Tensor:
        entropies_N = states_NH.new_empty(len(states_NH), dtype=torch.promote_types(states_NH.dtype, torch.float32))
        normalisers_N = torch.empty_like(entropies_N)
        for rows in _chunks(len(states_NH)):
            logits_CV = _logits(states_NH, weight_VH, temperature, None, None, rows)
            normalisers_C = logits_CV.logsumexp(-1)
            expected_C = (logits_CV.sub(normalisers_C[:, None]).exp_() * logits_CV).sum(-1)
            entropies_N[rows], normalisers_N[rows] = normalisers_C - expected_C, normalisers_C
        ctx.save_for_backward(states_NH, weight_VH, entropies_N, normalisers_N)
        ctx.temperature = temperature
        return entropies_N

    @staticmethod
    def backward(ctx: Any, grad_N: Tensor) -> tuple[Tensor, Tensor | None, None]:
        states_NH, weight_VH, entropies_N, normalisers_N = ctx.saved_tensors
        grad_states_NH = torch.empty_like(states_NH)
        grad_weight_VH = torch.zeros_like(weight_VH) if ctx.needs_input_grad[1] else None
        for rows in _chunks(len(states_NH)):
            # d entropy / d logits = -p (log p + entropy)
            logprobs_CV = _logits(states_NH, weight_VH, ctx.temperature, None, None, rows)
            logprobs_CV.sub_(normalisers_N[rows, None])
            factors_C1 = (-grad_N[rows, None] / ctx.temperature).to(logprobs_CV.dtype)
            gradient_CV = logprobs_CV.exp().mul_(logprobs_CV.add_(entropies_N[rows, None])).mul_(factors_C1)
            narrow_CV = gradient_CV.to(states_NH.dtype)
            grad_states_NH[rows] = narrow_CV @ weight_VH
            if grad_weight_VH is not None:
                grad_weight_VH.addmm_(narrow_CV.T, states_NH[rows])
        return grad_states_NH, grad_weight_VH, None


def _chunks(count: int) -> list[slice]:
    return [slice(start, min(start + CHUNK, count)) for start in range(0, count, CHUNK)]


def _logits(
    states_NH: Tensor,
    weight_VH: Tensor,
    temperature: float,
    nucleus_NV: Tensor | None,
    repetition: Repetition | None,
    rows: slice,
) -> Tensor:
    logits_CV = states_NH[rows] @ weight_VH.T
    logits_CV = logits_CV.to(torch.promote_types(logits_CV.dtype, torch.float32))
    if repetition is not None:
        logits_CV = penalise(logits_CV, repetition.seen(rows, len(weight_VH)), repetition.penalty)
    if temperature != 1:
        logits_CV = logits_CV / temperature
    if nucleus_NV is not None:
        logits_CV = logits_CV.masked_fill(~nucleus_NV[rows], -torch.inf)
    return logits_CV


def _slopes(logits_CV: Tensor, repetition: Repetition | None, rows: slice) -> Tensor | None:
    if repetition is None:
        return None
    return slopes(logits_CV, repetition.seen(rows, logits_CV.shape[1]), repetition.penalty)


def state_logprobs(
    states_BTH: Tensor,
    weight_VH: Tensor,
    tokens_BT: Tensor,
    mask_BT: Tensor,
    temperature: float = 1.0,
    nucleus_BTV: Tensor | None = None,
    repetition: Repetition | None = None,
) -> Tensor:
    """Return the log-probability (B, T) of each token under the mask; 0 elsewhere, where nothing is computed.

    The same as losses.token_logprobs of the logits, gradients included; float32 or better whatever the states are.
    repetition is of the same batch and mask; the nucleus was taken of the penalised logits.
    """
    inside = None if nucleus_BTV is None else nucleus_BTV[mask_BT]
    logprobs_N = _TokenLogprobs.apply(  # type: ignore[no-untyped-call]
        states_BTH[mask_BT], weight_VH, tokens_BT[mask_BT], temperature, inside, repetition
    )
    zeros_BT: Tensor = logprobs_N.new_zeros(mask_BT.shape)
    return zeros_BT.masked_scatter(mask_BT, logprobs_N)


def state_entropies(states_BTH: Tensor, weight_VH: Tensor, mask_BT: Tensor, temperature: float = 1.0) -> Tensor:
    """Return the entropy (B, T), in nats, of each position's whole distribution; 0 outside the mask.

    The same as losses.token_entropy of the logits, gradients included.
    """
    entropies_N: Tensor = _Entropies.apply(states_BTH[mask_BT], weight_VH, temperature)  # type: ignore[no-untyped-call]
    zeros_BT: Tensor = entropies_N.new_zeros(mask_BT.shape)
    return zeros_BT.masked_scatter(mask_BT, entropies_N)
