"""What an ensemble of reward models says of the pairs it learned from, and what is done about it."""

import json
import random
from pathlib import Path
from typing import Any

import pytest
import torch
from sklearn.metrics import roc_auc_score

from training.__main__ import main
from training.comparisons import Comparison
from training.config import ConfigError, RewardConfig
from training.models import load_scorer
from training.ranking import pairwise_loss
from training.records import verify_manifest
from training.reward import RewardTraining
from training.strength import Strengths, amend, contradicted, measure


def comparison(name: str) -> Comparison:
    return Comparison([[1], [2]], [0, 1], 0.25, 1.0, name)


@pytest.fixture
def flipped_file(write_rows: Any) -> tuple[str, set[int]]:
    """Return a file of 160 pairs in which vowels are better, and the 32 rows of it that say the opposite."""
    draw = random.Random(3)
    flipped = set(draw.sample(range(160), 32))
    rows = []
    for place in range(160):
        pair = ["".join(draw.choices(letters, k=draw.randint(2, 6))) for letters in ("aeiou", "xzwvk")]
        better, worse = reversed(pair) if place in flipped else pair
        rows.append({"prompt": f"Say {place}", "chosen": better, "rejected": worse})
    return write_rows("flipped.jsonl", rows), flipped


def test_strength_is_the_mean_over_members_and_their_deviation_tells_how_sure_they_are() -> None:
    strengths = measure([[1.0, -2.0], [3.0, -2.0]])
    assert strengths.mean_N.tolist() == [2.0, -2.0]
    assert strengths.std_N.tolist() == [1.0, 0.0]


def test_of_the_weakest_pairs_those_are_turned_round_that_the_members_contradict() -> None:
    means = torch.tensor([0.5, -1.0, float("nan"), -3.0, 2.0], dtype=torch.float64)
    strengths = Strengths(means, torch.zeros(5))
    # Of four pairs a quarter is one, half are two, three quarters three, of which the third is not contradicted.
    assert [contradicted(strengths, share) for share in (0.0, 0.25, 0.5, 0.75)] == [set(), {3}, {1, 3}, {1, 3}]


def test_a_pair_turned_round_and_its_margin() -> None:
    strengths = Strengths(torch.tensor([-1.5, 0.6]).double(), torch.zeros(2))
    config = RewardConfig(model="m", train="t", ensemble=2, flip_share=0.5, adaptive_margin=True)
    turned, kept = amend([comparison("a"), comparison("b")], strengths, config)
    assert turned.texts == [[2], [1]]
    assert (turned.ranks, kept.texts) == ([0, 1], [[1], [2]])
    # A margin of 1 is worth 3: Llama 2's largest.
    assert [turned.margin, kept.margin] == pytest.approx([0.5, 0.2])
    plain = amend([comparison("a")], strengths, RewardConfig(model="m", train="t", ensemble=2, flip_share=0.9))
    assert plain[0].margin == 0.25


def test_the_members_mean_is_the_margin_of_the_loss(tiny: Path, write_rows: Any) -> None:
    rows = write_rows("r.jsonl", [{"prompt": "hi", "chosen": "aa", "rejected": "xyz"}])
    held = write_rows("h.jsonl", [{"prompt": "hi there", "chosen": "aa", "rejected": "xyz"}])
    config = RewardConfig(model=str(tiny), train=rows, validation=held, ensemble=2, adaptive_margin=True,
                          centre_coef=0.0, dtype="float64")  # fmt: skip
    training = RewardTraining(config, Strengths(torch.tensor([1.75]).double(), torch.zeros(1)))
    torch.nn.init.normal_(training.model.score.weight)
    (scores,) = training.scores(training.train)
    expected = pairwise_loss(scores[0], scores[1], torch.tensor(1.75).double())
    assert float(training.loss(training.train, [scores]).detach()) == pytest.approx(float(expected.detach()), rel=1e-9)


@pytest.mark.parametrize(
    ("settings", "key"),
    [
        ({"ensemble": 1}, "ensemble"),
        ({"flip_share": 0.1}, "ensemble"),
        ({"adaptive_margin": True}, "ensemble"),
        ({"ensemble": 2, "flip_share": 1.0}, "flip_share"),
        ({"ensemble": 2, "adaptive_margin": True, "use_margin": True}, "use_margin"),
        ({"attributes": ("helpfulness",)}, "attributes"),
        ({"attributes": ("a=1", "a=2")}, "attributes"),
    ],
)
def test_what_does_not_go_together_is_named(settings: dict[str, Any], key: str) -> None:
    with pytest.raises(ConfigError, match=f"^{key}: "):
        RewardConfig(model="m", train="t", **settings)


def test_an_ensemble_finds_the_flipped_pairs_and_the_model_learns_without_them(
    tiny: Path, flipped_file: tuple[str, set[int]], write_rows: Any, tmp_path: Path
) -> None:
    train, flipped = flipped_file
    held = write_rows("held.jsonl", [{"prompt": f"Tell {i}", "chosen": "aiu"[: 1 + i % 3], "rejected": "xkw"[i % 3 :]}
                                     for i in range(12)])  # fmt: skip
    settings = {"model": tiny, "train": train, "validation": held, "ensemble": 3, "flip_share": 0.25, "lr": 3e-3,
                "epochs": 2, "batch": 8, "dtype": "float32", "threads": 1}  # fmt: skip
    output = tmp_path / "out"
    assert main(["reward", "--output", str(output), *(f"--set={k}={v}" for k, v in settings.items())]) == 0
    rows = [json.loads(line) for line in (output / "strength.jsonl").read_text().splitlines()]
    assert len(rows) == 160
    wrong = [row["row"] in flipped for row in rows]
    assert roc_auc_score(wrong, [-row["strength"] for row in rows]) > 0.95
    turned = {row["row"] for row in rows if row["flipped"]}
    assert len(turned & flipped) >= 28
    assert len(turned - flipped) <= 4
    files = verify_manifest(output)["files"]
    weights = {files[f"{name}/model.safetensors"]["sha256"] for name in ("model-0", "model-1", "model-2", "model")}
    assert len(weights) == 4
    assert load_scorer(str(output), torch.float32).config.num_labels == 1
    metrics = json.loads((output / "metrics.json").read_text())
    assert metrics["n/flipped"] == len(turned)
    assert metrics["reward/accuracy"] == 1.0


def told(output: Path) -> list[dict[str, Any]]:
    """Return a run's progress without its times."""
    lines = [json.loads(line) for line in (output / "progress.jsonl").read_text(encoding="utf-8").splitlines()]
    return [{key: value for key, value in line.items() if not key.startswith("time/")} for line in lines]


def test_an_ensemble_killed_between_members_goes_on_and_ends_with_the_same_weights(
    tiny: Path, preferences: str, tmp_path: Path, monkeypatch: Any
) -> None:
    settings = {"model": tiny, "train": preferences, "ensemble": 2, "epochs": 1, "batch": 8, "lr": 1e-3, "threads": 1,
                "checkpoint_every": 2, "lora_rank": 2}  # fmt: skip
    arguments = [f"--set={k}={v}" for k, v in settings.items()]
    assert main(["reward", "--output", str(tmp_path / "whole"), *arguments]) == 0
    steps = 0
    step = RewardTraining.step

    def fails_later(self: RewardTraining, number: int) -> dict[str, float]:
        nonlocal steps
        steps += 1
        if steps == 9:  # in the second member: each has 5 steps
            raise KeyboardInterrupt
        return step(self, number)

    monkeypatch.setattr(RewardTraining, "step", fails_later)
    assert main(["reward", "--output", str(tmp_path / "out"), *arguments]) == 130
    monkeypatch.setattr(RewardTraining, "step", step)
    assert main(["reward", "--output", str(tmp_path / "out"), *arguments, "--resume"]) == 0
    ours, theirs = (verify_manifest(tmp_path / name)["files"] for name in ("out", "whole"))
    assert ours.keys() == theirs.keys()
    for name in ("model-0/model.safetensors", "model-1/model.safetensors", "model/model.safetensors",
                 "strength.jsonl", "adapter-1/adapter_model.safetensors"):  # fmt: skip
        assert ours[name] == theirs[name]
    assert told(tmp_path / "out") == told(tmp_path / "whole")
    # Nothing is asked of the strengths: the model is the best member.
    best = json.loads((tmp_path / "out" / "metrics.json").read_text())["ensemble/best_member"]
    one, two = (load_scorer(str(tmp_path / "out" / name), torch.float32) for name in ("model", f"model-{best}"))
    assert all(map(torch.equal, one.parameters(), two.parameters()))
