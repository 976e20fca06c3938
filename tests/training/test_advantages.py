"""Generalised advantage estimation, whitening and running moments, against hand values and the plain sums."""

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from training.advantages import RunningMoments, gae, masked_mean, whiten


def make_rows(seed: int, rows: int = 5, width: int = 7) -> tuple[Tensor, Tensor, Tensor]:
    """Return random (rewards, values, mask) in float64; lengths from 1 to width."""
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(1, width + 1, (rows, 1), generator=generator)
    mask = torch.arange(width)[None, :] < lengths
    rewards, values = torch.randn(2, rows, width, generator=generator, dtype=torch.float64)
    return rewards, values, mask


def test_gae_matches_hand_computation_and_ignores_padding() -> None:
    # gamma=1, lam=0.5. Deltas: t1 = 1-0.2 = 0.8; t0 = 0+0.2-0.1 = 0.1
    # advantages: t1 = 0.8; t0 = 0.1 + 0.5*0.8 = 0.5. The third column is padding.
    advantages, returns = gae(
        torch.tensor([[0.0, 1.0, 9.0]]), torch.tensor([[0.1, 0.2, 9.0]]), torch.tensor([[True, True, False]]), 1.0, 0.5
    )
    assert_close(advantages, torch.tensor([[0.5, 0.8, 0.0]]))
    assert_close(returns, torch.tensor([[0.6, 1.0, 0.0]]))


@pytest.mark.parametrize(("gamma", "lam"), [(1.0, 0.95), (0.9, 0.8), (1.0, 0.0), (0.97, 1.0)])
def test_gae_is_the_explicit_sum_of_discounted_deltas(gamma: float, lam: float) -> None:
    rewards, values, mask = make_rows(seed=1)
    advantages, returns = gae(rewards, values, mask, gamma, lam)
    for row in range(len(mask)):
        length = int(mask[row].sum())
        v = [*values[row, :length].tolist(), 0.0]
        deltas = [float(rewards[row, t]) + gamma * v[t + 1] - v[t] for t in range(length)]
        for t in range(length):
            expected = sum((gamma * lam) ** (k - t) * deltas[k] for k in range(t, length))
            assert float(advantages[row, t]) == pytest.approx(expected, abs=1e-12)
            assert float(returns[row, t]) == pytest.approx(expected + v[t], abs=1e-12)
        assert not advantages[row, length:].any()
        assert not returns[row, length:].any()


def test_with_lambda_one_returns_are_the_rewards_to_come_whatever_the_critic_says() -> None:
    rewards, values, mask = make_rows(seed=2)
    _, returns = gae(rewards, values, mask, gamma=1.0, lam=1.0)
    to_come = rewards.masked_fill(~mask, 0.0).flip(1).cumsum(1).flip(1)
    assert_close(returns, to_come.masked_fill(~mask, 0.0), atol=1e-12, rtol=0)


def test_what_stands_in_padding_changes_no_bit() -> None:
    rewards, values, mask = make_rows(seed=3)
    dirty_rewards, dirty_values = rewards.masked_fill(~mask, torch.nan), values.masked_fill(~mask, torch.inf)
    for clean, dirty in zip(
        gae(rewards, values, mask, 0.9, 0.9), gae(dirty_rewards, dirty_values, mask, 0.9, 0.9), strict=True
    ):
        assert torch.equal(clean, dirty)
    assert torch.equal(masked_mean(values, mask), masked_mean(dirty_values, mask))


def test_whitened_values_have_mean_0_and_deviation_1_over_the_mask_alone() -> None:
    _, values, mask = make_rows(seed=4)
    white = whiten(values * 7 + 3, mask)
    assert_close(white, whiten(values.masked_fill(~mask, 1e6) * 7 + 3, mask), atol=1e-9, rtol=0)
    assert float(white[mask].mean()) == pytest.approx(0, abs=1e-12)
    assert float(white[mask].std(unbiased=False)) == pytest.approx(1, abs=1e-6)
    assert not white[~mask].any()


def test_a_constant_added_to_every_reward_leaves_whitened_one_token_advantages_as_they_are() -> None:
    rewards = torch.tensor([[1.0], [2.0], [4.0]], dtype=torch.float64)
    mask, values = torch.ones(3, 1, dtype=torch.bool), torch.zeros(3, 1, dtype=torch.float64)
    plain, _ = gae(rewards, values, mask, 1.0, 0.95)
    shifted, _ = gae(rewards + 5, values, mask, 1.0, 0.95)
    assert_close(whiten(plain, mask), whiten(shifted, mask), atol=1e-12, rtol=0)


def test_moments_merged_batch_by_batch_are_those_of_everything_seen() -> None:
    generator = np.random.default_rng(0)
    batches = [generator.normal(3, 2, size) for size in (1, 4, 1, 17)]
    moments = RunningMoments()
    for batch in batches:
        moments.update(torch.tensor(batch))
    seen = np.concatenate(batches)
    assert moments.count == 23
    assert moments.mean == pytest.approx(seen.mean(), abs=1e-12)
    assert moments.std == pytest.approx(seen.std(ddof=1), abs=1e-12)


def test_moments_survive_being_stored() -> None:
    moments, other = RunningMoments(), RunningMoments()
    moments.update(torch.tensor([1.0, 5.0, 2.5]))
    other.load(moments.state())
    for each in (moments, other):
        each.update(torch.tensor([0.1, 0.7]))
    assert other.state() == moments.state()


@pytest.mark.parametrize("rewards", [[0.3], [0.1, 0.1, 0.1], [0.3] * 7])
def test_rewards_that_are_all_equal_are_scaled_by_1(rewards: list[float]) -> None:
    # The mean of three 0.1 is 0.10000000000000002: rounding must not pass for spread (0.1 / 1e-6 would be 100,000).
    moments = RunningMoments()
    moments.update(torch.tensor(rewards, dtype=torch.float64))
    moments.update(torch.tensor(rewards, dtype=torch.float64))
    assert moments.std == 1.0
