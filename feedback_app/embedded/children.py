"""Processes that are started, watched, started again when they fall, and stopped with all they started."""

import contextlib
import ctypes
import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from feedback_app.embedded import long_logs

STOP_GRACE_S = 15.0
LONGEST_PAUSE_S = 30.0
# One that has run this long has recovered: its next fall is waited for as little as its first.
STEADY_S = 60.0
PR_SET_PDEATHSIG = 1
# Loaded here: between fork and exec of a process with threads, nothing may be loaded any more.
LIBC = ctypes.CDLL(None)


@dataclass
class Child:
    """One process by its name, in a session of its own: Ctrl-C in the terminal reaches the supervisor alone."""

    name: str
    command: Sequence[str]
    log: Path
    environment: Mapping[str, str] = field(default_factory=dict)
    niceness: int = 0
    directory: Path | None = None
    process: subprocess.Popen[bytes] | None = None
    started_at: float = 0.0
    falls: int = 0
    start_at: float = 0.0

    def start(self) -> None:
        self.log.parent.mkdir(parents=True, exist_ok=True)
        if self.log.exists() and self.log.stat().st_size > long_logs.LONGEST_LOG_BYTES:
            self.log.replace(self.log.with_suffix(".old.log"))
        supervisor = os.getpid()
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                self.command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                env=os.environ | self.environment,
                cwd=self.directory,
                preexec_fn=lambda: self._in_child(supervisor),
            )
        self.started_at = time.monotonic()

    def _in_child(self, supervisor: int) -> None:
        if self.niceness:
            os.nice(self.niceness)
        # Should the supervisor be killed outright, the kernel ends its children (Linux; elsewhere the next start does).
        with contextlib.suppress(OSError, AttributeError):
            LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != supervisor:  # it was killed before we asked to be told
            os._exit(1)

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


def write_running(path: Path, children: Sequence[Child]) -> None:
    """Note which processes are ours, so that a start after a kill -9 of the supervisor finds what it left."""
    running = [child.process.pid for child in children if child.process is not None]
    noted = []
    for pid in running:
        with contextlib.suppress(psutil.NoSuchProcess):
            noted.append([pid, psutil.Process(pid).create_time()])
    fresh = path.with_suffix(".new")
    fresh.write_text(json.dumps(noted))
    fresh.replace(path)


def end_leftovers(path: Path, grace: float = STOP_GRACE_S) -> int:
    """End the noted processes that still run, each with all it started; a number used anew is not one of them.

    One that has ended itself may have left its own behind, which hold its port: they go too.
    """
    try:
        noted = json.loads(path.read_text())
    except (FileNotFoundError, json.JSONDecodeError):
        return 0
    ours, left = set(), []
    for pid, created in noted:
        try:
            process = psutil.Process(pid)
            if abs(process.create_time() - created) >= 1:
                continue
            left.append(process)
            process.terminate()
        except psutil.NoSuchProcess:
            pass  # the number cannot be used anew while its group has members
        ours.add(pid)
    orphaned = {os.getpgid(member.pid) for member in _members_of(ours)} - {process.pid for process in left}
    psutil.wait_procs(left, timeout=grace)
    members = _members_of(ours)
    for group in ours:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(group, signal.SIGKILL)
    psutil.wait_procs(members, timeout=grace)
    path.unlink(missing_ok=True)
    return len(left) + len(orphaned)


def _members_of(groups: Container[int]) -> list[psutil.Process]:
    """Return the living processes of the groups."""
    members = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.NoSuchProcess, ProcessLookupError):
            if os.getpgid(process.pid) in groups and process.status() != psutil.STATUS_ZOMBIE:
                members.append(process)
    return members


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
