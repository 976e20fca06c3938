"""Processes that are started, watched, started again when they fall, and stopped with all they started."""

import contextlib
import ctypes
import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

STOP_GRACE_S = 15.0
LONGEST_PAUSE_S = 30.0
# One that has run this long has recovered: its next fall is waited for as little as its first.
STEADY_S = 60.0
PR_SET_PDEATHSIG = 1


@dataclass
class Child:
    """One process by its name, in a session of its own: Ctrl-C in the terminal reaches the supervisor alone."""

    name: str
    command: Sequence[str]
    log: Path
    environment: Mapping[str, str] = field(default_factory=dict)
    niceness: int = 0
    process: subprocess.Popen[bytes] | None = None
    started_at: float = 0.0
    falls: int = 0
    start_at: float = 0.0

    def start(self) -> None:
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                self.command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                env=os.environ | self.environment,
                preexec_fn=self._in_child,
            )
        self.started_at = time.monotonic()

    def _in_child(self) -> None:
        if self.niceness:
            os.nice(self.niceness)
        # Should the supervisor be killed outright, the kernel ends its children (Linux; elsewhere the next start does).
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)

    def watch(self, say: Callable[[str], None]) -> None:
        """Start what is due; notice a fall and set the next start, each fall in a row waited for twice as long."""
        now = time.monotonic()
        if self.process is None:
            if now >= self.start_at:
                self.start()
            return
        code = self.process.poll()
        if code is None:
            return
        self.end_group(signal.SIGKILL)
        self.falls = 1 if now - self.started_at > STEADY_S else self.falls + 1
        pause = min(2.0 ** (self.falls - 1), LONGEST_PAUSE_S)
        self.process, self.start_at = None, now + pause
        say(f"{self.name} ended ({describe_exit(code)}); starting it again in {pause:.0f} s. Its log: {self.log}")

    def end_group(self, number: signal.Signals) -> None:
        """Signal the process and everything it started in its session."""
        if self.process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, number)


def describe_exit(code: int) -> str:
    """Return an exit code in words."""
    return f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"


def stop_children(children: Sequence[Child], grace: float = STOP_GRACE_S) -> None:
    """Ask every process to end, then end what has not, each with all it started."""
    running = [child for child in children if child.process is not None]
    for child in running:
        assert child.process is not None
        with contextlib.suppress(ProcessLookupError):
            child.process.terminate()
    deadline = time.monotonic() + grace
    for child in running:
        assert child.process is not None
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.process.wait(max(0.0, deadline - time.monotonic()))
        child.end_group(signal.SIGKILL)
        child.process.wait()
        child.process = None
