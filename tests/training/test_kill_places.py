"""Killed at places that others go wrong at (ends of epochs, rollouts, between files), runs end with the same bits."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.training.killed import PLACES
from tests.training.test_resume import without_times
from training.records import verify_manifest

CODES = "tests.training.tiny:sum_codes"
# (place, at the how-manieth time). Reward has 9 steps an epoch, the language stages 5 and 4, with a checkpoint every 5
# or 3; PPO's update is a rollout of up to 6 steps and 4 minibatches.
KILLS = {
    "sft": [
        ("after a line", 5),  # an epoch ends: its line is there, its checkpoint is not
        ("after a line", 6),  # the first step of the second epoch, gone on with from the checkpoint at the border
        ("before a checkpoint has its name", 1),
    ],
    "pretrain": [("after a line", 4), ("in a checkpoint", 2), ("before the manifest", 1)],
    "reward": [
        ("after a line", 9),
        ("before an old checkpoint goes", 1),
        ("in a checkpoint", 1),  # the first one: there is nothing to go on from
        ("between files of a model", 1),
    ],
    "ppo": [
        ("in a rollout", 22),
        ("between a rollout and its update", 4),
        ("between steps of an update", 14),
        ("before a checkpoint has its name", 2),
    ],
}


def settings_of(tiny: Path, prompts: str, preferences: str, write_rows: Any) -> dict[str, dict[str, Any]]:
    """Return short runs of each stage; bf16 with float32 masters, best weights kept, moments and schedules in use."""
    pairs = [{"prompt": f"Say {i}", "completion": "aeiou"[: 1 + i % 5]} for i in range(18)]
    texts = [{"text": " ".join(f"word {i * n % 17}" for n in range(9))} for i in range(20)]
    learned = {"threads": 1, "tensorboard": "false", "lr": 1e-3, "schedule": "cosine", "warmup": 2}
    language = {"epochs": 2, "batch": 4, "patience": 2}
    return {
        "sft": {"model": tiny, "train": write_rows("sft.jsonl", pairs), "checkpoint_every": 5,
                "validation": write_rows("sft-held.jsonl", pairs[:4]), **language, **learned},
        "pretrain": {"train": write_rows("texts.jsonl", texts), "vocabulary": 300, "hidden_size": 16, "layers": 1,
                     "heads": 2, "max_length": 64, "checkpoint_every": 3, "near_duplicates": 0, **language, "batch": 2,
                     "validation": write_rows("held.jsonl", texts[:2]), **learned},
        "reward": {"model": tiny, "train": preferences, "epochs": 2, "batch": 4, "checkpoint_every": 2, "patience": 99,
                   "centre_scores": "true", "micro_tokens": 200, **learned},
        "ppo": {"policy": tiny, "prompts": prompts, "reward": CODES, "updates": 5, "rollout_batch": 6, "minibatch": 3,
                "response_length": 6, "checkpoint_every": 2, "kl_target": 1.0, "repetition_penalty": 1.2,
                "top_p": 0.9, "entropy_coef": 0.01, "watch_reward": "tests.training.tiny:count_vowels",
                "alarm": "best", "alarm_window": 2, "ptx": write_rows("ptx.jsonl", pairs), "ptx_coef": 0.1,
                "rewards": '["tests.training.tiny:count_vowels=0.5"]', **learned},
    }  # fmt: skip


def test_every_stage_killed_at_a_named_place_and_resumed_ends_bit_equal(
    tiny: Path, prompts: str, preferences: str, write_rows: Any, tmp_path: Path
) -> None:
    jobs: list[dict[str, Any]] = []
    for stage, settings in settings_of(tiny, prompts, preferences, write_rows).items():
        kills = [
            {"output": str(tmp_path / f"{stage}-{n}"), "place": place, "count": count}
            for n, (place, count) in enumerate(KILLS[stage])
        ]
        plain = {key: str(value) if isinstance(value, Path) else value for key, value in settings.items()}
        jobs.append({"stage": stage, "settings": plain, "whole": str(tmp_path / f"{stage}-whole"), "kills": kills})
    command = [sys.executable, "-W", "ignore", "-m", "tests.training.killed", json.dumps(jobs)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    timed = {"progress.jsonl", "metrics.json"}
    for job in jobs:
        whole = Path(job["whole"])
        files = {name: file for name, file in verify_manifest(whole)["files"].items() if name not in timed}
        assert {"model/model.safetensors", "config.toml"} <= files.keys()
        for kill in job["kills"]:
            ours = verify_manifest(Path(kill["output"]))["files"]
            assert {name: file for name, file in ours.items() if name not in timed} == files, kill
            assert without_times(Path(kill["output"])) == without_times(whole), kill
            assert not list(Path(kill["output"]).rglob("*.new")), kill


def test_every_place_is_aimed_at() -> None:
    assert {place for kills in KILLS.values() for place, _ in kills} == set(PLACES)
