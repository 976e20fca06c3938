"""PPO against a small proxy of a trained gold reward: the alarm rings soon after the gold's peak, and not before it.

The gold reward likes six letters a of ten and has seen answers of every kind. The proxy is smaller and has seen what
the policy writes at first, where more is better, labelled by the gold with noise: it does not know that less would be
better beyond that. Gao et al. (arXiv:2210.10760) in small.
"""

import json
import math
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from tests.training.tiny import make_tiny_model, make_tiny_tokenizer
from training.__main__ import main
from training.rewards import ModelReward

LETTERS, BEST, WINDOW = 10, 6, 8
COMMON = {"seed": 5, "threads": 1, "dtype": "float32", "tensorboard": "false"}


Scorer = Callable[[str, Sequence[str]], list[float]]


def likes_six(_: str, texts: Sequence[str]) -> list[float]:
    return [-abs(text.count("a") - BEST) for text in texts]


class World:
    """A folder with a gold reward, a proxy of it and a policy; random texts of ten letters."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.random = folder, random.Random(5)
        make_tiny_model(folder / "large")
        _make_smaller(folder / "small")
        self.prompts = self.write("prompts", [{"prompt": f"Say {i}"} for i in range(10)])

    def text(self, share: float) -> str:
        """Return ten letters, in half of all cases fewer, such a share of them a; the others are not equally often."""
        length = LETTERS if self.random.random() < 0.5 else self.random.randrange(LETTERS)
        weights = [self.random.random() ** 2 for _ in "bcd"]
        return "".join(
            "a" if self.random.random() < share else self.random.choices("bcd", weights)[0] for _ in range(length)
        )

    def write(self, name: str, rows: Sequence[dict[str, Any]]) -> Path:
        path = self.folder / f"{name}.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        return path

    def train(self, stage: str, name: str, **settings: Any) -> Path:
        output = self.folder / name
        given = [f"--set={key}={value}" for key, value in (COMMON | settings).items()]
        assert main([stage, "--output", str(output), *given]) == 0
        return output

    def rankings(self, count: int, most: float, score: Scorer) -> list[dict[str, Any]]:
        """Return rankings of answers with up to such a share of a, by a score of a prompt's answers."""
        rows = []
        for number in range(count):
            prompt = f"Say {number % 10}"
            texts = sorted({self.text(most * self.random.random()) for _ in range(6)})
            scores = dict(zip(texts, score(prompt, texts), strict=True))
            tiers = sorted(set(scores.values()), reverse=True)
            ranks = [tiers.index(scores[text]) for text in texts]
            rows.append({"prompt": prompt, "responses": texts, "ranks": ranks, "prompt_id": str(number % 10)})
        return rows

    def noisy(self, gold: ModelReward) -> Scorer:
        """Return the gold's scores with Gumbel noise: choices by them are Bradley-Terry's."""

        def score(prompt: str, texts: Sequence[str]) -> list[float]:
            scores = gold([[{"role": "user", "content": prompt}]] * len(texts), texts)
            return [value - math.log(-math.log(self.random.random())) for value in scores]

        return score

    def curve(self, name: str, **settings: Any) -> list[dict[str, float]]:
        """Run PPO against the proxy, the gold watching; return its progress."""
        plain = {"policy": self.folder / "policy", "reward": self.folder / "proxy", "prompts": self.prompts,
                 "watch_reward": self.folder / "gold", "rollout_batch": 32, "minibatch": 32, "critic": "head",
                 "response_length": LETTERS, "lr": 2e-3, "checkpoint_every": 1000, "samples_every": 1000,
                 "alarm_window": WINDOW}  # fmt: skip
        output = self.train("ppo", name, **(plain | settings))
        return [json.loads(line) for line in (output / "progress.jsonl").read_text().splitlines()]


def _make_smaller(path: Path) -> None:
    torch.manual_seed(3)
    tokenizer = make_tiny_tokenizer()
    model = LlamaForCausalLM(LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=8, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=2, max_position_embeddings=256, tie_word_embeddings=True, eos_token_id=1, pad_token_id=1,
    ))  # fmt: skip
    model.save_pretrained(path)
    tokenizer.save_pretrained(path)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    world = World(tmp_path_factory.mktemp("world"))
    rows = world.rankings(240, 1.0, likes_six)
    # Slowly: at 1e-2 a difference in rounding decided whether the gold came to prefer six to ten at all.
    world.train(
        "reward", "gold", model=world.folder / "large", train=world.write("all", rows), lr=5e-3, epochs=8, evaluations=1
    )
    gold = ModelReward(str(world.folder / "gold"), "float32", 16)
    rows = world.rankings(100, 0.5, world.noisy(gold))
    world.train(
        "reward",
        "proxy",
        model=world.folder / "small",
        train=world.write("seen", rows),
        lr=1e-2,
        epochs=4,
        evaluations=1,
    )
    # Longer than an answer may be: the policy does not end it itself.
    rows = [{"prompt": f"Say {i % 10}", "completion": (world.text(0.2) + "bcdbcdbcdb")[:LETTERS] + "bcdb"}
            for i in range(160)]  # fmt: skip
    world.train("sft", "policy", model=world.folder / "large", train=world.write("first", rows), lr=1e-2, epochs=4)
    return world


def smoothed(values: Sequence[float]) -> list[float]:
    return [fmean(values[max(0, end - WINDOW) : end]) for end in range(1, len(values) + 1)]


def test_the_gold_has_its_best_at_six_and_the_proxy_none(world: World) -> None:
    gold, proxy = (ModelReward(str(world.folder / name), "float32", 16) for name in ("gold", "proxy"))
    texts = [("a" * count + "bcdbcdbcdb")[:LETTERS] for count in (0, 3, BEST, LETTERS)]
    scores = {name: each([[{"role": "user", "content": "Say 1"}]] * 4, texts) for name, each in
              (("gold", gold), ("proxy", proxy))}  # fmt: skip
    none, some, best, all_a = scores["gold"]
    assert none < some < best > all_a + 2
    none, some, best, all_a = scores["proxy"]
    assert none < some < best
    assert all_a > best - 0.1


def test_the_alarm_rings_soon_after_the_gold_turns_while_the_proxy_rises(world: World) -> None:
    # In worlds 1, 3 and 5, and in 5 under three ways of rounding, the smoothed gold was at its best after 12 to 15
    # updates, and the alarm rang 5 or 6 later; in world 0 it had not turned after 32.
    lines = world.curve("hard", updates=32, kl_coef=0.0)
    gold, proxy = (smoothed([line[name] for line in lines]) for name in ("watch/scores", "objective/scores"))
    peak = max(range(len(gold)), key=lambda update: gold[update])
    ring = next((update for update, line in enumerate(lines) if line["alarm/watch"]), None)
    assert proxy[-1] > proxy[peak] > proxy[WINDOW]
    assert gold[0] + 3 < gold[peak] > gold[-1] + 1
    assert ring is not None
    assert peak < ring <= peak + 2 * WINDOW


def test_it_keeps_quiet_while_a_price_on_kl_holds_the_policy_at_the_peak(world: World) -> None:
    lines = world.curve("held", updates=20, kl_coef=0.03)
    gold = smoothed([line["watch/scores"] for line in lines])
    assert not any(line["alarm/watch"] for line in lines)
    assert gold[-1] > gold[0] + 3
