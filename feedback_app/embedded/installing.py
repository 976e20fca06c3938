"""Run pip and other long commands for a bar: how far they are is measured by what has landed on the disk."""

import fcntl
import os
import re
import shutil
import sys
import sysconfig
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement

from feedback_app.embedded.children import Child, stop_children
from feedback_app.embedded.half_installed import forget_half_installed

ROOT = Path(__file__).resolve().parents[2]
POLL_S = 0.5
# Twenty thousand files are looked at each time.
MEASURE_EVERY_S = 2.0
# pip compiles what it installs, and compiling one module takes as long as writing this much.
COMPILED_MODULE_BYTES = 500_000
# Until the first package is unpacked, what unpacking will take is guessed: 2 cores did so much.
USUAL_WORK_PER_S = 150 * 10**6
PURELIB = Path(sysconfig.get_paths()["purelib"])


class Interrupted(Exception):
    """The work was stopped from outside before it was done."""


def is_installed(requirement: str) -> bool:
    """Say whether a package stands here whole and in a version that will do."""
    wanted = Requirement(requirement)
    try:
        found = metadata.distribution(wanted.name)
    except metadata.PackageNotFoundError:
        return False
    return found.read_text("RECORD") is not None and wanted.specifier.contains(found.version, prereleases=True)


def extra_requirements(extra: str) -> list[str]:
    """Return what pyproject.toml asks for under an extra, as it was when the project was installed."""
    asked = [Requirement(line) for line in metadata.requires("rlhf-loop") or []]
    return [
        f"{need.name}{need.specifier}"
        for need in asked
        if need.marker is not None and need.marker.evaluate({"extra": extra})
    ]


def run_watched(child: Child, stopping: threading.Event, tell: Callable[[], None]) -> None:
    """Run a command to its end, calling tell twice a second; stopped with all it started when stopping is set.

    Raises:
        RuntimeError: it failed; with the last line of its log.
        Interrupted: stopping was set.
    """
    child.log.unlink(missing_ok=True)
    child.start()
    assert child.process is not None
    while child.process.poll() is None:
        if stopping.wait(POLL_S):
            stop_children([child], grace=2)
            raise Interrupted(child.name)
        tell()
    if child.process.returncode != 0:
        raise RuntimeError(f"{last_line(child.log)} (its log: {child.log})")


def last_line(log: Path) -> str:
    """Return the line of a log that says what went wrong: pip's error where there is one, else the last."""
    lines = [line.strip() for line in re.split(r"[\r\n]+", log.read_text(errors="replace")) if line.strip()]
    errors = [line for line in lines if line.startswith(("ERROR", "error:"))]
    return (errors or lines or ["it ended without a word"])[-1]


class Landing:
    """How far pip is, by what it has put down since now: in its temporary folder, then in site-packages."""

    def __init__(self, site_packages: Path, temporary: Path, *, download: int, size: int) -> None:
        self.site_packages, self.temporary = site_packages, temporary
        self.download, self.size = download, size
        self.before = {entry.name for entry in site_packages.iterdir()}
        self.began = self.measured_at = time.monotonic()
        self.landed_at: float | None = None
        self.measured: float | None = None

    def share(self) -> float | None:
        """Return the share of the time that has gone, None where nothing tells or more lands than was foreseen."""
        if time.monotonic() - self.measured_at > MEASURE_EVERY_S:
            self.measured = self._measure()
        return self.measured

    def _measure(self) -> float | None:
        earlier, self.measured_at = self.measured_at, time.monotonic()
        gone = self.measured_at - self.began
        fresh = (entry for entry in self.site_packages.iterdir() if entry.name not in self.before)
        installed = sum(tree_work(entry) for entry in fresh) / self.size
        fetched = tree_work(self.temporary) / self.download
        if installed > 0.001:
            # Fetching is over, and what it took says nothing of the pace from here.
            self.landed_at = self.landed_at or earlier - self.began
            total = self.landed_at + (gone - self.landed_at) / installed
        elif fetched > 0.01:
            total = gone / fetched + self.size / USUAL_WORK_PER_S
        else:
            return None
        return gone / total if gone < total else None


def tree_work(path: Path | str) -> int:
    """Return the bytes of the files at and below a path, compiled modules counted as what they took.

    Files that vanish meanwhile count as nothing.
    """
    total = 0
    try:
        with os.scandir(path) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    total += tree_work(entry.path)
                elif entry.name.endswith(".pyc"):
                    total += COMPILED_MODULE_BYTES
                else:
                    total += entry.stat(follow_symlinks=False).st_size
    except NotADirectoryError:
        return os.lstat(path).st_size
    except FileNotFoundError:
        pass
    return total


def pip_install(
    packages: Sequence[str], *, log: Path, download: int, size: int, stopping: threading.Event,
    tell: Callable[[float | None], None],
) -> None:  # fmt: skip
    """Install packages into this environment, telling how far it is; one setup at a time.

    Raises:
        RuntimeError: pip failed; with its error line.
        Interrupted: stopping was set; the next attempt starts this package anew.
    """
    with locked(Path(sys.prefix) / "setup.lock", stopping):
        forget_half_installed(PURELIB)
        temporary = Path(sys.prefix) / "pip-tmp"
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir()
        landing = Landing(PURELIB, temporary, download=download, size=size)
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *packages]
        # Wheels are unpacked beside the environment: /tmp may be a small file system in memory.
        child = Child("pip", command, log, {"TMPDIR": str(temporary)}, directory=ROOT)
        try:
            run_watched(child, stopping, lambda: tell(landing.share()))
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


@contextmanager
def locked(path: Path, stopping: threading.Event) -> Iterator[None]:
    """Hold a lock file for the time of the block: two processes that would write the same things take turns.

    Raises:
        Interrupted: stopping was set while another one held it.
    """
    with path.open("w") as lock:
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if stopping.wait(POLL_S):
                    raise Interrupted(str(path)) from None
        yield
