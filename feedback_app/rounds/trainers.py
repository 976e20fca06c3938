"""A trainer as a process of its own: in its own group, holding a pipe to us, never outliving whoever started it."""

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from training.config import LIFELINE_VARIABLE, STAGES, make_config, to_toml

# With RENEW_EVERY_S before it, in which a cancel is noticed: all within ten seconds.
STOP_GRACE_S = 5.0
NICENESS = 10
LOG_TAIL = 20
# A log may have grown to gigabytes, and a line of it have no end: a page looks at it every few seconds.
LOG_END_BYTES = 64 * 2**10
LONGEST_LINE = 500


def write_command(
    launcher: Sequence[str], *, stage: str, config: Mapping[str, Any], directory: Path, resume: bool
) -> list[str]:
    """Write a stage's config beside its directory; return the command line that runs it."""
    checked = make_config(STAGES[stage], config)
    directory.parent.mkdir(parents=True, exist_ok=True)
    config_path = directory.parent / f"{directory.name}.toml"
    config_path.write_text(to_toml(checked), encoding="utf-8")
    return [
        *(launcher or [sys.executable, "-W", "ignore"]), "-m", "training", stage,
        "--config", str(config_path), "--output", str(directory), *(["--resume"] if resume else []),
    ]  # fmt: skip


def log_path(directory: Path) -> Path:
    """Return where the trainer of a directory says what it does."""
    return directory.parent / f"{directory.name}.log"


@contextmanager
def trainer(command: Sequence[str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Hold a trainer for the time of the block: whatever ends the block ends all that it started."""
    reader, writer = os.pipe()
    try:
        try:
            with log.open("ab") as out:
                process = subprocess.Popen(
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=out,
                    stderr=out,
                    start_new_session=True,
                    pass_fds=[reader],
                    env=os.environ | {LIFELINE_VARIABLE: str(reader)},
                    preexec_fn=_give_way,
                )
        finally:
            os.close(reader)
        try:
            yield process
        finally:
            _stop_group(process)
    finally:
        os.close(writer)


def _give_way() -> None:
    """In the child: judging stays quick while it trains."""
    os.nice(NICENESS)


def _stop_group(process: subprocess.Popen[bytes]) -> None:
    """End the trainer and all it started: asked first, so that it can write a checkpoint."""
    if process.poll() is None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(STOP_GRACE_S)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def last_words(log: Path) -> str:
    """Return the last line of a log that says something."""
    lines = [line for line in _end_of(log) if line.strip()]
    return lines[-1] if lines else "no log"


def log_tail(directory: Path) -> list[str]:
    """Return the last lines of a step's log."""
    return _end_of(log_path(directory))[-LOG_TAIL:]


def _end_of(log: Path) -> list[str]:
    """Return the lines in which a log ends, each cut at its beginning; none where there is no log."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - LOG_END_BYTES))
            text = file.read(LOG_END_BYTES).decode(errors="replace")
    except FileNotFoundError:
        return []
    return [line[-LONGEST_LINE:] for line in text.splitlines()]
