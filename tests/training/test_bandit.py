"""A bandit whose every response can be listed: PPO reaches the optimum that theory gives, not merely more reward.

Of E[r] - beta * KL(pi || pi_ref) the optimum is pi* = pi_ref * exp(r / beta) / Z, and its value beta * log Z
(arXiv:1909.08593, section 2; Rafailov et al. 2023, eq. 4).
"""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from tokenizers import Tokenizer, models
from tokenizers.decoders import Fuse
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from training.batches import make_batch
from training.config import PPOConfig
from training.head import state_logprobs
from training.models import load_causal, load_tokenizer, output_weight, response_states
from training.ppo import PPO
from training.records import Messages

LETTERS = "abcde"
BETA = 0.5
# Not one letter: after "a", a response "a" would leave attention nothing to tell the two places apart by.
PROMPT = [1, 2, 3]
# One reward for each first and second letter; an empty place (the response ended) is worth 0.
FIRST = dict(zip(LETTERS, (0.9, -0.6, 0.2, 0.0, -0.3), strict=True))
SECOND = dict(zip(LETTERS, (-0.5, 0.7, 0.1, -0.2, 0.4), strict=True))


def reward_of(text: str) -> float:
    return sum(table[letter] for table, letter in zip((FIRST, SECOND), text, strict=False))


def score(prompts: Sequence[Messages], responses: Sequence[str]) -> list[float]:
    return [reward_of(text) for text in responses]


@pytest.fixture(scope="module")
def bandit(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a directory with a policy over five letters and an end (which is the padding too), and one prompt."""
    path = tmp_path_factory.mktemp("bandit")
    inner = Tokenizer(models.BPE(vocab={"<end>": 0} | {c: i + 1 for i, c in enumerate(LETTERS)}, merges=[]))
    inner.decoder = Fuse()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="<end>", pad_token="<end>")  # type: ignore[no-untyped-call]
    tokenizer.chat_template = "{% for message in messages %}{{ message['content'] }}{% endfor %}"
    torch.manual_seed(1)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=6, hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2,
            initializer_range=0.3, tie_word_embeddings=False, eos_token_id=0, pad_token_id=0, bos_token_id=0,
        )
    )  # fmt: skip
    model.save_pretrained(path / "policy")
    tokenizer.save_pretrained(path / "policy")
    (path / "prompts.jsonl").write_text(json.dumps({"prompt": "abc"}) + "\n")
    return path


def every_response() -> list[list[int]]:
    """Return all 31: the end; a letter and the end; two letters (30 and 1, for the second may be any of six)."""
    return [[0]] + [[first, second] for first in range(1, 6) for second in range(6)]


@torch.no_grad()
def distribution(model: Any) -> torch.Tensor:
    """Return the exact probability of each of every_response(), in float64."""
    responses = every_response()
    batch = make_batch([PROMPT] * len(responses), responses, pad=0)
    states = response_states(model, batch)
    logprobs = state_logprobs(states, output_weight(model), batch.response_tokens_BT, batch.mask_BT)
    return logprobs.double().sum(1).exp()


@pytest.mark.parametrize("critic", ["head", "separate"])
def test_ppo_reaches_the_listed_optimum_in_distribution_reward_and_kl(
    bandit: Path, critic: Literal["head", "separate"]
) -> None:
    config = PPOConfig(
        policy=str(bandit / "policy"), reward="tests.training.test_bandit:score",
        prompts=str(bandit / "prompts.jsonl"), dtype="float32", updates=60, rollout_batch=256, minibatch=256,
        ppo_epochs=1, response_length=2, lr=6e-3, schedule="cosine", critic=critic, critic_lr=2e-2, value_coef=0.1,
        value_clip=10.0, kl_coef=BETA, reward_scaling=False, reward_centring=False,
        reward_clip=0.0, whiten_advantages=False, lam=1.0, threads=1,
    )  # fmt: skip
    torch.manual_seed(0)
    ppo = PPO(config)
    reference = distribution(load_causal(config.policy, torch.float32))
    assert float(reference.sum()) == pytest.approx(1.0, abs=1e-5)  # nothing was left out of the list
    tokenizer = load_tokenizer(config.policy)
    rewards = torch.tensor(
        [reward_of(tokenizer.decode(r, skip_special_tokens=True)) for r in every_response()], dtype=torch.float64
    )
    tilted = reference * (rewards / BETA).exp()
    log_z = math.log(float(tilted.sum()))
    optimum = tilted / tilted.sum()
    for update in range(config.updates):
        experience, metrics, _ = ppo.roll_out(update)
        ppo.learn(experience, update)
    reached = distribution(ppo.policy)

    def objective(policy: torch.Tensor) -> float:
        return float((policy * (rewards - BETA * (policy / reference).log())).sum())

    assert objective(optimum) == pytest.approx(BETA * log_z, abs=1e-6)
    start, best = objective(reference), BETA * log_z
    # What is lost is exactly beta * KL(reached || optimum): 98 % of the way from the reference to the optimum.
    assert objective(reached) > start + 0.98 * (best - start)
    assert float((reached - optimum).abs().sum()) / 2 < 0.05  # total variation
    expected_kl = float((optimum * (optimum / reference).log()).sum())
    assert float((reached * (reached / reference).log()).sum()) == pytest.approx(expected_kl, rel=0.1)
    assert float((reached * rewards).sum()) == pytest.approx(float((optimum * rewards).sum()), abs=0.05)
    # And what the last rollout reports is what is so, within the noise of 256 samples.
    assert metrics["objective/kl"] == pytest.approx(expected_kl, abs=0.25)
    assert metrics["objective/scores"] == pytest.approx(float((optimum * rewards).sum()), abs=0.15)


def test_with_a_heavy_price_on_kl_the_policy_stays_where_it_is(bandit: Path) -> None:
    config = PPOConfig(
        policy=str(bandit / "policy"), reward="tests.training.test_bandit:score",
        prompts=str(bandit / "prompts.jsonl"), dtype="float32", updates=20, rollout_batch=128, minibatch=128,
        ppo_epochs=1, response_length=2, lr=3e-3, schedule="cosine", critic_lr=2e-2, value_clip=100.0, kl_coef=50.0,
        reward_scaling=False, reward_centring=False, reward_clip=0.0, whiten_advantages=False, threads=1,
    )  # fmt: skip
    torch.manual_seed(0)
    ppo = PPO(config)
    reference = distribution(ppo.policy)
    for update in range(config.updates):
        experience, _, _ = ppo.roll_out(update)
        ppo.learn(experience, update)
    reached = distribution(ppo.policy)
    assert 0 <= float((reached * (reached / reference).log()).sum()) < 0.01
