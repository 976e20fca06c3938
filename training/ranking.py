"""Losses that turn preferences into scores: Bradley-Terry over pairs, Plackett-Luce with ties over lists."""

import math

import torch
from torch import Tensor
from torch.nn import functional as nnf


def pairwise_loss(
    chosen_B: Tensor, rejected_B: Tensor, margin_B: Tensor | None = None, label_smoothing: float = 0.0
) -> Tensor:
    """Return each pair's loss (B): -log sigmoid(chosen - rejected - margin) (Bradley and Terry 1952; Llama 2, eq. 2).

    With label smoothing a the loss is (1 - a) of that and a of the swapped pair's (arXiv:2401.06080, section 2.3).
    logsigmoid, not log(sigmoid + eps): the latter's gradient vanishes where the model is most wrong.
    """
    difference_B = chosen_B - rejected_B - (0.0 if margin_B is None else margin_B)
    loss_B = -nnf.logsigmoid(difference_B)
    if label_smoothing:
        loss_B = (1 - label_smoothing) * loss_B - label_smoothing * nnf.logsigmoid(-difference_B)
    return loss_B


def listwise_loss(scores_K: Tensor, ranks_K: Tensor) -> Tensor:
    """Return the negative log-likelihood of one ranking under Plackett-Luce (Plackett 1975), tiers of ties allowed.

    ranks_K counts from 0, the best; equal ranks tie. A tie leaves the order within its tier open: the loss is the mean
    over all those orders, so a tie of two is a pair drawn each way with half the weight. K = 2 without a tie is
    pairwise_loss. Where nothing is preferred to anything (K = 1) the loss is 0.
    """
    loss = scores_K.new_zeros(())
    for rank in sorted(set(ranks_K.tolist())):
        tier_M, below_N = scores_K[ranks_K == rank], scores_K[ranks_K > rank]
        loss = loss + _mean_over_orders(tier_M, below_N)
    return loss


def _mean_over_orders(tier_M: Tensor, below_N: Tensor) -> Tensor:
    """Return the mean loss of drawing a tier in a random order, one by one, from itself and all below it.

    What is left of a tier of M when s of it are undrawn is each subset of size s equally often: the mean over M! orders
    is a sum over 2^M - 1 subsets (M is at most 9), each with weight 1 / C(M, s).
    """
    count = len(tier_M)
    numbers_S = torch.arange(1, 2**count, device=tier_M.device)
    left_SM = (numbers_S[:, None] >> torch.arange(count, device=tier_M.device)) % 2 == 1
    weights_S = tier_M.new_tensor([1 / math.comb(count, size) for size in left_SM.sum(1).tolist()])
    left_scores_SM = tier_M.expand(left_SM.shape).masked_fill(~left_SM, -torch.inf)
    choices_SK = torch.cat([left_scores_SM, below_N.expand(len(numbers_S), -1)], dim=1)
    return (weights_S * choices_SK.logsumexp(-1)).sum() - tier_M.sum()


def expected_calibration_error(probabilities_N: Tensor, correct_N: Tensor, bins: int = 10) -> float:
    """Return the mean gap between confidence and accuracy over equal bins of confidence (arXiv:1706.04599, eq. 3).

    probabilities_N are of the predicted side, so from 0.5 to 1.
    """
    edges = torch.linspace(0.5, 1.0, bins + 1)[1:-1]
    places_N = torch.bucketize(probabilities_N.contiguous(), edges)
    gap = 0.0
    for place in range(bins):
        inside_N = places_N == place
        if inside_N.any():
            share = float(inside_N.double().mean())
            confidence = float(probabilities_N[inside_N].double().mean())
            gap += share * abs(confidence - float(correct_N[inside_N].double().mean()))
    return gap
