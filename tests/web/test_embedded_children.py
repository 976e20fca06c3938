"""The processes of `make up`: a fallen one is started again and said, a stop ends each with its group and no other."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from feedback_app.embedded import children, long_logs
from feedback_app.embedded.children import Child, end_leftovers, stop_children, write_running

SLEEPER = [sys.executable, "-c", "import time; time.sleep(600)"]
# A parent with a child of its own that ignores being asked to end, as a stuck worker's pool would.
FAMILY = [
    sys.executable,
    "-c",
    "import signal, subprocess, sys, time\n"
    "stubborn = 'import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(1, flush=True);"
    " time.sleep(600)'\n"
    "inner = subprocess.Popen([sys.executable, '-c', stubborn], stdout=subprocess.PIPE)\n"
    "inner.stdout.readline()\n"
    "print(inner.pid, flush=True)\n"
    "time.sleep(600)\n",
]


def wait_for(true: Callable[[], bool], seconds: float = 10.0) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def runs(pid: int) -> bool:
    return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE


def pid_of(child: Child) -> int:
    assert child.process is not None
    return child.process.pid


@pytest.fixture
def said() -> list[str]:
    return []


def test_a_fallen_process_is_started_again_and_said(tmp_path: Path, said: list[str]) -> None:
    child = Child("sleeper", SLEEPER, tmp_path / "sleeper.log")
    child.watch(said.append)
    first = pid_of(child)
    try:
        os.kill(first, signal.SIGKILL)

        def watched(true: Callable[[], bool]) -> bool:
            child.watch(said.append)
            return true()

        wait_for(lambda: watched(lambda: bool(said)))
        assert said == [
            f"sleeper ended (killed by SIGKILL); starting it again in 1 s. Its log: {tmp_path / 'sleeper.log'}"
        ]
        wait_for(lambda: watched(lambda: child.process is not None))
        assert pid_of(child) != first
    finally:
        stop_children([child])


def test_each_fall_in_a_row_is_waited_for_twice_as_long(
    tmp_path: Path, said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    child = Child("faller", [sys.executable, "-c", "raise SystemExit(3)"], tmp_path / "faller.log")
    pauses = []
    for _ in range(7):
        now[0] = max(now[0], child.start_at)
        child.watch(said.append)  # starts it
        assert child.process is not None
        child.process.wait()
        child.watch(said.append)  # notices the fall
        pauses.append(child.start_at - now[0])
    assert pauses == [1, 2, 4, 8, 16, 30, 30]
    assert "exit code 3" in said[0]
    # One that ran for longer than a minute had recovered: it is waited for as at first.
    now[0] = child.start_at
    child.watch(said.append)
    assert child.process is not None
    child.process.wait()
    now[0] += children.STEADY_S + 1
    child.watch(said.append)
    assert child.start_at - now[0] == 1


def test_a_stop_ends_a_process_with_all_it_started_and_no_other(tmp_path: Path) -> None:
    bystander = subprocess.Popen(SLEEPER)
    log = tmp_path / "family.log"
    child = Child("family", FAMILY, log)
    child.start()
    try:
        wait_for(lambda: log.exists() and log.read_text().strip().isdigit())
        outer, inner = pid_of(child), int(log.read_text())
        assert runs(inner)
        stop_children([child], grace=5)
        assert not runs(outer)
        wait_for(lambda: not runs(inner), 2)
        assert bystander.poll() is None
    finally:
        bystander.kill()
        bystander.wait()


def test_a_process_that_does_not_end_is_ended_after_the_grace(tmp_path: Path) -> None:
    log = tmp_path / "stubborn.log"
    deaf = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(1, flush=True); time.sleep(600)"
    child = Child("stubborn", [sys.executable, "-c", deaf], log)
    child.start()
    wait_for(lambda: log.exists() and log.read_text() == "1\n")
    pid = pid_of(child)
    began = time.monotonic()
    stop_children([child], grace=0.3)
    assert not runs(pid)
    assert 0.3 <= time.monotonic() - began < 3


def test_the_next_start_ends_what_a_killed_supervisor_left_and_nothing_else(tmp_path: Path) -> None:
    left = subprocess.Popen(SLEEPER, start_new_session=True)
    stranger = subprocess.Popen(SLEEPER, start_new_session=True)
    noted = tmp_path / "running.json"
    child = Child("left", SLEEPER, tmp_path / "log", process=left)
    write_running(noted, [child])
    # The stranger has a number that one of ours had before: it began at another time.
    noted.write_text(noted.read_text().replace("]]", f"], [{stranger.pid}, 12345.0]]"))
    try:
        assert end_leftovers(noted, grace=5) == 1
        assert not runs(left.pid)
        assert stranger.poll() is None
        assert not noted.exists()
        assert end_leftovers(noted) == 0
    finally:
        for process in (left, stranger):
            process.kill()
            process.wait()


def test_a_killed_supervisor_takes_its_processes_along(tmp_path: Path) -> None:
    if not sys.platform.startswith("linux"):
        pytest.skip("the kernel does it on Linux; elsewhere the next start does, which is tested above")
    log = tmp_path / "child.log"
    script = (
        "import sys, time; from pathlib import Path; from feedback_app.embedded.children import Child\n"
        f"child = Child('c', [sys.executable, '-c', 'import time; time.sleep(600)'], Path({str(log)!r}))\n"
        "child.start(); print(child.process.pid, flush=True); time.sleep(600)\n"
    )
    supervisor = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    assert supervisor.stdout is not None
    pid = int(supervisor.stdout.readline())
    assert runs(pid)
    supervisor.kill()
    supervisor.wait()
    supervisor.stdout.close()
    wait_for(lambda: not runs(pid))


def test_a_long_log_is_put_aside_while_its_process_writes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(long_logs, "LONGEST_LOG_BYTES", 10)
    log, told = tmp_path / "one.log", tmp_path / "told"
    talk = (
        f"import os, time\nprint('x' * 20)\nwhile not os.path.exists({str(told)!r}): time.sleep(0.01)\nprint('fresh')"
    )
    child = Child("one", [sys.executable, "-uc", talk], log)
    child.start()
    assert child.process is not None
    wait_for(lambda: log.stat().st_size == 21)
    assert long_logs.shorten(log)
    assert not long_logs.shorten(log)
    told.touch()
    child.process.wait()
    assert log.read_text() == "fresh\n"  # at its beginning, not behind a hole
    assert (tmp_path / "one.old.log").read_text() == "x" * 9 + "\n"
    assert sorted(path.name for path in tmp_path.glob("*.log")) == ["one.log", "one.old.log"]


def test_a_long_log_is_put_aside_at_the_next_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(long_logs, "LONGEST_LOG_BYTES", 10)
    log = tmp_path / "one.log"
    log.write_text("x" * 11)
    child = Child("one", [sys.executable, "-c", "print('fresh')"], log)
    child.start()
    assert child.process is not None
    child.process.wait()
    assert log.read_text() == "fresh\n"
    assert (tmp_path / "one.old.log").read_text() == "x" * 11


def test_the_next_start_ends_what_a_process_that_has_ended_itself_has_left(tmp_path: Path) -> None:
    # As a web server's parent does that is told to end while it starts its workers: they held the port.
    log, noted = tmp_path / "family.log", tmp_path / "running.json"
    child = Child("family", FAMILY, log)
    child.start()
    wait_for(lambda: log.exists() and log.read_text().strip().isdigit())
    inner = int(log.read_text())
    write_running(noted, [child])
    assert child.process is not None
    child.process.kill()
    child.process.wait()
    assert runs(inner)
    assert end_leftovers(noted, grace=5) == 1
    assert not runs(inner)
