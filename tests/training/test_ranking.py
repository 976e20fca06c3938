"""Losses over pairs and lists, their limits, and what they recover from choices with known noise."""

import itertools
import math

import pytest
import torch
from torch.testing import assert_close

from training.ranking import expected_calibration_error, listwise_loss, pairwise_loss


def test_pairwise_loss_by_hand() -> None:
    # Difference log 3: sigmoid = 3/4. With margin log 3 nothing is left: 1/2.
    chosen, rejected = torch.tensor([math.log(3)]).double(), torch.zeros(1).double()
    assert float(pairwise_loss(chosen, rejected)) == pytest.approx(-math.log(3 / 4), abs=1e-7)
    margin = torch.tensor([math.log(3)]).double()
    assert float(pairwise_loss(chosen, rejected, margin)) == pytest.approx(math.log(2), abs=1e-7)
    # Smoothing 0.2: 0.8 of -log(3/4) and 0.2 of -log(1/4).
    expected = -0.8 * math.log(3 / 4) - 0.2 * math.log(1 / 4)
    assert float(pairwise_loss(chosen, rejected, label_smoothing=0.2)) == pytest.approx(expected, abs=1e-7)


def test_a_pair_got_badly_wrong_still_pulls_with_full_force() -> None:
    # MOSS-RLHF's log(sigmoid(x) + 1e-5) has no gradient left there; the true one tends to -1.
    chosen = torch.tensor([-60.0], dtype=torch.float64, requires_grad=True)
    pairwise_loss(chosen, torch.zeros(1, dtype=torch.float64)).sum().backward()  # type: ignore[no-untyped-call]
    assert chosen.grad is not None
    assert float(chosen.grad) == pytest.approx(-1.0, abs=1e-12)


def test_a_list_of_two_is_a_pair() -> None:
    scores = torch.tensor([0.3, -1.1], dtype=torch.float64)
    for ranks, (best, worst) in (([0, 1], (0, 1)), ([1, 0], (1, 0))):
        expected = pairwise_loss(scores[best], scores[worst])
        assert_close(listwise_loss(scores, torch.tensor(ranks)), expected, atol=1e-12, rtol=0)


def test_a_tie_of_two_is_a_pair_drawn_each_way_with_half_the_weight() -> None:
    scores = torch.tensor([0.3, -1.1], dtype=torch.float64)
    expected = 0.5 * (pairwise_loss(scores[0], scores[1]) + pairwise_loss(scores[1], scores[0]))
    assert_close(listwise_loss(scores, torch.tensor([0, 0])), expected, atol=1e-12, rtol=0)


def naive_plackett_luce(scores: list[float], order: tuple[int, ...]) -> float:
    """Return -log of the product of softmaxes over what is left (Plackett 1975)."""
    loss = 0.0
    for place, chosen in enumerate(order):
        loss += math.log(sum(math.exp(scores[k]) for k in order[place:])) - scores[chosen]
    return loss


@pytest.mark.parametrize("ranks", [[0, 1, 2, 3], [2, 0, 3, 1], [0, 0, 1, 2], [1, 0, 1, 1], [0, 1, 1, 0], [0, 0, 0, 0]])
def test_listwise_loss_averages_over_every_order_the_ties_leave_open(ranks: list[int]) -> None:
    scores = [0.2, -0.7, 1.4, 0.05]
    orders = [
        order
        for order in itertools.permutations(range(4))
        if [ranks[k] for k in order] == sorted(ranks)
    ]  # fmt: skip
    expected = sum(naive_plackett_luce(scores, order) for order in orders) / len(orders)
    got = listwise_loss(torch.tensor(scores, dtype=torch.float64), torch.tensor(ranks))
    assert float(got) == pytest.approx(expected, abs=1e-12)


def test_listwise_gradient_agrees_with_finite_differences() -> None:
    scores = torch.randn(5, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).requires_grad_()
    assert torch.autograd.gradcheck(lambda s: listwise_loss(s, torch.tensor([0, 1, 1, 2, 2])), scores)


def test_plackett_luce_probabilities_of_all_orders_sum_to_1() -> None:
    scores = torch.tensor([0.5, -0.3, 1.1], dtype=torch.float64)
    total = 0.0
    for order in itertools.permutations(range(3)):
        ranks = torch.tensor([order.index(k) for k in range(3)])
        total += math.exp(-float(listwise_loss(scores, ranks)))
    assert total == pytest.approx(1.0, abs=1e-12)


def test_scores_are_recovered_from_choices_drawn_by_bradley_terry() -> None:
    # 12 items with known scores, 6,000 choices: the fit's error is the sampling noise, about 1 / sqrt(6000/12 * p q).
    generator = torch.Generator().manual_seed(0)
    gold = torch.randn(12, generator=generator, dtype=torch.float64)
    left = torch.randint(0, 12, (6000,), generator=generator)
    right = (left + torch.randint(1, 12, (6000,), generator=generator)) % 12
    first = torch.rand(6000, generator=generator, dtype=torch.float64) < torch.sigmoid(gold[left] - gold[right])
    chosen, rejected = torch.where(first, left, right), torch.where(first, right, left)
    fit = torch.zeros(12, dtype=torch.float64, requires_grad=True)
    optimiser = torch.optim.LBFGS([fit], max_iter=200)

    def closure() -> torch.Tensor:
        optimiser.zero_grad()
        loss = pairwise_loss(fit[chosen], fit[rejected]).mean()
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    optimiser.step(closure)  # type: ignore[no-untyped-call]
    found = fit.detach() - fit.detach().mean()
    assert float(torch.corrcoef(torch.stack([found, gold]))[0, 1]) > 0.99
    assert_close(found, gold - gold.mean(), atol=0.25, rtol=0)
    # No fit predicts the choices better than the gold scores' own ceiling, E[max(p, 1 - p)], by more than noise.
    ceiling = float(torch.maximum(*(torch.sigmoid(s * (gold[left] - gold[right])) for s in (1, -1))).mean())
    accuracy = float((found[chosen] > found[rejected]).double().mean())
    assert accuracy == pytest.approx(ceiling, abs=0.02)
    # And its confidence is honest.
    confidence = torch.sigmoid((found[chosen] - found[rejected]).abs())
    assert expected_calibration_error(confidence, (found[chosen] > found[rejected]).double()) < 0.03


def test_calibration_error_by_hand() -> None:
    # Two at 0.55 of which one is right: |0.5 - 0.55|; two at 0.95, both right: |1 - 0.95|. Half the weight each.
    error = expected_calibration_error(torch.tensor([0.55, 0.55, 0.95, 0.95]), torch.tensor([1.0, 0.0, 1.0, 1.0]))
    assert error == pytest.approx(0.05, abs=1e-6)
