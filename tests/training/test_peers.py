"""Our formulas against those of TRL and TorchRL, by others: values and gradients, on random masks, in float64."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

from tests.training.test_losses import random_cells
from training.advantages import gae, masked_mean, whiten
from training.losses import clip_fraction, clipped_policy_loss, clipped_value_loss, token_entropy, token_logprobs
from training.ranking import pairwise_loss

SEEDS = range(4)
CLOSE: dict[str, Any] = {"atol": 1e-12, "rtol": 1e-10}


def gradient(loss: Tensor, of: Tensor) -> Tensor:
    (found,) = torch.autograd.grad(loss, of)
    return found


@pytest.mark.parametrize("seed", SEEDS)
def test_whitening_is_trls_but_for_its_bessel_correction(seed: int) -> None:
    trl = pytest.importorskip("trl.experimental.ppo.ppo_trainer")
    mask, (values,) = random_cells(seed, 1)
    count = int(mask.sum())
    ours = whiten(values, mask)
    # Theirs divides by n - 1, and leaves what stands in padding to its caller.
    theirs = trl.masked_whiten(values, mask).masked_fill(~mask, 0.0) * (count / (count - 1)) ** 0.5
    assert_close(ours, theirs, atol=1e-7, rtol=0)  # each adds 1e-8 to its own variance
    assert_close(masked_mean(values, mask), trl.masked_mean(values, mask), **CLOSE)


@pytest.mark.parametrize("seed", SEEDS)
def test_log_probabilities_and_entropies_are_trls(seed: int) -> None:
    utils = pytest.importorskip("trl.trainer.utils")
    generator = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(3, 5, 11, generator=generator, dtype=torch.float64)
    tokens = torch.randint(0, 11, (3, 5), generator=generator)
    assert_close(token_logprobs(logits, tokens), utils.selective_log_softmax(logits, tokens), **CLOSE)
    assert_close(token_entropy(logits), utils.entropy_from_logits(logits), **CLOSE)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("with_margin", [False, True])
def test_the_reward_models_loss_and_gradient_are_trls_with_margins_and_centring(seed: int, with_margin: bool) -> None:
    trl = pytest.importorskip("trl.trainer.reward_trainer")
    generator = torch.Generator().manual_seed(seed)
    scores = (4 * torch.randn(10, 1, generator=generator, dtype=torch.float64)).requires_grad_()
    margins = torch.rand(5, generator=generator, dtype=torch.float64) if with_margin else None
    collected: Any = {"eval": {}, "train": {}}
    trainer = SimpleNamespace(
        model=SimpleNamespace(training=False), args=SimpleNamespace(center_rewards_coefficient=0.3),
        accelerator=SimpleNamespace(gather=lambda x: x, gather_for_metrics=lambda x: x),
        _total_train_tokens=0, _tp_size=1, _metrics={mode: _Lists() for mode in collected},
    )  # fmt: skip
    trainer.model = _Scorer(scores)
    inputs = {} if margins is None else {"margin": margins}
    theirs = trl.RewardTrainer.compute_loss(trainer, trainer.model, inputs)
    chosen, rejected = scores.squeeze(-1).chunk(2)
    ours = pairwise_loss(chosen, rejected, margins).mean() + 0.3 * ((chosen + rejected) ** 2).mean()
    assert_close(ours, theirs, **CLOSE)
    assert_close(gradient(ours, scores), gradient(theirs, scores), **CLOSE)


class _Lists(dict[str, list[float]]):
    def __missing__(self, key: str) -> list[float]:
        return self.setdefault(key, [])


class _Scorer:
    training = False

    def __init__(self, scores: Tensor) -> None:
        self.scores = scores

    def __call__(self, **inputs: Any) -> Any:
        return SimpleNamespace(logits=self.scores)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize(("gamma", "lam"), [(1.0, 0.9375), (0.875, 0.5), (1.0, 0.0), (0.9375, 1.0)])
def test_advantages_and_returns_are_torchrls(seed: int, gamma: float, lam: float) -> None:
    functional = pytest.importorskip("torchrl.objectives.value.functional")
    mask, (rewards, values) = random_cells(seed, 2)
    ours = gae(rewards, values, mask, gamma, lam)
    # TorchRL has rows of (time, feature), the value after each step, and a mark where an episode ends: at a row's last
    # token. What comes after it in the row is another episode, and nobody looks at it. Factors are exact in float32.
    lengths = mask.sum(1, keepdim=True)
    done = (torch.arange(mask.shape[1])[None, :] >= lengths - 1)[..., None]
    following = torch.cat([values[:, 1:], torch.zeros_like(values[:, :1])], dim=1)
    theirs = functional.generalized_advantage_estimate(
        gamma, lam, values[..., None], following[..., None], rewards[..., None], done=done, terminated=done
    )
    for mine, other in zip(ours, theirs, strict=True):
        assert_close(mine[mask], other.squeeze(-1)[mask], **CLOSE)
        assert not mine[~mask].any()


@pytest.fixture(scope="module")
def make_loss() -> Any:
    """Return a function that makes TorchRL's clipped loss for an actor of given logits and a critic of given values."""
    objectives = pytest.importorskip("torchrl.objectives")
    tensordict_nn = pytest.importorskip("tensordict.nn")

    class Same(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x

    def make(clip: float, value_clip: float) -> Any:
        actor = tensordict_nn.ProbabilisticTensorDictSequential(
            tensordict_nn.TensorDictModule(Same(), in_keys=["scores"], out_keys=["logits"]),
            tensordict_nn.ProbabilisticTensorDictModule(
                in_keys=["logits"], out_keys=["action"], distribution_class=torch.distributions.Categorical,
                return_log_prob=True,
            ),
        )  # fmt: skip
        critic = tensordict_nn.TensorDictModule(Same(), in_keys=["estimate"], out_keys=["state_value"])
        return objectives.ClipPPOLoss(
            actor, critic, clip_epsilon=clip, clip_value=value_clip, entropy_bonus=False, critic_coeff=1.0,
            loss_critic_type="l2", normalize_advantage=False,
        )  # fmt: skip

    return make


@pytest.mark.parametrize("seed", SEEDS)
def test_clipped_losses_and_their_gradients_are_torchrls(make_loss: Any, seed: int) -> None:
    tensordict = pytest.importorskip("tensordict")
    clip, value_clip = 0.25, 0.125
    mask, (advantages, old_values, drift, returns) = random_cells(seed, 4)
    generator = torch.Generator().manual_seed(100 + seed)
    old_logits = torch.randn(4, 6, 7, generator=generator, dtype=torch.float64)
    logits = (old_logits + 0.9 * torch.randn(4, 6, 7, generator=generator, dtype=torch.float64)).requires_grad_()
    values = (old_values + 0.3 * drift).requires_grad_()
    tokens = torch.randint(0, 7, (4, 6), generator=generator)
    old_logprobs = token_logprobs(old_logits, tokens)
    cells = {
        "scores": logits[mask], "estimate": values[mask][:, None], "action": tokens[mask],
        "action_log_prob": old_logprobs[mask], "advantage": advantages[mask][:, None],
        "value_target": returns[mask][:, None], "state_value": old_values[mask][:, None],
    }  # fmt: skip
    theirs = make_loss(clip, value_clip).double()(tensordict.TensorDict(cells, batch_size=[int(mask.sum())]))
    logprobs = token_logprobs(logits, tokens)
    policy_loss = clipped_policy_loss(logprobs, old_logprobs, advantages, mask, clip)
    assert_close(policy_loss, theirs["loss_objective"], **CLOSE)
    assert_close(gradient(policy_loss, logits), gradient(theirs["loss_objective"], logits), **CLOSE)
    # MOSS-RLHF's value loss has a half before it, theirs has not.
    value_loss = clipped_value_loss(values, old_values, returns, mask, value_clip)
    assert_close(2 * value_loss, theirs["loss_critic"], **CLOSE)
    assert_close(2 * gradient(value_loss, values), gradient(theirs["loss_critic"], values), **CLOSE)
    # Something was clipped, or the clip would not have been looked at.
    assert float(clip_fraction(logprobs, old_logprobs, advantages, mask, clip).detach()) > 0
