"""`make up` as a stranger runs it: real processes, killed one by one, and every way in which a start can go wrong."""

import contextlib
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import psutil
import pytest

from feedback_app.embedded import postgres, valkey
from feedback_app.embedded.paths import postgres_dir, run_dir
from tests.training.tiny import make_tiny_model

ROOT = Path(__file__).resolve().parents[2]
START_TIMEOUT_S = 120.0


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def environment(data_dir: Path, port: int) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if name != "DJANGO_SETTINGS_MODULE"}
    return kept | {"DATA_DIR": str(data_dir), "PORT": str(port), "PYTHONUNBUFFERED": "1"}


class Up:
    """A running `manage.py up`, its output in a file."""

    def __init__(self, data_dir: Path) -> None:
        self.data_dir, self.port = data_dir, free_port()
        self.log = data_dir / "up.log"
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "manage.py", "up"],
                cwd=ROOT,
                env=environment(data_dir, self.port),
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    @property
    def output(self) -> str:
        return self.log.read_text()

    def wait_for(self, true: Callable[[], bool]) -> None:
        deadline = time.monotonic() + START_TIMEOUT_S
        while not true():
            assert self.process.poll() is None, self.output
            assert time.monotonic() < deadline, self.output
            time.sleep(0.1)

    def child(self, *words: str) -> psutil.Process | None:
        """Return the one process of its own whose command holds all the words, None while there is none."""
        found = []
        for child in psutil.Process(self.process.pid).children():
            with contextlib.suppress(psutil.NoSuchProcess):  # one that has ended has no command any more
                if all(word in " ".join(child.cmdline()) for word in words):
                    found.append(child)
        return found[0] if len(found) == 1 else None

    def is_ready(self) -> bool:
        try:
            return httpx.get(f"http://127.0.0.1:{self.port}/readyz", timeout=5).status_code == 200
        except httpx.HTTPError:
            return False


@pytest.fixture(scope="module")
def data_dir() -> Iterator[Path]:
    """A folder that root's PostgreSQL user can reach, unlike pytest's own; a base model in it needs no conversion."""
    folder = Path(tempfile.mkdtemp(prefix="rlhf-test-up-"))
    folder.chmod(0o711)
    make_tiny_model(folder / "models" / "base")
    yield folder
    shutil.rmtree(run_dir(folder), ignore_errors=True)
    shutil.rmtree(folder)


@pytest.fixture(scope="module")
def up(data_dir: Path) -> Iterator[Up]:
    """Everything running; stopped at the end whatever happened, its services too."""
    up = Up(data_dir)
    try:
        up.wait_for(lambda: "Ready in" in up.output)
        yield up
    finally:
        if up.process.poll() is None:
            up.process.send_signal(signal.SIGINT)
            up.process.wait(60)
        valkey.stop(data_dir)
        postgres.stop(data_dir)


def run_up(data_dir: Path, port: int) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "manage.py", "up"],
        cwd=ROOT,
        env=environment(data_dir, port),
        capture_output=True,
        text=True,
        timeout=60,
    )


def test_the_first_start_prints_a_login_once_and_serves(up: Up) -> None:
    assert len(re.findall(r"Password: +(\S+-\S+-\S+-\S+)", up.output)) == 1
    assert f"http://127.0.0.1:{up.port}" in up.output
    up.wait_for(up.is_ready)


def test_a_second_start_says_that_one_is_running_and_where(up: Up) -> None:
    second = run_up(up.data_dir, free_port())
    assert second.returncode == 1
    assert second.stderr.strip() == (
        f"CommandError: already running for {up.data_dir}: process {up.process.pid}, http://127.0.0.1:{up.port}"
    )
    assert up.is_ready()


def test_a_taken_port_is_named_with_a_way_out(up: Up, tmp_path: Path) -> None:
    (tmp_path / "models" / "base").mkdir(parents=True)
    (tmp_path / "models" / "base" / "config.json").touch()
    other = run_up(tmp_path, up.port)
    shutil.rmtree(run_dir(tmp_path), ignore_errors=True)
    assert other.returncode == 1
    assert other.stderr.strip() == (
        f"CommandError: port {up.port} is taken by another program; choose another: make up PORT={up.port + 1}"
    )


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("granian",), "web ended (killed by SIGKILL)"),
        (("celery", "-Q ctl"), "worker ended (killed by SIGKILL)"),
        (("celery", "-Q gpu"), "gpu-worker ended (killed by SIGKILL)"),
        (("celery", " beat "), "beat ended (killed by SIGKILL)"),
        (("training", "serve"), "inference ended (killed by SIGKILL)"),
        (("postgres", "-D"), "PostgreSQL ended; starting it again."),
        (("valkey-server",), "Valkey ended; starting it again."),
    ],
    ids=lambda value: value[0] if isinstance(value, tuple) else "",
)
def test_whatever_is_killed_comes_back_and_is_said(up: Up, words: tuple[str, ...], said: str) -> None:
    up.wait_for(lambda: up.child(*words) is not None)
    fallen = up.child(*words)
    assert fallen is not None
    fallen.kill()
    up.wait_for(lambda: said in up.output)
    up.wait_for(lambda: (risen := up.child(*words)) is not None and risen.pid != fallen.pid)
    up.wait_for(up.is_ready)


def test_a_stop_ends_everything_it_started_and_keeps_the_data(up: Up) -> None:
    bystander = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    started = psutil.Process(up.process.pid).children(recursive=True)
    assert len(started) > 8  # web, two workers with pools, beat, inference, PostgreSQL with its own, Valkey
    up.process.send_signal(signal.SIGINT)
    assert up.process.wait(60) == 0
    _gone, alive = psutil.wait_procs(started, timeout=10)
    left = [process for process in alive if process.status() != psutil.STATUS_ZOMBIE]
    assert left == []
    assert up.output.strip().endswith(f"Stopped. Everything is kept in {up.data_dir}")
    assert (postgres_dir(up.data_dir) / "PG_VERSION").exists()
    assert bystander.poll() is None
    bystander.kill()
    bystander.wait()
