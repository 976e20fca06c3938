"""One rollout, scored: what PPO learns from (MOSS-RLHF's make_experiences)."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from training.advantages import RunningMoments, gae, masked_mean, whiten
from training.batches import Batch
from training.config import PPOConfig
from training.head import state_entropies, state_logprobs
from training.losses import clip_fraction, kl_estimate, policy_ratio
from training.repetition import Repetition
from training.rollout import Rollout

POLICY_METRICS = ("loss/policy_avg", "policy/approxkl_avg", "policy/clipfrac_avg", "val/ratio")
VALUE_LOSS = "loss/value_avg"


@dataclass(frozen=True)
class Scored:
    """What one forward pass of a policy says of a batch's response tokens."""

    logprobs_BT: Tensor  # under the distribution that was sampled (temperature, nucleus, repetition penalty)
    full_logprobs_BT: Tensor  # under the whole distribution, at the same temperature: what KL is measured on
    plain_logprobs_BT: Tensor  # at temperature 1: what perplexity is measured on
    entropy_BT: Tensor


def score_states(states_BTH: Tensor, weight_VH: Tensor, batch: Batch, config: PPOConfig, nucleus_BTV: Tensor | None
                 ) -> Scored:  # fmt: skip
    """Return a pass's log-probabilities and entropies, from its response states and the output embeddings."""
    tokens_BT, mask_BT = batch.response_tokens_BT, batch.mask_BT
    full_BT = state_logprobs(states_BTH, weight_VH, tokens_BT, mask_BT, config.temperature)
    inside_BT = full_BT
    repetition = Repetition.of(batch, config.repetition_penalty)
    if nucleus_BTV is not None or repetition is not None:
        inside_BT = state_logprobs(
            states_BTH, weight_VH, tokens_BT, mask_BT, config.temperature, nucleus_BTV, repetition
        )
    plain_BT = full_BT if config.temperature == 1 else state_logprobs(states_BTH, weight_VH, tokens_BT, mask_BT)
    return Scored(inside_BT, full_BT, plain_BT, state_entropies(states_BTH, weight_VH, mask_BT, config.temperature))


@dataclass(frozen=True)
class Experience:
    """A scored rollout with its advantages; rows are left-aligned, cells outside mask_BT are 0."""

    batch: Batch
    old_logprobs_BT: Tensor
    old_values_BT: Tensor
    advantages_BT: Tensor
    returns_BT: Tensor
    mask_BT: Tensor
    nucleus_BTV: Tensor | None

    def select(self, rows: Sequence[int]) -> "Experience":
        """Return a minibatch, padding cut to its longest row."""
        batch = self.batch.select(rows)
        index, t = torch.as_tensor(rows, device=self.mask_BT.device), batch.responses
        return Experience(
            batch,
            self.old_logprobs_BT[index, :t],
            self.old_values_BT[index, :t],
            self.advantages_BT[index, :t],
            self.returns_BT[index, :t],
            self.mask_BT[index, :t],
            None if self.nucleus_BTV is None else self.nucleus_BTV[index, :t],
        )


def shape_rewards(
    scores_B: Tensor, rollout: Rollout, kl_BT: Tensor, kl_coef: float, moments: RunningMoments, config: PPOConfig
) -> Tensor:
    """Return per-token rewards (B, T): -kl_coef * KL on each token, and the score at each row's last token.

    The score is scaled by the running standard deviation (and centred), then clipped: "reward normalisation and
    clipping" of PPO-max (arXiv:2307.04964, section 5.3.1). The moments take this batch in first.
    """
    moments.update(scores_B)
    shaped_B = scores_B.clone()
    if config.reward_centring:
        shaped_B = shaped_B - moments.mean
    if config.reward_scaling:
        shaped_B = shaped_B / moments.std
    if config.reward_clip:
        shaped_B = shaped_B.clamp(-config.reward_clip, config.reward_clip)
    # A number a response, worked out where the scores are: on the CPU, in float64.
    lengths_B, ended_B = rollout.batch.response_lengths_B.to(scores_B.device), rollout.ended_B.to(scores_B.device)
    shaped_B = shaped_B - config.missing_eos_penalty * (~ended_B) - config.length_penalty * lengths_B
    rewards_BT = (-kl_coef * kl_BT).masked_fill(~rollout.batch.mask_BT, 0.0)
    last_B1 = rollout.batch.response_lengths_B[:, None] - 1
    return rewards_BT.scatter_add(1, last_B1, shaped_B[:, None].to(rewards_BT))


def make_experience(
    rollout: Rollout, scored: Scored, values_BT: Tensor, rewards_BT: Tensor, config: PPOConfig
) -> Experience:
    """Return a rollout with advantages (whitened, clipped) and returns."""
    mask_BT = rollout.batch.mask_BT
    values_BT = values_BT.masked_fill(~mask_BT, 0.0)
    advantages_BT, returns_BT = gae(rewards_BT, values_BT, mask_BT, config.gamma, config.lam)
    if config.whiten_advantages:
        advantages_BT = whiten(advantages_BT, mask_BT)
    if config.advantage_clip:
        advantages_BT = advantages_BT.clamp(-config.advantage_clip, config.advantage_clip)
    return Experience(
        rollout.batch,
        scored.logprobs_BT.masked_fill(~mask_BT, 0.0),
        values_BT,
        advantages_BT,
        returns_BT,
        mask_BT,
        rollout.nucleus_BTV,
    )


def token_kl(scored: Scored, reference_logprobs_BT: Tensor, config: PPOConfig) -> Tensor:
    """Return each token's KL estimate against the reference."""
    return kl_estimate(scored.full_logprobs_BT, reference_logprobs_BT, config.kl_estimator)


def explained_variance(values_BT: Tensor, returns_BT: Tensor, mask_BT: Tensor) -> float:
    """Return 1 - Var(returns - values) / Var(returns): 1 is a perfect critic, 0 one that knows only the mean."""
    errors = (returns_BT - values_BT)[mask_BT]
    variance = float(returns_BT[mask_BT].var(unbiased=False))
    return 1.0 - float(errors.var(unbiased=False)) / variance if variance > 0 else 0.0


def rollout_metrics(rollout: Rollout, scored: Scored, scores_B: Tensor, kl_BT: Tensor) -> dict[str, float]:
    """Return what the paper's section 5.2 watches, named as TRL names it."""
    mask_BT = rollout.batch.mask_BT
    drift = (rollout.logprobs_BT - scored.logprobs_BT.to(rollout.logprobs_BT.dtype)).abs()
    return {
        "objective/kl": float(kl_BT.masked_fill(~mask_BT, 0.0).sum(1).mean()),
        "objective/scores": float(scores_B.mean()),
        "objective/scores_std": float(scores_B.std(unbiased=False)),
        "objective/scores_max": float(scores_B.max()),
        "objective/scores_min": float(scores_B.min()),
        "objective/entropy": float(masked_mean(scored.entropy_BT, mask_BT)),
        "response/length": float(rollout.batch.response_lengths_B.cpu().double().mean()),
        "response/eos_fraction": float(rollout.ended_B.cpu().double().mean()),
        "response/perplexity": float(masked_mean(-scored.plain_logprobs_BT, mask_BT).exp()),
        "rollout/logprob_drift": float(masked_mean(drift, mask_BT)),
    }


def policy_metrics(new_BT: Tensor, part: Experience, policy_loss: Tensor, clip: float) -> dict[str, float]:
    """Return POLICY_METRICS of one piece: means over its tokens."""
    old_BT, mask_BT = part.old_logprobs_BT, part.mask_BT
    values = (
        policy_loss.detach(),
        0.5 * masked_mean((new_BT - old_BT) ** 2, mask_BT),
        clip_fraction(new_BT, old_BT, part.advantages_BT, mask_BT, clip),
        masked_mean(policy_ratio(new_BT, old_BT), mask_BT),
    )
    return {name: float(value) for name, value in zip(POLICY_METRICS, values, strict=True)}
