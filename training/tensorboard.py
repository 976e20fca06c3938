"""The same figures for those who look at runs with TensorBoard: event files beside progress.jsonl."""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

FOLDER = "tensorboard"


class EventFiles:
    """Scalars of progress lines under DIR/tensorboard, one step an update; opened with the first line.

    progress.jsonl is what counts: the files are made anew from it when a run goes on, and no manifest names them.
    """

    def __init__(self, directory: Path) -> None:
        self.folder = directory / FOLDER
        self._writer: Any = None

    def write(self, line: Mapping[str, Any]) -> None:
        """Add a line's numbers at its update."""
        if self._writer is None:
            from torch.utils.tensorboard import SummaryWriter  # half a second, for those who ask for it

            self._writer = SummaryWriter(str(self.folder))
        for name, value in line.items():
            if isinstance(value, int | float) and name not in ("update", "updates"):
                self._writer.add_scalar(name, value, line["update"])
        self._writer.flush()

    def begin_again(self, progress: Path) -> None:
        """Throw away what was written and write what progress.jsonl holds."""
        self.close()
        shutil.rmtree(self.folder, ignore_errors=True)
        for text in progress.read_text(encoding="utf-8").splitlines():
            self.write(json.loads(text))

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()
            self._writer = None
