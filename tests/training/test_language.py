"""What pretraining and fine-tuning share: pieces that add up to a batch, and stopping when it no longer helps."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.testing import assert_close

from training.__main__ import main
from training.config import SFTConfig
from training.language import LanguageTraining
from training.models import load_causal
from training.sft import prepare_training

ROWS = [{"prompt": f"Say {i}", "completion": "oh" * (1 + i % 4)} for i in range(10)]


@pytest.fixture
def make_training(tiny: Path, write_rows: Any) -> Any:
    def make(**settings: Any) -> LanguageTraining:
        base: dict[str, Any] = {"model": str(tiny), "train": write_rows("train.jsonl", ROWS), "dtype": "float64"}
        return prepare_training(SFTConfig(**(base | settings)))

    return make


@pytest.mark.parametrize("cut", [{"micro_batch": 1}, {"micro_batch": 3}, {"micro_batch": 8}, {"micro_tokens": 60}])
def test_pieces_of_a_batch_give_the_step_of_the_whole(make_training: Any, cut: dict[str, int]) -> None:
    whole, pieces = make_training(), make_training(**cut)
    for step in range(2):
        expected, got = whole.step(step), pieces.step(step)
        assert got == pytest.approx(expected, rel=1e-5)
    for ours, theirs in zip(pieces.model.parameters(), whole.model.parameters(), strict=True):
        assert_close(ours, theirs, atol=1e-6, rtol=0)


@pytest.mark.parametrize(("optimiser", "lr"), [("adamw", 1e-3), ("sgd", 1e-2), ("rmsprop", 1e-3)])
def test_every_optimiser_learns(make_training: Any, optimiser: str, lr: float) -> None:
    training = make_training(optimiser=optimiser, lr=lr, epochs=5, dtype="float32")
    losses = [training.step(step)["loss/train"] for step in range(training.steps)]
    assert losses[-1] < losses[0] - 0.05


def test_the_prompt_is_given_and_not_learned(make_training: Any) -> None:
    training = make_training(batch=1)
    watched = training.step(0)
    (given, learned) = training.batch_at(0)[0]
    # What is counted is the answer, its end of turn and the line's end: an even number of letters, and 2.
    assert watched["tokens"] == len(learned)
    assert len(learned) % 2 == 0
    assert len(given) > 20


def test_training_stops_when_validation_gets_no_better_and_keeps_the_best(tiny: Path, write_rows: Any, tmp_path: Path
                                                                          ) -> None:  # fmt: skip
    # Learning "oh" unlearns "za": validation gets worse, soon or at once.
    held = write_rows("held.jsonl", [{"prompt": "Say 1", "completion": "zzzzzzzz"}])
    train = write_rows("train.jsonl", ROWS)
    settings = {"model": tiny, "train": train, "validation": held, "epochs": 50, "patience": 2, "lr": 1e-2, "batch": 5,
                "dtype": "float32", "threads": 1}  # fmt: skip
    assert main(["sft", "--output", str(tmp_path / "out"), *(f"--set={k}={v}" for k, v in settings.items())]) == 0
    lines = [json.loads(line) for line in (tmp_path / "out" / "progress.jsonl").read_text().splitlines()]
    losses = [line["loss/validation"] for line in lines if "loss/validation" in line]
    metrics = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert len(lines) < 100
    assert losses.index(min(losses)) == len(losses) - 3  # two worse ones after the best
    assert metrics["best_step"] == 2 * (len(losses) - 2)
    assert metrics["loss/validation"] == pytest.approx(min(losses), rel=1e-5)
    kept = prepare_training(SFTConfig(model=str(tmp_path / "out"), train=train, validation=held, dtype="float32"))
    assert kept.held_loss() == pytest.approx(min(losses), rel=1e-4)
    assert isinstance(load_causal(str(tmp_path / "out"), torch.float32), torch.nn.Module)


def test_a_stored_state_is_the_whole_state(make_training: Any, write_rows: Any) -> None:
    held = write_rows("held.jsonl", ROWS[:2])
    settings = {"validation": held, "patience": 3, "dtype": "float32"}
    training, other = make_training(**settings), make_training(**settings)
    training.step(0)
    training.validate(1)
    other.load(training.state())
    assert (other.best.loss, other.best.step, other.best.worse) == (training.best.loss, 1, 0)
    assert all(map(torch.equal, other.best.weights, training.best.weights))
    assert other.held_loss() == training.held_loss()
