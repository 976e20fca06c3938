"""The examples run, and teach what they say they teach."""

import runpy
import sys
from pathlib import Path
from typing import Any

import training.examples
from training.api import run_stage
from training.examples import callable_reward


def test_the_shortest_example_teaches_a_policy_to_be_kind(tmp_path: Path, capsys: Any) -> None:
    curve = callable_reward.main(tmp_path)
    assert sum(curve[-3:]) / 3 > 0.6 > 0.4 > abs(curve[0])
    assert capsys.readouterr().out.count("kindness") == len(curve)
    # What is done is not done again: its metrics are read.
    again = run_stage("ppo", tmp_path / "ppo", resume=True, policy=str(tmp_path / "policy"),
                      prompts=str(tmp_path / "prompts.jsonl"), reward="training.examples.world:kindness")  # fmt: skip
    assert again["objective/scores"] == curve[-1]


def test_every_example_can_be_run_by_name(monkeypatch: Any) -> None:
    folder = Path(training.examples.__path__[0])
    names = {path.stem for path in folder.glob("*.py")} - {"__init__", "world"}
    assert names == {"callable_reward", "whole_pipeline", "noisy_preferences"}
    for name in names:
        monkeypatch.delitem(sys.modules, f"training.examples.{name}", raising=False)
        assert callable(runpy.run_module(f"training.examples.{name}", run_name="imported")["main"])
        assert f"python -m training.examples.{name}" in (folder / f"{name}.py").read_text(encoding="utf-8")
