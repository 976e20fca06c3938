"""How far a policy has moved: the whole distribution at every step of its own samples, not the drawn token alone."""

import torch
from torch import Tensor

# Positions whose distributions over the vocabulary are held at once.
CHUNK = 128


@torch.no_grad()
def sequence_kl(
    states_BTH: Tensor,
    weight_VH: Tensor,
    other_states_BTH: Tensor,
    other_weight_VH: Tensor,
    mask_BT: Tensor,
    temperature: float = 1.0,
) -> Tensor:
    """Return each sequence's KL(policy || other) in nats (B), from both models' states over the policy's samples.

    The sum over a sample's positions of the exact KL between next-token distributions. Its mean over samples is the
    Rao-Blackwellised estimate of Amini, Vieira and Cotterell ("Better Estimation of the KL Divergence Between
    Language Models", 2025): as unbiased as log-ratios of the drawn tokens, never negative, and far less noisy.
    """
    ours_NH, theirs_NH = states_BTH[mask_BT], other_states_BTH[mask_BT]
    parts = []
    for start in range(0, len(ours_NH), CHUNK):
        ours_CV = _logprobs(ours_NH[start : start + CHUNK], weight_VH, temperature)
        theirs_CV = _logprobs(theirs_NH[start : start + CHUNK], other_weight_VH, temperature)
        parts.append((ours_CV.exp() * (ours_CV - theirs_CV)).sum(-1))
    kl_N = torch.cat(parts)
    return torch.zeros(mask_BT.shape, dtype=kl_N.dtype, device=kl_N.device).masked_scatter(mask_BT, kl_N).sum(1)


def _logprobs(states_CH: Tensor, weight_VH: Tensor, temperature: float) -> Tensor:
    logits_CV = states_CH @ weight_VH.T
    return (logits_CV.to(torch.promote_types(logits_CV.dtype, torch.float32)) / temperature).log_softmax(-1)
