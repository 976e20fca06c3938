"""TensorBoard sees what progress.jsonl says, and after a resume no more than that."""

import json
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from training.checkpoint import OutputDirectory
from training.config import PPOConfig


def scalars(folder: Path) -> dict[str, list[tuple[int, float]]]:
    events = EventAccumulator(str(folder))
    events.Reload()
    return {tag: [(e.step, e.value) for e in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def open_directory(path: Path, *, resume: bool, tensorboard: bool = True) -> OutputDirectory:
    config = PPOConfig(policy="p", reward="m:f", prompts="q", tensorboard=tensorboard)
    return OutputDirectory(path, stage="ppo", config=config, resume=resume)


def test_numbers_of_each_line_stand_at_its_update_and_a_resume_cuts_them_back(tmp_path: Path) -> None:
    output = open_directory(tmp_path / "out", resume=False)
    for update in (1, 2, 3):
        line = {"update": update, "updates": 3, "objective/kl": update / 2, "note": "x", "grad_norm": float("nan")}
        output.log(line)
        if update == 2:
            output.save_checkpoint(2, {})
    expected = [(1, 0.5), (2, 1.0), (3, 1.5)]
    assert scalars(tmp_path / "out" / "tensorboard") == {"objective/kl": expected}
    resumed = open_directory(tmp_path / "out", resume=True)
    resumed.load_checkpoint()
    assert scalars(tmp_path / "out" / "tensorboard") == {"objective/kl": expected[:2]}


def test_without_tensorboard_nothing_of_it_is_written(tmp_path: Path) -> None:
    open_directory(tmp_path / "out", resume=False, tensorboard=False).log({"update": 1, "loss": 1.0})
    assert not (tmp_path / "out" / "tensorboard").exists()


@pytest.mark.parametrize("kept", ["metrics.json", "progress.jsonl", "config.toml"])
def test_the_manifest_names_no_event_file(tmp_path: Path, kept: str) -> None:
    output = open_directory(tmp_path / "out", resume=False)
    output.log({"update": 1, "loss": 1.0})
    output.finish({}, data=[], parents=[])
    files = json.loads((tmp_path / "out" / "manifest.json").read_text())["files"]
    assert kept in files
    assert not [name for name in files if name.startswith("tensorboard")]
