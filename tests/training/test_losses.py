"""PPO's losses and their gradients, against numbers worked by hand and a plain loop in float64."""

import math

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from training.advantages import masked_mean
from training.losses import (
    clip_fraction,
    clipped_policy_loss,
    clipped_value_loss,
    kl_estimate,
    policy_ratio,
    token_entropy,
    token_logprobs,
)

ROWS = [(seed, clip) for seed in range(4) for clip in (0.1, 0.2)]


def random_cells(seed: int, count: int, width: int = 6) -> tuple[Tensor, list[Tensor]]:
    """Return a mask of left-aligned rows and `count` random tensors of its shape, in float64."""
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(1, width + 1, (4, 1), generator=generator)
    mask = torch.arange(width)[None, :] < lengths
    return mask, [torch.randn(4, width, generator=generator, dtype=torch.float64) for _ in range(count)]


def naive_policy_loss(new: Tensor, old: Tensor, advantages: Tensor, mask: Tensor, clip: float) -> Tensor:
    """Equation 7 of arXiv:1707.06347, one token at a time: -E[min(r A, clip(r) A)]."""
    terms = []
    for row in range(mask.shape[0]):
        for t in range(mask.shape[1]):
            if mask[row, t]:
                ratio = torch.exp(new[row, t] - old[row, t])
                clipped = torch.clamp(ratio, 1 - clip, 1 + clip)
                terms.append(torch.minimum(ratio * advantages[row, t], clipped * advantages[row, t]))
    return -torch.stack(terms).mean()


def naive_value_loss(values: Tensor, old: Tensor, returns: Tensor, mask: Tensor, clip: float) -> Tensor:
    terms = []
    for row in range(mask.shape[0]):
        for t in range(mask.shape[1]):
            if mask[row, t]:
                near = torch.clamp(values[row, t], old[row, t] - clip, old[row, t] + clip)
                terms.append(torch.maximum((values[row, t] - returns[row, t]) ** 2, (near - returns[row, t]) ** 2))
    return 0.5 * torch.stack(terms).mean()


def test_policy_loss_by_hand() -> None:
    # Ratios 1.5, 0.5, 1.0; clip 0.2. A=+1 at 1.5: min(1.5, 1.2) = 1.2. A=-2 at 0.5: min(-1, -1.6) = -1.6.
    # A=+3 at 1: 3. Mean = 2.6 / 3, negated.
    new = torch.tensor([[math.log(1.5), math.log(0.5), 0.0]], dtype=torch.float64)
    advantages = torch.tensor([[1.0, -2.0, 3.0]], dtype=torch.float64)
    mask = torch.ones(1, 3, dtype=torch.bool)
    loss = clipped_policy_loss(new, torch.zeros_like(new), advantages, mask, 0.2)
    assert float(loss) == pytest.approx(-2.6 / 3, abs=1e-12)
    # Both of the first two lie outside on the side where the clip binds; the third does not.
    assert float(clip_fraction(new, torch.zeros_like(new), advantages, mask, 0.2)) == pytest.approx(2 / 3)


def test_value_loss_by_hand() -> None:
    # old 0, clip 0.2, return 1. Value 0.5 is clipped to 0.2: max(0.25, 0.64) = 0.64. Value 0.1: 0.81. Half the mean.
    values = torch.tensor([[0.5, 0.1]], dtype=torch.float64)
    mask = torch.ones(1, 2, dtype=torch.bool)
    loss = clipped_value_loss(values, torch.zeros_like(values), torch.ones_like(values), mask, 0.2)
    assert float(loss) == pytest.approx(0.5 * (0.64 + 0.81) / 2, abs=1e-12)


@pytest.mark.parametrize(("seed", "clip"), ROWS)
def test_policy_loss_and_gradient_equal_a_plain_loop(seed: int, clip: float) -> None:
    mask, (new, old, advantages) = random_cells(seed, 3)
    old = new + 0.3 * old
    ours, theirs = new.clone().requires_grad_(), new.clone().requires_grad_()
    clipped_policy_loss(ours, old, advantages, mask, clip).backward()  # type: ignore[no-untyped-call]
    naive_policy_loss(theirs, old, advantages, mask, clip).backward()  # type: ignore[no-untyped-call]
    assert ours.grad is not None
    assert theirs.grad is not None
    assert_close(
        clipped_policy_loss(new, old, advantages, mask, clip),
        naive_policy_loss(new, old, advantages, mask, clip),
        atol=1e-12, rtol=0,
    )  # fmt: skip
    assert_close(ours.grad, theirs.grad, atol=1e-12, rtol=0)
    assert not ours.grad[~mask].any()


@pytest.mark.parametrize(("seed", "clip"), ROWS)
def test_value_loss_and_gradient_equal_a_plain_loop(seed: int, clip: float) -> None:
    mask, (values, old, returns) = random_cells(seed, 3)
    ours, theirs = values.clone().requires_grad_(), values.clone().requires_grad_()
    clipped_value_loss(ours, old, returns, mask, clip).backward()  # type: ignore[no-untyped-call]
    naive_value_loss(theirs, old, returns, mask, clip).backward()  # type: ignore[no-untyped-call]
    assert ours.grad is not None
    assert theirs.grad is not None
    assert_close(
        clipped_value_loss(values, old, returns, mask, clip),
        naive_value_loss(values, old, returns, mask, clip),
        atol=1e-12, rtol=0,
    )  # fmt: skip
    assert_close(ours.grad, theirs.grad, atol=1e-12, rtol=0)


def test_gradients_agree_with_finite_differences() -> None:
    mask, (new, old, advantages) = random_cells(7, 3)
    new.requires_grad_()
    assert torch.autograd.gradcheck(lambda x: clipped_policy_loss(x, old, advantages, mask, 0.2), new)
    assert torch.autograd.gradcheck(lambda x: clipped_value_loss(x, old, advantages, mask, 0.2), new)


def test_on_policy_the_gradient_is_reinforce() -> None:
    mask, (new, advantages) = random_cells(3, 2)
    ours, plain = new.clone().requires_grad_(), new.clone().requires_grad_()
    clipped_policy_loss(ours, new.clone(), advantages, mask, 0.2).backward()  # type: ignore[no-untyped-call]
    (-masked_mean(plain * advantages, mask)).backward()  # type: ignore[no-untyped-call]
    assert ours.grad is not None
    assert plain.grad is not None
    assert_close(ours.grad, plain.grad, atol=1e-15, rtol=0)


def test_a_ratio_beyond_all_bounds_stays_finite() -> None:
    # OpenRLHF #931: a ratio of 5e8 while on policy. exp(20) is the most.
    ratio = policy_ratio(torch.tensor([[100.0]]), torch.tensor([[0.0]]))
    assert float(ratio) == pytest.approx(math.exp(20), rel=1e-6)


@pytest.mark.parametrize(("estimator", "expected"), [("k1", math.log(2)), ("k2", math.log(2) ** 2 / 2),
                                                     ("k3", 0.5 - 1 + math.log(2))])  # fmt: skip
def test_kl_estimates_by_hand(estimator: str, expected: float) -> None:
    # The policy gives the token 0.5, the reference 0.25: r = 0.5, log r = -log 2.
    policy, reference = torch.tensor([[0.5]]).double().log(), torch.tensor([[0.25]]).double().log()
    assert float(kl_estimate(policy, reference, estimator)) == pytest.approx(expected, abs=1e-12)


def test_k1_and_k3_average_to_the_exact_kl_and_k3_is_never_negative() -> None:
    generator = torch.Generator().manual_seed(0)
    policy, reference = torch.randn(2, 9, generator=generator, dtype=torch.float64).log_softmax(-1)
    exact = float((policy.exp() * (policy - reference)).sum())
    for estimator in ("k1", "k3"):  # over every token, weighted by the policy: an expectation without noise
        estimates = kl_estimate(policy[None], reference[None], estimator)[0]
        assert float((policy.exp() * estimates).sum()) == pytest.approx(exact, abs=1e-12)
    assert bool((kl_estimate(policy[None], reference[None], "k3") >= 0).all())


def test_an_unknown_estimator_is_named() -> None:
    with pytest.raises(ValueError, match="k4"):
        kl_estimate(torch.zeros(1, 1), torch.zeros(1, 1), "k4")


def test_logprobs_and_entropy_at_a_temperature() -> None:
    # Logits log 1, log 3 at temperature 0.5 are squared odds: 1 : 9. Entropy = -(0.1 ln 0.1 + 0.9 ln 0.9).
    logits = torch.tensor([[[0.0, math.log(3)]]], dtype=torch.float64)
    assert float(token_logprobs(logits, torch.tensor([[1]]), 0.5)) == pytest.approx(math.log(0.9), abs=1e-12)
    expected = -(0.1 * math.log(0.1) + 0.9 * math.log(0.9))
    assert float(token_entropy(logits, 0.5)) == pytest.approx(expected, abs=1e-12)
