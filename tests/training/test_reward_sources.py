"""Rewards of several sources: their weighted sum is what PPO learns from, and each is told on its own."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.training.tiny import count_vowels, sum_codes
from training.config import ConfigError, PPOConfig
from training.ppo import PPO
from training.records import Messages
from training.reward_sources import WeightedRewards, part_names

CODES, VOWELS = "tests.training.tiny:sum_codes", "tests.training.tiny:count_vowels"
ASKED: tuple[list[Messages], list[str]] = ([[], []], ["abba", "xyz"])


def length(prompts: Sequence[Messages], responses: Sequence[str]) -> list[float]:
    return [float(len(text)) for text in responses]


def make_config(**settings: Any) -> PPOConfig:
    return PPOConfig(**({"policy": "p", "reward": CODES, "prompts": "q"} | settings))


def test_the_score_is_the_weighted_sum_of_an_ensembles_mean_and_the_other_sources() -> None:
    here = f"{__name__}:length"
    config = make_config(ensemble=(here,), reward_weight=0.5, rewards=(f"{VOWELS}=3", f"{here}=-0.25"))
    score, spread, *parts = WeightedRewards(config).judge(*ASKED)
    codes, vowels, lengths = sum_codes(*ASKED), count_vowels(*ASKED), [4.0, 3.0]
    # The ensemble: mean of codes and lengths, deviation half their distance; both count half.
    means = [(a + b) / 2 for a, b in zip(codes, lengths, strict=True)]
    expected = [0.5 * m + 3 * v - 0.25 * n for m, v, n in zip(means, vowels, lengths, strict=True)]
    assert score.tolist() == pytest.approx(expected)
    assert spread.tolist() == pytest.approx([0.5 * abs(a - b) / 2 for a, b in zip(codes, lengths, strict=True)])
    assert [part.tolist() for part in parts] == [pytest.approx(values) for values in (means, vowels, lengths)]


def test_progress_tells_each_source_beside_the_sum(tiny: Path, prompts: str) -> None:
    torch.manual_seed(0)
    config = PPOConfig(policy=str(tiny), reward=CODES, rewards=(f"{VOWELS}=2",), prompts=prompts, rollout_batch=4,
                       minibatch=4, response_length=5, dtype="float64", threads=1)  # fmt: skip
    _, metrics, samples = PPO(config).roll_out(0)
    texts = [sample["response"] for sample in samples]
    codes, vowels = (sum(reward([[]] * 4, texts)) / 4 for reward in (sum_codes, count_vowels))
    assert metrics["scores/sum_codes"] == pytest.approx(codes)
    assert metrics["scores/count_vowels"] == pytest.approx(vowels)
    assert metrics["objective/scores"] == pytest.approx(codes + 2 * vowels)


def test_a_reward_alone_is_told_once() -> None:
    rewards = WeightedRewards(make_config())
    score, _, *parts = rewards.judge(*ASKED)
    assert score.tolist() == sum_codes(*ASKED)
    assert rewards.part_metrics(parts) == {}


def test_sources_have_short_names_and_no_two_the_same() -> None:
    sources = ["a.b:f", "c.d:f", "http://me:secret@h:1/score?key=secret", "runs/r1/model", "runs/r2"]
    assert part_names(sources) == ["f", "f~2", "h:1/score", "r1", "r2"]


def test_a_weight_that_is_no_number_is_refused_and_an_address_may_hold_an_equals_sign() -> None:
    for entry in ("m:f", "m:f=", "m:f=much", "=1", "m:f=nan"):
        with pytest.raises(ConfigError, match="rewards: each"):
            make_config(rewards=(entry,))
    assert make_config(rewards=("http://h/?a=b=0.5",)).weighted_rewards == [("http://h/?a=b", 0.5)]
    with pytest.raises(ConfigError, match=r"^rewards: tests.training.tiny:none"):
        WeightedRewards(make_config(rewards=("tests.training.tiny:none=1",)))
