"""Sampled responses: drawn from the distribution they claim, ended where they end, the same from the same seed."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.testing import assert_close

from training.batches import make_batch
from training.config import PPOConfig
from training.experience import score_states
from training.models import load_causal, load_tokenizer, output_weight, response_states
from training.rollout import Rollout, Sampling, draw_seeds, restrict_to_nucleus, sample_responses

PROMPTS = [[5, 6, 7], [8], [9, 10, 11, 12, 13], [20, 21]]


@pytest.fixture(scope="module")
def causal(tiny: Path) -> Any:
    return load_causal(str(tiny), torch.float64)


@pytest.fixture(scope="module")
def tokenizer(tiny: Path) -> Any:
    return load_tokenizer(str(tiny))


def sample(causal: Any, tokenizer: Any, prompts: Sequence[Sequence[int]], seed: int = 0, **how: Any) -> Rollout:
    sampling = Sampling(how.pop("max_new_tokens", 8), **how)
    seeds = draw_seeds(torch.Generator().manual_seed(seed), len(prompts))
    return sample_responses(causal, tokenizer, prompts, sampling, seeds)


HOW: list[dict[str, Any]] = [
    {}, {"temperature": 0.6}, {"temperature": 1.3, "top_p": 0.7}, {"repetition_penalty": 1.4},
    {"temperature": 0.5, "top_p": 0.8, "repetition_penalty": 1.2},
]  # fmt: skip


@pytest.mark.parametrize("how", HOW)
def test_logprobs_from_generation_are_those_of_the_same_tokens_scored_again(
    causal: Any, tokenizer: Any, how: dict[str, Any]
) -> None:
    rollout = sample(causal, tokenizer, PROMPTS, **how)
    config = PPOConfig(policy="p", reward="m:f", prompts="q", **how)
    states = response_states(causal, rollout.batch)
    scored = score_states(states, output_weight(causal), rollout.batch, config, rollout.nucleus_BTV)
    assert_close(scored.logprobs_BT.float(), rollout.logprobs_BT, atol=1e-5, rtol=0)
    assert bool((rollout.logprobs_BT[rollout.batch.mask_BT] < 0).all())


def test_one_seed_gives_one_answer_and_another_seed_another(causal: Any, tokenizer: Any) -> None:
    first, again, other = (sample(causal, tokenizer, PROMPTS, seed) for seed in (1, 1, 2))
    assert first.responses() == again.responses()
    assert torch.equal(first.logprobs_BT, again.logprobs_BT)
    assert first.responses() != other.responses()


def test_a_seeds_answer_does_not_depend_on_company(causal: Any, tokenizer: Any) -> None:
    sampling, seeds = Sampling(8, top_p=0.9), [3, 1, 4, 15]
    together = sample_responses(causal, tokenizer, PROMPTS, sampling, seeds).responses()
    pairs = zip(PROMPTS, seeds, strict=True)
    assert together == [
        sample_responses(causal, tokenizer, [prompt], sampling, [seed]).responses()[0] for prompt, seed in pairs
    ]


def test_greedy_answers_do_not_depend_on_company_though_others_end_and_are_dropped(causal: Any, tokenizer: Any) -> None:
    together = sample(causal, tokenizer, PROMPTS, greedy=True).responses()
    alone = [sample(causal, tokenizer, [prompt], greedy=True).responses()[0] for prompt in PROMPTS]
    assert together == alone


def test_a_row_ends_with_its_end_token_and_only_such_a_row_counts_as_ended(causal: Any, tokenizer: Any) -> None:
    # A random model ends with probability 1/258 a token: 200 rows of 30 tokens end early about 20 times.
    rollout = sample(causal, tokenizer, [[5, 6]] * 200, seed=3, max_new_tokens=30)
    ended = 0
    for tokens, marked in zip(rollout.responses(), rollout.ended_B.tolist(), strict=True):
        assert tokens.count(tokenizer.eos_token_id) == int(marked)
        assert (tokens[-1] == tokenizer.eos_token_id) == marked
        assert marked or len(tokens) == 30
        ended += marked
    assert 5 <= ended <= 50


def test_drawn_tokens_follow_the_tempered_softmax(causal: Any, tokenizer: Any) -> None:
    # 4,000 draws of one token: chi-square over the 20 likeliest tokens and the rest, 20 degrees of freedom.
    # Its 99.99 % quantile is 52.4; the seed is fixed, so the test either always passes or always fails.
    draws = 4000
    rollout = sample(causal, tokenizer, [[5, 6, 7]] * draws, seed=5, max_new_tokens=1, temperature=0.3)
    states = response_states(causal, make_batch([[5, 6, 7]], [[0]], pad=1))
    probabilities = ((states[0, 0] @ output_weight(causal).T).detach() / 0.3).softmax(-1)
    likeliest = probabilities.topk(20).indices
    counts = torch.bincount(rollout.batch.response_tokens_BT[:, 0], minlength=len(probabilities)).double()
    observed = torch.cat([counts[likeliest], counts.sum()[None] - counts[likeliest].sum()])
    expected = torch.cat([probabilities[likeliest], 1 - probabilities[likeliest].sum()[None]]) * draws
    assert float(((observed - expected) ** 2 / expected).sum()) < 52.4


def test_the_nucleus_is_the_smallest_set_that_reaches_top_p() -> None:
    logits = torch.tensor([[0.5, 0.3, 0.15, 0.05], [0.05, 0.15, 0.3, 0.5]]).log()
    assert restrict_to_nucleus(logits, 0.7).tolist() == [[True, True, False, False], [False, False, True, True]]
    assert restrict_to_nucleus(logits, 0.81).tolist() == [[True, True, True, False], [False, True, True, True]]
    assert restrict_to_nucleus(logits, 1e-9).sum(-1).tolist() == [1, 1]  # one always stays


def test_nothing_outside_the_nucleus_is_drawn_and_the_nucleus_is_kept(causal: Any, tokenizer: Any) -> None:
    rollout = sample(causal, tokenizer, PROMPTS * 4, seed=9, top_p=0.5)
    assert rollout.nucleus_BTV is not None
    tokens, mask = rollout.batch.response_tokens_BT, rollout.batch.mask_BT
    assert bool(rollout.nucleus_BTV.gather(-1, tokens[..., None]).squeeze(-1)[mask].all())
    assert 0 < int(rollout.nucleus_BTV[mask].sum(-1).max()) < 258


def test_without_top_p_no_nucleus_is_held(causal: Any, tokenizer: Any) -> None:
    assert sample(causal, tokenizer, PROMPTS).nucleus_BTV is None


def test_a_repetition_penalty_is_transformers_own(causal: Any, tokenizer: Any) -> None:
    # Greedy answers under a penalty are those that transformers generates under it, prompt included in what counts.
    ours = sample(causal, tokenizer, PROMPTS, greedy=True, repetition_penalty=9.0, max_new_tokens=12).responses()
    plain = sample(causal, tokenizer, PROMPTS, greedy=True, max_new_tokens=12).responses()
    assert ours != plain
    for prompt, response in zip(PROMPTS, ours, strict=True):
        whole = causal.generate(
            torch.tensor([prompt]), max_new_tokens=12, do_sample=False, repetition_penalty=9.0, pad_token_id=1
        )
        assert whole[0, len(prompt) :].tolist() == response
