"""Hold PostgreSQL and Valkey up while somebody needs them; the last to leave turns off the light.

Every holder keeps a shared lock on one file, so that a command beside `make up`, two commands at once and a holder
that was killed all come out right: the kernel drops the lock of whoever is gone.
"""

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from feedback_app.embedded import postgres, valkey
from feedback_app.embedded.paths import make_run_dir


@contextmanager
def hold_services(data_dir: Path) -> Iterator[None]:
    """Keep both services up for the time of the block, started where they are not, stopped where nobody else holds."""
    with _lock_file(data_dir, "holders") as holders:
        fcntl.flock(holders, fcntl.LOCK_SH)
        try:
            ensure_services(data_dir)
            yield
        finally:
            _leave(holders, data_dir)


def ensure_services(data_dir: Path) -> None:
    """Start what does not run; two at once wait for each other."""
    data_dir.mkdir(parents=True, exist_ok=True)
    with _lock_file(data_dir, "starting") as starting:
        fcntl.flock(starting, fcntl.LOCK_EX)
        postgres.start(data_dir)
        valkey.start(data_dir)


def _leave(holders: IO[str], data_dir: Path) -> None:
    try:
        fcntl.flock(holders, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return  # somebody else still needs them
    valkey.stop(data_dir)
    postgres.stop(data_dir)


@contextmanager
def migration_lock(data_dir: Path) -> Iterator[None]:
    """Let one process at a time migrate an embedded database."""
    with _lock_file(data_dir, "migrating") as migrating:
        fcntl.flock(migrating, fcntl.LOCK_EX)
        yield


@contextmanager
def _lock_file(data_dir: Path, name: str) -> Iterator[IO[str]]:
    with (make_run_dir(data_dir) / f"{name}.lock").open("w") as lock:
        yield lock
