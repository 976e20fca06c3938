"""Two processes that train together take the steps of one, whatever share of a batch each of them has."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.testing import assert_close

from training.models import load_causal, load_scorer
from training.records import verify_manifest

CODES = "tests.training.tiny:sum_codes"
# Several stages in one process, each a group of its own: what is imported once need not be waited for again.
IN_TURN = """
import glob, json, os, sys
from training.__main__ import main
for port, arguments, expected in json.loads(sys.argv[1]):
    os.environ["MASTER_PORT"] = str(port)
    if (code := main(arguments)) != expected:
        sys.exit(f"{arguments}: {code}")
    # Threads of a group that outlive it abort the process, now and then, as it ends.
    if left := [task for task in glob.glob("/proc/self/task/*/comm") if "gloo" in open(task).read()]:
        sys.exit(f"{arguments}: {left}")
"""

Run = tuple[str, Path, Mapping[str, object]]


def free_port() -> int:
    with socket.socket() as chosen:
        chosen.bind(("127.0.0.1", 0))
        return int(chosen.getsockname()[1])


def start(runs: Sequence[Run], count: int, *flags: str, expected: int = 0) -> list[subprocess.Popen[str]]:
    """Start `count` processes that do the runs together, as a launcher starts them."""
    turns = [
        [free_port(), [stage, "--output", str(output), *(f"--set={k}={v}" for k, v in settings.items()), *flags],
         expected]
        for stage, output, settings in runs
    ]  # fmt: skip
    environment = os.environ | {"MASTER_ADDR": "127.0.0.1", "WORLD_SIZE": str(count), "LOCAL_WORLD_SIZE": str(count)}
    return [
        subprocess.Popen(
            [sys.executable, "-W", "ignore", "-c", IN_TURN, json.dumps(turns)],
            env=environment | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(count)
    ]


def finish(*groups: list[subprocess.Popen[str]]) -> list[str]:
    """Wait for processes, all of which must end well; return what each said."""
    processes = [process for group in groups for process in group]
    said = [process.communicate(timeout=300)[1] for process in processes]
    assert [process.returncode for process in processes] == [0] * len(processes), said
    return said


def progress(output: Path) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (output / "progress.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if not k.startswith(("time/", "throughput/"))} for line in lines]


@pytest.fixture
def runs(tiny: Path, prompts: str, preferences: str, write_rows: Any) -> dict[str, dict[str, object]]:
    """Return settings of stages in float64 whose batches two processes cannot halve: 5, 3 and 1 are in them."""
    rows = [{"prompt": f"Say {i}", "completion": "oh" * (1 + i % 4)} for i in range(7)]
    base = {"threads": 1, "dtype": "float64", "lr": 1e-3, "tensorboard": "false"}
    ppo = base | {"policy": tiny, "prompts": prompts, "reward": CODES, "updates": 3, "rollout_batch": 5, "minibatch": 3,
                  "response_length": 5, "top_p": 0.9, "ptx": write_rows("ptx.jsonl", rows), "ptx_coef": 0.3,
                  "ptx_batch": 3, "checkpoint_every": 1}  # fmt: skip
    reward = base | {"model": tiny, "train": preferences, "epochs": 1, "batch": 5, "use_margin": "true",
                     "checkpoint_every": 2}  # fmt: skip
    sft = base | {"model": tiny, "train": ppo["ptx"], "validation": ppo["ptx"], "batch": 3, "epochs": 2}
    return {"reward": reward, "ppo": ppo, "sft": sft}


def test_two_processes_take_the_steps_of_one(runs: dict[str, dict[str, object]], tmp_path: Path) -> None:
    alone = start([(stage, tmp_path / f"{stage}-1", settings) for stage, settings in runs.items()], 1)
    # The second way also takes its batches in pieces.
    pieces = {stage: settings | {"micro_batch": 1} for stage, settings in runs.items()}
    together = start([(stage, tmp_path / f"{stage}-2", settings) for stage, settings in pieces.items()], 2)
    finish(alone, together)
    for stage in runs:
        ours, theirs = progress(tmp_path / f"{stage}-2"), progress(tmp_path / f"{stage}-1")
        assert len(ours) == len(theirs) > 2
        for mine, other in zip(ours, theirs, strict=True):
            assert mine == pytest.approx(other, rel=1e-6, abs=1e-6), stage
        verify_manifest(tmp_path / f"{stage}-2")
        load = load_scorer if stage == "reward" else load_causal
        models = [load(str(tmp_path / f"{stage}-{count}"), torch.float64) for count in (1, 2)]
        for one, two in zip(*(model.parameters() for model in models), strict=True):
            assert_close(one, two, atol=1e-7, rtol=1e-6)


def test_a_reward_that_fails_one_fails_all_with_a_line_each(runs: dict[str, dict[str, object]], tmp_path: Path
                                                            ) -> None:  # fmt: skip
    settings = runs["ppo"] | {"reward": "tests.training.tiny:fail_for_one", "rollout_batch": 10}
    said = finish(start([("ppo", tmp_path / "out", settings)], 2, expected=1))
    first, second = (each.strip().splitlines()[-1] for each in said)
    assert first.startswith("reward: tests.training.tiny:fail_for_one: KeyError")
    assert second == f"process 1: {first}"
    assert "Traceback" not in said[0] + said[1]


def test_a_signal_to_one_stops_both_and_they_resume_where_the_first_one_wrote(
    runs: dict[str, dict[str, object]], tmp_path: Path
) -> None:
    settings = runs["ppo"] | {"updates": 12, "ptx_coef": 0.0, "critic": "separate"}
    whole = start([("ppo", tmp_path / "whole", settings)], 2)
    stopped = start([("ppo", tmp_path / "stopped", settings)], 2, expected=130)
    lines, deadline = tmp_path / "stopped" / "progress.jsonl", time.monotonic() + 180
    while not lines.exists() or lines.read_bytes().count(b"\n") < 2:
        assert stopped[1].poll() is None, stopped[1].communicate()
        assert time.monotonic() < deadline
        time.sleep(0.01)
    stopped[1].send_signal(signal.SIGTERM)  # the one that writes nothing
    said = finish(stopped)
    assert "stopped; --resume goes on" in said[0]
    assert len(progress(tmp_path / "stopped")) < 12
    finish(whole, start([("ppo", tmp_path / "stopped", settings)], 2, "--resume"))
    assert progress(tmp_path / "stopped") == progress(tmp_path / "whole")
    ours, theirs = (verify_manifest(tmp_path / name)["files"] for name in ("stopped", "whole"))
    assert ours["model/model.safetensors"] == theirs["model/model.safetensors"]
