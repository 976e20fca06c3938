"""How far `make up` has come, in one small file, so that a page can say it as well as the terminal."""

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path

FILE = "status.json"


@dataclass(frozen=True)
class Status:
    """What is being prepared; share is from 0 to 1, seconds_left an estimate from how long steps took so far."""

    step: str = ""
    share: float = 1.0
    seconds_left: int | None = None
    error: str = ""

    @property
    def ready(self) -> bool:
        return self.share >= 1 and not self.error


def write_status(data_dir: Path, status: Status) -> None:
    """Replace the file at once: a reader sees the old one or the new one."""
    fresh = data_dir / f".{FILE}.{os.getpid()}"
    fresh.write_text(json.dumps(asdict(status)), encoding="utf-8")
    fresh.rename(data_dir / FILE)


def read_status(data_dir: Path) -> Status:
    """Return the last status written; none means that nothing is being prepared."""
    try:
        return Status(**json.loads((data_dir / FILE).read_text(encoding="utf-8")))
    except FileNotFoundError:
        return Status()
