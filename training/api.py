"""Stages for Python: what the command line does, as one call that returns the metrics."""

import importlib
import json
from pathlib import Path
from typing import Any

from training.checkpoint import OutputDirectory
from training.config import STAGES, make_config


def run_stage(stage: str, output: str | Path, *, resume: bool = False, **settings: Any) -> dict[str, Any]:
    """Run a stage (pretrain, sft, reward, ppo, evaluate or generate) into a directory; return its metrics.json.

    Settings are the keys of the stage's config (training.config), paths as text. It must be called from the main
    thread, for a stage listens to SIGTERM and Ctrl-C. A stage that is done already is not run again: with resume its
    metrics are returned.

    Raises:
        ConfigError, DataError: a setting, or the data it names, cannot be used.
        RewardError: a reward failed; with resume the stage goes on from its last checkpoint.
        Stopped: a signal came; with resume the stage goes on.
        FileExistsError: the directory holds something, and resume was not asked for.
    """
    config = make_config(STAGES[stage], settings)
    directory = OutputDirectory(Path(output), stage=stage, config=config, resume=resume)
    if not directory.done:
        importlib.import_module(f"training.{stage}").run(config, directory)
    metrics: dict[str, Any] = json.loads((Path(output) / "metrics.json").read_text(encoding="utf-8"))
    return metrics
