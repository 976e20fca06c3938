"""Somebody at a terminal sees a bar; a log and a supervised run stay free of it."""

import io
import sys
from pathlib import Path

import pytest

from training.checkpoint import OutputDirectory
from training.config import LIFELINE_VARIABLE, PPOConfig


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def shown(path: Path) -> str:
    """Return what stands on standard error after two lines of progress and the end."""
    config = PPOConfig(policy="p", reward="m:f", prompts="q", tensorboard=False)
    output = OutputDirectory(path, stage="ppo", config=config, resume=False)
    output.log({"update": 1, "updates": 4, "objective/scores": 0.25, "objective/kl": 1.5})
    output.log({"update": 2, "updates": 4, "objective/scores": float("nan"), "objective/kl": 2.5})
    output.bar.close()
    assert isinstance(sys.stderr, io.StringIO)
    return sys.stderr.getvalue()


def test_a_terminal_sees_how_far_a_stage_is_and_its_last_figures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch
                                                                 ) -> None:  # fmt: skip
    monkeypatch.setattr(sys, "stderr", Terminal())
    last = shown(tmp_path / "out").rstrip().split("\r")[-1]
    assert "2/4" in last
    assert "score=0.25" in last  # the second line has none: it was not a number
    assert "KL=2.5" in last


def test_a_log_and_a_supervised_run_see_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    assert shown(tmp_path / "log") == ""
    monkeypatch.setattr(sys, "stderr", Terminal())
    monkeypatch.setenv(LIFELINE_VARIABLE, "9")
    assert shown(tmp_path / "supervised") == ""
