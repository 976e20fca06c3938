"""Killed at any moment and resumed, a run ends with the same bits as one that nobody disturbed."""

import json
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from training.checkpoint import OutputDirectory
from training.config import PPOConfig
from training.records import verify_manifest

CODES = "tests.training.tiny:sum_codes"
# Several stages in one process: what is imported once need not be waited for again.
IN_TURN = """
import json, sys
from training.__main__ import main
for arguments in json.loads(sys.argv[1]):
    if (code := main(arguments)) != 0:
        sys.exit(code)
"""


def arguments_of(stage: str, output: Path, settings: Mapping[str, object], *flags: str) -> list[str]:
    return [stage, "--output", str(output), *(f"--set={k}={v}" for k, v in settings.items()), *flags]


def run_in_turn(*runs: list[str]) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-W", "ignore", "-c", IN_TURN, json.dumps(runs)])


def kill_once_past(output: Path, updates: int, arguments: list[str]) -> None:
    """Start a stage and SIGKILL it once progress.jsonl has that many lines: a moment of no meaning to it."""
    process = subprocess.Popen([sys.executable, "-m", "training", *arguments])
    progress = output / "progress.jsonl"
    deadline = time.monotonic() + 180
    while not progress.exists() or progress.read_bytes().count(b"\n") < updates:
        assert process.poll() is None, "it ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.005)
    process.kill()
    assert process.wait() == -9
    assert not (output / "manifest.json").exists()
    assert list((output / "checkpoints").glob("*.pt"))


def without_times(output: Path) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (output / "progress.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if not k.startswith(("time/", "throughput/"))} for line in lines]


@pytest.fixture
def runs(tiny: Path, prompts: str, preferences: str) -> dict[str, dict[str, object]]:
    """Return settings of a PPO and a reward run, each long enough to be caught in the middle; bf16 with masters."""
    ppo = {
        "policy": tiny, "prompts": prompts, "reward": CODES, "updates": 24, "rollout_batch": 6, "minibatch": 4,
        "response_length": 6, "lr": 1e-3, "checkpoint_every": 3, "kl_target": 1.0, "schedule": "cosine", "warmup": 2,
        "threads": 1, "samples_every": 5, "entropy_coef": 0.01, "lora_rank": 2, "seed": 5,
    }  # fmt: skip
    reward = {"model": tiny, "train": preferences, "epochs": 8, "batch": 4, "lr": 1e-3, "checkpoint_every": 3,
              "patience": 99, "threads": 1}  # fmt: skip
    return {"ppo": ppo, "reward": reward}


def test_ppo_and_reward_killed_and_resumed_end_bit_equal(runs: dict[str, dict[str, object]], tmp_path: Path) -> None:
    whole = run_in_turn(*(arguments_of(stage, tmp_path / f"{stage}-whole", runs[stage]) for stage in runs))
    for stage, settings in runs.items():
        kill_once_past(tmp_path / stage, 7, arguments_of(stage, tmp_path / stage, settings))
    resumed = run_in_turn(*(arguments_of(stage, tmp_path / stage, runs[stage], "--resume") for stage in runs))
    assert whole.wait(300) == 0
    assert resumed.wait(300) == 0
    for stage in runs:
        ours, theirs = tmp_path / stage, tmp_path / f"{stage}-whole"
        assert without_times(ours) == without_times(theirs)
        mine, other = verify_manifest(ours)["files"], verify_manifest(theirs)["files"]
        assert mine.keys() == other.keys()
        timed = {"progress.jsonl", "metrics.json"}
        assert {n: f for n, f in mine.items() if n not in timed} == {n: f for n, f in other.items() if n not in timed}


@pytest.fixture
def directory(tmp_path: Path) -> OutputDirectory:
    config = PPOConfig(policy="p", reward="m:f", prompts="q")
    first = OutputDirectory(tmp_path / "out", stage="ppo", config=config, resume=False)
    first.log({"update": 1})
    first.save_checkpoint(1, {"n": 1})
    first.log({"update": 2, "grad_norm": float("inf"), "loss": float("nan")})
    return OutputDirectory(tmp_path / "out", stage="ppo", config=config, resume=True)


def test_progress_is_cut_back_to_the_checkpoint(directory: OutputDirectory) -> None:
    assert len(directory.progress.read_text().splitlines()) == 2
    assert directory.load_checkpoint() == (1, {"n": 1})
    assert directory.progress.read_text() == '{"update": 1}\n'


def test_a_number_that_is_not_finite_is_null_for_json_has_none(directory: OutputDirectory) -> None:
    line = directory.progress.read_text().splitlines()[1]
    assert json.loads(line, parse_constant=lambda name: pytest.fail(name)) == {
        "update": 2, "grad_norm": None, "loss": None,
    }  # fmt: skip


def test_a_half_written_checkpoint_is_passed_over(directory: OutputDirectory) -> None:
    (directory.checkpoints / "00000002.new").write_bytes(b"half")
    assert directory.load_checkpoint() == (1, {"n": 1})
    assert [path.name for path in directory.checkpoints.iterdir()] == ["00000001.pt"]


def test_no_more_checkpoints_are_kept_than_a_resume_needs(directory: OutputDirectory) -> None:
    for update in range(2, 6):
        directory.save_checkpoint(update, {"n": update})
    assert [path.name for path in sorted(directory.checkpoints.iterdir())] == ["00000004.pt", "00000005.pt"]


def test_every_generators_state_is_put_back(directory: OutputDirectory) -> None:
    import random

    import numpy as np
    import torch

    directory.save_checkpoint(2, {})
    drawn = [random.random(), float(np.random.rand()), float(torch.rand(1))]
    directory.load_checkpoint()
    assert [random.random(), float(np.random.rand()), float(torch.rand(1))] == drawn
