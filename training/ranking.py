"""Losses that turn preferences into scores: Bradley-Terry over pairs, Plackett-Luce with ties over lists."""

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

    ranks_K counts from 0, the best; equal ranks tie. A tie of two is a pair drawn each way with half the weight
    (Breslow's form): each member of a tier is chosen from itself and all worse ones. K = 2 without a tie is
    pairwise_loss.
    """
    at_or_below_KK = ranks_K[None, :] >= ranks_K[:, None]
    normalisers_K = scores_K[None, :].masked_fill(~at_or_below_KK, -torch.inf).logsumexp(-1)
    # The worst tier chooses from itself alone: alone in it, its term is 0.
    return (normalisers_K - scores_K).sum()


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
