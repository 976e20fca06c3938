"""A draw follows the closed form of its warpers, and depends on seed and position alone."""

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.stats import chisquare

from training.sampling import SamplingParameters, draw_token, gumbel_noise

# Twelve tokens, no two alike, in no order.
LOGITS = np.array([0.3, 2.1, -1.0, 1.4, 0.0, -2.5, 0.9, 1.9, -0.4, 0.6, -30.0, 1.1], dtype=np.float32)
DRAWS = 4000


def draw(position: int = 0, logits: NDArray[np.float32] = LOGITS, prompt: tuple[int, ...] = (), **way: Any) -> int:
    return draw_token(logits, SamplingParameters(**way), prompt=prompt, generated=[11] * position)


def closed_form(temperature: float = 1.0, top_k: int | None = None, top_p: float | None = None) -> NDArray[np.float64]:
    """Return the probabilities by the definitions, as slowly as they are written."""
    scores = LOGITS.astype(np.float64) / temperature
    order = np.argsort(-scores)
    kept = list(order[:top_k])
    if top_p is not None:
        masses = np.exp(scores[kept]) / np.exp(scores[kept]).sum()
        count = next(n for n in range(1, len(kept) + 1) if masses[:n].sum() >= top_p)
        kept = kept[:count]
    probabilities = np.zeros(len(scores))
    probabilities[kept] = np.exp(scores[kept]) / np.exp(scores[kept]).sum()
    return probabilities


@pytest.mark.parametrize(
    "way",
    [
        {},
        {"temperature": 0.5},
        {"temperature": 3.0},
        {"top_k": 4},
        {"top_p": 0.6},
        {"top_p": 0.95},
        {"temperature": 1.7, "top_k": 8, "top_p": 0.8},
    ],
)
def test_draws_follow_softmax_of_the_scaled_logits_cut_by_top_k_and_top_p(way: dict[str, Any]) -> None:
    expected = closed_form(**way)
    for position in (0, 3):  # over seeds, at whatever position
        drawn = [draw(position, do_sample=True, seed=seed, **way) for seed in range(DRAWS)]
        observed = np.bincount(drawn, minlength=len(expected))
        assert observed[expected == 0].sum() == 0
        likely = expected * DRAWS >= 5
        counts, wanted = (np.append(of[likely], of[~likely].sum()) for of in (observed, expected * DRAWS))
        used = wanted > 0
        # The seeds are fixed: this holds for good or fails for good.
        assert chisquare(counts[used], wanted[used]).pvalue > 0.001


def test_positions_of_one_seed_are_independent_draws() -> None:
    expected = closed_form()
    drawn = [
        draw_token(LOGITS, SamplingParameters(do_sample=True, seed=7), prompt=(), generated=[0] * n)
        for n in range(DRAWS)
    ]
    observed = np.bincount(drawn, minlength=len(expected))
    likely = expected * DRAWS >= 5
    counts, wanted = (np.append(of[likely], of[~likely].sum()) for of in (observed, expected * DRAWS))
    assert chisquare(counts, wanted).pvalue > 0.001
    # Neighbouring positions share nothing: pairs occur as often as the product of their probabilities says.
    pairs = np.zeros((12, 12))
    np.add.at(pairs, (drawn[:-1], drawn[1:]), 1)
    products = np.outer(expected, expected) * (DRAWS - 1)
    common = products >= 5
    counts, wanted = (np.append(of[common], of[~common].sum()) for of in (pairs, products))
    assert chisquare(counts, wanted).pvalue > 0.001


def test_noise_is_standard_gumbel_and_a_pure_function() -> None:
    tokens = np.arange(100_000)
    noise = gumbel_noise(2**64 - 1, 5, tokens)
    # Mean: Euler's constant; variance: pi^2 / 6. Standard errors at 100,000: 0.004 and 0.02 (kurtosis 5.4).
    assert abs(noise.mean() - 0.5772) < 0.02
    assert abs(noise.var() - 1.6449) < 0.08
    assert np.isfinite(noise).all()
    # A token's noise does not depend on which others are asked for.
    some = np.array([99_999, 3, 500])
    assert (gumbel_noise(2**64 - 1, 5, some) == noise[some]).all()
    assert (gumbel_noise(2**64 - 2, 5, some) != noise[some]).all()
    assert (gumbel_noise(2**64 - 1, 6, some) != noise[some]).all()


@pytest.mark.parametrize("temperature", [2.0**-126, 1e-30, 1e-6])
@pytest.mark.parametrize("way", [{}, {"top_p": 0.9}, {"top_k": 3}, {"typical_p": 0.9}])
def test_the_smallest_temperature_is_greedy(temperature: float, way: dict[str, Any]) -> None:
    for seed in range(20):
        assert draw(do_sample=True, temperature=temperature, seed=seed, **way) == 1


@pytest.mark.parametrize("penalty", [2.0**-126, 1e30])
def test_the_most_extreme_penalties_leave_finite_scores(penalty: float) -> None:
    with np.errstate(invalid="raise"):
        ways: list[dict[str, Any]] = [{}, {"top_p": 0.9}, {"temperature": 1e-30}]
        for way in ways:
            drawn = draw(do_sample=True, seed=3, repetition_penalty=penalty, prompt=(0, 1, 2), **way)
            # Divided by next to nothing, the scores of 0 and 1 are past all others; divided by 1e30, they are 0.
            assert drawn in (0, 1) if penalty < 1 else drawn != 2


def test_penalties_are_the_definitions() -> None:
    # Greedy is token 1 (2.1); divided by 1.2 it is 1.75, below token 7's 1.9. Token 7 seen too: 1.58, so 1 again.
    assert draw(repetition_penalty=1.2, prompt=(1,)) == 7
    assert draw(repetition_penalty=1.2, prompt=(1, 7)) == 1
    # A negative score is multiplied: -1.0 * 1.2 stays below.
    low = np.array([-1.0, -1.1], dtype=np.float32)
    assert draw(logits=low, repetition_penalty=1.2, prompt=(0,)) == 1
    # Frequency: 2.1 - 2 * 0.2 = 1.7 < 1.9. Presence: 2.1 - 0.3 = 1.8 < 1.9, however often it was said.
    for way in ({"frequency_penalty": 0.2}, {"presence_penalty": 0.3}):
        parameters = SamplingParameters(**way)  # type: ignore[arg-type]
        assert draw_token(LOGITS, parameters, prompt=(1,), generated=[1, 1]) == 7
        assert draw_token(LOGITS, parameters, prompt=(1,), generated=[0]) == 1  # the prompt does not count


def test_a_nucleus_wider_than_the_near_tokens_is_the_whole_definition() -> None:
    # 5,000 equal tokens 13 nats below the best: together exp(-13) * 5000 = 0.011 of its mass, past every near reach.
    logits = np.full(5001, -13.0, dtype=np.float32)
    logits[17] = 0.0
    # 1 / 1.0113 = 0.9888 is the best one's share: at 0.98 it is alone, at 0.995 some of the others are there.
    assert {draw(logits=logits, do_sample=True, top_p=0.98, seed=seed) for seed in range(300)} == {17}
    assert len({draw(logits=logits, do_sample=True, top_p=0.995, seed=seed) for seed in range(2000)}) > 1


def test_a_draw_leaves_the_logits_as_they_were() -> None:
    before = LOGITS.copy()
    draw(2, do_sample=True, top_p=0.5, repetition_penalty=2.0, frequency_penalty=1.0, presence_penalty=1.0, prompt=(1,))
    assert (before == LOGITS).all()
