"""The losses of PPO: pure functions of tensors, each formula beside its source."""

import torch
from torch import Tensor
from torch.nn import functional as nnf

from training.advantages import masked_mean

# exp(20) is far outside of any trust region; without the bound one token can make the ratio infinite.
MAX_LOG_RATIO = 20.0


def token_logprobs(logits_BTV: Tensor, tokens_BT: Tensor, temperature: float = 1.0) -> Tensor:
    """Return each token's log-probability, in float32 or better, at a sampling temperature."""
    logits_BTV = _at_least_float32(logits_BTV) / temperature
    chosen_BT = logits_BTV.gather(-1, tokens_BT.unsqueeze(-1)).squeeze(-1)
    return chosen_BT - logits_BTV.logsumexp(-1)


def token_entropy(logits_BTV: Tensor, temperature: float = 1.0) -> Tensor:
    """Return the entropy of each position's distribution, in nats."""
    logprobs_BTV = nnf.log_softmax(_at_least_float32(logits_BTV) / temperature, dim=-1)
    # A token outside the nucleus has probability 0 and contributes nothing: 0 * -inf would be NaN.
    return -(logprobs_BTV.exp() * logprobs_BTV.clamp(min=-1e4)).sum(-1)


def _at_least_float32(logits: Tensor) -> Tensor:
    return logits if logits.dtype == torch.float64 else logits.float()


def policy_ratio(logprobs_BT: Tensor, old_logprobs_BT: Tensor) -> Tensor:
    """Return pi_new / pi_old of each token, bounded against overflow."""
    return (logprobs_BT - old_logprobs_BT).clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO).exp()


def clipped_policy_loss(
    logprobs_BT: Tensor, old_logprobs_BT: Tensor, advantages_BT: Tensor, mask_BT: Tensor, clip: float
) -> Tensor:
    """Return the clipped surrogate (arXiv:1707.06347, eq. 7), negated: a mean over tokens, to be minimised."""
    ratio_BT = policy_ratio(logprobs_BT, old_logprobs_BT)
    clipped_BT = ratio_BT.clamp(1 - clip, 1 + clip)
    return masked_mean(torch.maximum(-advantages_BT * ratio_BT, -advantages_BT * clipped_BT), mask_BT)


def clip_fraction(logprobs_BT: Tensor, old_logprobs_BT: Tensor, advantages_BT: Tensor, mask_BT: Tensor, clip: float
                  ) -> Tensor:  # fmt: skip
    """Return the share of tokens whose gradient the clip took away."""
    ratio_BT = policy_ratio(logprobs_BT, old_logprobs_BT)
    outside_BT = torch.where(advantages_BT > 0, ratio_BT > 1 + clip, ratio_BT < 1 - clip)
    return masked_mean(outside_BT.float(), mask_BT)


def clipped_value_loss(
    values_BT: Tensor, old_values_BT: Tensor, returns_BT: Tensor, mask_BT: Tensor, clip: float
) -> Tensor:
    """Return half the larger of the plain and the clipped squared error (arXiv:2307.04964, section 5.3)."""
    clipped_BT = old_values_BT + (values_BT - old_values_BT).clamp(-clip, clip)
    return 0.5 * masked_mean(torch.maximum((values_BT - returns_BT) ** 2, (clipped_BT - returns_BT) ** 2), mask_BT)


def kl_estimate(logprobs_BT: Tensor, reference_logprobs_BT: Tensor, estimator: str) -> Tensor:
    """Return each token's estimate of KL(policy || reference) from a sample of the policy.

    k1 = -log r, k2 = (log r)^2 / 2, k3 = r - 1 - log r with r = reference / policy
    (Schulman, "Approximating KL divergence", 2020): k1 and k3 are unbiased, k2 and k3 never negative.
    """
    log_ratio_BT = (reference_logprobs_BT - logprobs_BT).clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO)
    if estimator == "k1":
        return -log_ratio_BT
    if estimator == "k2":
        return 0.5 * log_ratio_BT**2
    if estimator == "k3":
        return log_ratio_BT.exp() - 1 - log_ratio_BT
    raise ValueError(f"kl_estimator: one of k1, k2, k3, not {estimator!r}")
