"""Settings and figures that stand in the small print: each does what its line says."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from torch.testing import assert_close
from transformers import LlamaConfig, LlamaForSequenceClassification, PreTrainedTokenizerFast

from tests.training.test_ppo_step import make_ppo  # noqa: F401 - a fixture
from tests.training.tiny import TEMPLATE, make_tiny_tokenizer
from training.__main__ import main
from training.accuracy import by_strength
from training.advantages import whiten
from training.comparisons import Comparison
from training.critic import SeparateCritic
from training.experience import rollout_metrics
from training.models import encode, inner_model, load_tokenizer, render_prompt
from training.ppo import PPO
from training.rewards import ModelReward
from training.rollout import Rollout, Sampling, sample_responses


def test_advantages_are_clipped_after_they_are_whitened_and_returns_are_not(make_ppo: Any) -> None:  # noqa: F811
    ppo = make_ppo(advantage_clip=0.4)
    experience, _, _ = ppo.roll_out(0)
    mask = experience.mask_BT
    # Returns are advantages and values before both: from them the advantages that were clipped come back.
    plain = (experience.returns_BT - experience.old_values_BT).masked_fill(~mask, 0.0)
    assert_close(experience.advantages_BT, whiten(plain, mask).clamp(-0.4, 0.4), atol=1e-12, rtol=0)
    assert float(experience.advantages_BT.abs().max()) == 0.4
    free, _, _ = make_ppo().roll_out(0)
    assert float(free.advantages_BT.abs().max()) > 0.4
    assert torch.equal(free.returns_BT, experience.returns_BT)


@pytest.mark.parametrize("critic", ["head", "separate"])
def test_the_critic_steps_by_its_own_rate(make_ppo: Any, critic: str) -> None:  # noqa: F811
    # Adam's first step moves each weight by its rate, whatever the gradient is (where it is well above epsilon).
    for rate in (1e-2, 3e-4):
        ppo = make_ppo(critic=critic, critic_lr=rate, lr=1e-5, ppo_epochs=1, minibatch=6)
        weights = {name: list(part()) for name, part in (("critic", ppo.critic.parameters),
                                                         ("policy", ppo.policy.parameters))}  # fmt: skip
        before = {name: [weight.detach().clone() for weight in part] for name, part in weights.items()}
        experience, _, _ = ppo.roll_out(0)
        ppo.learn(experience, 0)
        moved = {
            name: max(float((ours - old).detach().abs().max()) for ours, old in zip(part, before[name], strict=True))
            for name, part in weights.items()
        }
        assert moved["critic"] == pytest.approx(rate, rel=1e-3)
        assert moved["policy"] == pytest.approx(1e-5, rel=1e-3)


def test_a_reward_model_stops_when_validation_has_not_improved_for_as_long_as_it_bears(
    tiny: Path, preferences: str, write_rows: Any, tmp_path: Path
) -> None:
    # Validation wants the opposite of what is learned: it is at its best early.
    rows = [json.loads(line) for line in Path(preferences).read_text().splitlines()]
    turned = [row | {"chosen": row["rejected"], "rejected": row["chosen"]} for row in rows]
    settings = {"model": tiny, "train": preferences, "validation": write_rows("turned.jsonl", turned), "batch": 4,
                "epochs": 4, "evaluations": 5, "patience": 2, "lr": 1e-2, "threads": 1, "dtype": "float32"}  # fmt: skip
    out = tmp_path / "out"
    assert main(["reward", "--output", str(out), *(f"--set={k}={v}" for k, v in settings.items())]) == 0
    lines = [json.loads(line) for line in (out / "progress.jsonl").read_text().splitlines()]
    metrics = json.loads((out / "metrics.json").read_text())
    # Ten steps an epoch, five evaluations: one every second step. Two after the best the run ends, of 40 steps early.
    losses = {line["update"]: line["loss/validation"] for line in lines if "loss/validation" in line}
    best = min(losses, key=lambda step: losses[step])
    assert list(losses) == list(range(2, best + 5, 2))
    assert len(lines) == best + 4 < 40
    assert (metrics["best_step"], metrics["steps"]) == (best, 40)
    assert metrics["loss/validation"] == pytest.approx(losses[best], rel=1e-5)


def test_accuracy_by_strength_counts_each_margin_alone_and_ties_half() -> None:
    pairs = [Comparison([[1], [2]], [0, 1], margin, 1.0, "") for margin in (1 / 3, 1 / 3, 1.0, None, 1.0, 1 / 3)]
    chosen, rejected = torch.tensor([1.0, 0.0, 2.0, 1.0, 1.0, 0.0]), torch.tensor([0.0, 1.0, 1.0, 1.0, 0.0, 0.0])
    assert by_strength(pairs, chosen, rejected) == {
        "0.33": {"accuracy": 0.5, "n": 3},  # right, wrong, a tie
        "1.00": {"accuracy": 1.0, "n": 2},
        "unknown": {"accuracy": 0.5, "n": 1},
    }


def test_of_a_prompt_that_is_too_long_ppo_keeps_the_end_and_with_it_the_turn_that_is_to_be_answered(
    make_ppo: Any, write_rows: Any, tiny: Path  # noqa: F811
) -> None:  # fmt: skip
    long = [{"role": "user", "content": "old " * 30}, {"role": "assistant", "content": "yes"},
            {"role": "user", "content": "and now?"}]  # fmt: skip
    prompts = write_rows("long.jsonl", [{"prompt": long}, {"prompt": "short"}])
    ppo = make_ppo(prompts=prompts, max_prompt_length=40, rollout_batch=2)
    tokenizer = load_tokenizer(str(tiny))
    whole = encode(tokenizer, render_prompt(tokenizer, long))  # type: ignore[arg-type]
    kept = {len(tokens): tokens for _, tokens in ppo.prompts}
    assert len(whole) > 100
    assert kept[40] == whole[-40:]
    assert tokenizer.decode(kept[40]).endswith("and now?<|im_end|>\n<|im_start|>assistant\n")
    assert min(kept) < 40  # the short one is whole
    experience, _, samples = ppo.roll_out(0)
    assert sorted(experience.batch.prompt_lengths_B.tolist()) == sorted(kept)
    assert long in [sample["prompt"] for sample in samples]  # the reward reads all of it


def test_the_rewards_spread_and_tail_and_the_drift_of_log_probabilities_are_the_numbers_they_say(
    make_ppo: Any,  # noqa: F811
) -> None:
    ppo = make_ppo()
    chosen = [tokens for _, tokens in ppo.prompts[:2]]
    rollout = ppo_rollout(ppo, chosen)
    scored, _, _ = ppo.score(rollout)
    mask = rollout.batch.mask_BT
    # Generation is made to say 0.25 more than the scoring pass of the first token of each row, else the same.
    moved = scored.logprobs_BT.clone()
    moved[:, 0] += 0.25
    rollout = dataclasses.replace(rollout, logprobs_BT=moved)
    metrics = rollout_metrics(rollout, scored, torch.tensor([-1.0, 4.0]).double(), torch.zeros(mask.shape))
    assert metrics["rollout/logprob_drift"] == pytest.approx(0.25 * 2 / int(mask.sum()))
    # -1 and 4: mean 1.5, deviation 2.5.
    tail = {name: metrics[f"objective/scores{name}"] for name in ("", "_std", "_min", "_max")}
    assert tail == {"": 1.5, "_std": 2.5, "_min": -1.0, "_max": 4.0}


def ppo_rollout(ppo: PPO, chosen: list[list[int]]) -> Rollout:
    return sample_responses(ppo.policy, ppo.tokenizer, chosen, Sampling(5), [1, 2])


@pytest.fixture(scope="module")
def other_reward(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a reward model that reads letters by other numbers, fewer of them, with a padding token of its own."""
    path = tmp_path_factory.mktemp("other") / "model"
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet(), reverse=True)
    pairs = [("a", "e"), ("e", "a"), ("o", "u"), ("Ġ", "S")]  # two letters at once, which the policy has not
    vocabulary = ["<pad>", "<|im_start|>", "<|im_end|>", *alphabet, *(a + b for a, b in pairs)]
    inner = Tokenizer(models.BPE(vocab={token: index for index, token in enumerate(vocabulary)}, merges=pairs))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer = PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=inner, eos_token="<|im_end|>", pad_token="<pad>", additional_special_tokens=["<|im_start|>"]
    )
    tokenizer.chat_template = TEMPLATE.replace("<|im_start|>' + message['role'] + '\n'", "<|im_start|>'")
    torch.manual_seed(7)
    shape = LlamaConfig(
        vocab_size=len(vocabulary), hidden_size=24, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=2, pad_token_id=0,
    )  # fmt: skip
    shape.num_labels = 1
    LlamaForSequenceClassification(shape).save_pretrained(path)  # type: ignore[no-untyped-call]
    tokenizer.save_pretrained(path)
    return path


def test_a_reward_model_with_another_tokenizer_judges_the_text_and_the_critic_starts_from_the_policy(
    make_ppo: Any, other_reward: Path, prompts: str  # noqa: F811
) -> None:  # fmt: skip
    ppo = make_ppo(reward=str(other_reward))
    assert ppo.config.critic_kind == "separate"
    assert isinstance(ppo.critic, SeparateCritic)
    # A critic reads the policy's tokens: the reward model's embeddings have fewer, and other ones.
    inner = inner_model(ppo.critic.model)
    assert inner.config.vocab_size == len(make_tiny_tokenizer())
    assert torch.equal(inner.model.embed_tokens.weight, ppo.policy.model.embed_tokens.weight)
    experience, metrics, samples = ppo.roll_out(0)
    theirs = load_tokenizer(str(other_reward))
    scorer = ModelReward(str(other_reward), "float64", 1)
    for sample in samples:
        text = theirs.apply_chat_template(
            [*sample["prompt"], {"role": "assistant", "content": sample["response"]}], tokenize=False
        )
        tokens = torch.tensor([theirs(text, add_special_tokens=False)["input_ids"]])
        with torch.no_grad():
            expected = float(scorer.model(input_ids=tokens).logits)
        assert sample["score"] == pytest.approx(expected, abs=1e-9)
    assert metrics["objective/scores"] == pytest.approx(sum(sample["score"] for sample in samples) / 6)
    watched = ppo.learn(experience, 0)
    assert watched["policy/grad_norm"] > 0
