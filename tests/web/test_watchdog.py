"""A worker that cannot work any more ends, and one that waits or works for long does not."""

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
from django.conf import settings
from django.db import connections

from feedback_app.operations import watchdog
from feedback_app.operations.models import Worker
from feedback_app.operations.watchdog import Seen, Watchdog, heartbeat_file

ROOT = Path(__file__).resolve().parents[2]


class Clock:
    def __init__(self) -> None:
        self.at = 1000.0

    def __call__(self) -> float:
        return self.at


def watched(looks: list[Seen], every: float = 10.0) -> tuple[str, int]:
    """Return (why the worker ended, after how many looks); empty where it never did."""
    clock = Clock()
    dog = Watchdog(now=clock)
    for number, seen in enumerate(looks, start=1):
        if why := dog.judge(seen):
            return why, number
        clock.at += every
    return "", len(looks)


WELL = Seen(database=True)


def test_a_lost_database_is_borne_for_a_minute() -> None:
    away = Seen(database=False)
    # The seventh look is 60 s after the first.
    assert watched([away] * 20) == ("its database has not answered for 60 s", 7)
    assert watched([away] * 6 + [WELL] + [away] * 6) == ("", 13)


def test_a_consumer_that_takes_nothing_while_messages_wait_ends() -> None:
    hung = Seen(database=True, taken=5, waiting=3)
    # The first look cannot know whether anything was taken before it.
    assert watched([hung] * 20) == ("messages wait and it takes none for 60 s", 8)
    assert watched([Seen(database=True, taken=n, waiting=3) for n in range(40)])[0] == ""
    assert watched([Seen(database=True, taken=5, waiting=0)] * 40)[0] == ""
    # The broker is away: Celery connects again by itself.
    assert watched([Seen(database=True, taken=5, waiting=None)] * 40)[0] == ""


def test_a_task_that_is_not_begun_while_a_process_is_free_ends_the_worker() -> None:
    held = frozenset({"t1"})
    # Others come and go in another process of the pool meanwhile.
    looks = [Seen(database=True, taken=n, not_begun=held) for n in range(20)]
    assert watched(looks) == ("task t1, which it took, is not begun with a process free for 60 s", 7)
    # With every process at work it waits its turn, and so does one after the other.
    assert watched([Seen(database=True, taken=5, not_begun=held, free=False)] * 40)[0] == ""
    turns = [Seen(database=True, taken=n, not_begun=frozenset({f"t{n // 3}"})) for n in range(60)]
    assert watched(turns)[0] == ""


def test_a_round_may_take_hours_while_others_wait() -> None:
    looks = [Seen(database=True, taken=1, waiting=9, processor_s={77: n * 0.02}) for n in range(400)]
    assert watched(looks)[0] == ""


def test_a_process_that_stands_still_at_its_task_ends_its_worker() -> None:
    looks = [Seen(database=True, taken=1, processor_s={77: 3.5, 78: float(n)}) for n in range(100)]
    assert watched(looks) == ("process 77 has stood still at its task for 600 s", 61)
    # Another task in the same process, or a wait that ends: begun anew.
    moved = [Seen(database=True, taken=1, processor_s={77: float(n // 50)}) for n in range(200)]
    assert watched(moved)[0] == ""


@pytest.mark.django_db(transaction=True)
def test_the_heartbeat_is_a_row_that_keeps_when_its_process_began() -> None:
    assert watchdog._beat("ctl@here", ["ctl"], 1)
    first = Worker.objects.get()
    assert (first.queues, first.pid, first.busy) == ("ctl", os.getpid(), 1)
    assert watchdog._beat("ctl@here", ["ctl"], 0)
    second = Worker.objects.get()
    assert second.started_at == first.started_at
    assert second.seen_at > first.seen_at
    assert second.busy == 0
    Worker.objects.update(pid=1)
    watchdog._beat("ctl@here", ["ctl"], 0)
    assert Worker.objects.get().started_at > first.started_at


def test_a_database_that_is_away_is_no_heartbeat(monkeypatch: pytest.MonkeyPatch) -> None:
    away = {**connections.settings["default"], "HOST": "127.0.0.1", "PORT": "9"}
    monkeypatch.setitem(connections.settings, "default", away)
    assert not watchdog._beat("ctl@here", ["ctl"], 0)


@pytest.mark.django_db(transaction=True)
def test_a_real_worker_says_that_it_is_well_and_ends_by_itself_without_its_database(tmp_path: Path) -> None:
    """A worker whose database's address leads nowhere: it has taken no message, and its supervisor must hear of it."""
    script = tmp_path / "impatient.py"
    script.write_text(
        "from feedback_app.operations import watchdog\n"
        "watchdog.EVERY_S, watchdog.DATABASE_PATIENCE_S = 0.2, 1.0\n"
        "from feedback_app.celery import app\n"
        "import sys; app.worker_main(sys.argv[1:])\n"
    )
    name = f"well{os.getpid()}"
    arguments = ["worker", "-Q", name, "-c", "1", "-n", f"{name}@%h", "--without-gossip", "--without-mingle"]
    stated = connections.settings["default"]
    url = f"postgresql://{stated['USER']}@/{stated['NAME']}?host={stated['HOST']}"
    if stated["PASSWORD"]:
        url = url.replace("@/", f":{stated['PASSWORD']}@/")
    base = {**os.environ, "DJANGO_SETTINGS_MODULE": "feedback_app.settings", "REDIS_URL": settings.REDIS_URL}
    production = {
        "SECRET_KEY": "x" * 50,
        "ALLOWED_HOSTS": "a",
        "SERVING_URL": "http://127.0.0.1:9",
        "DATABASE_URL": url,
    }
    log = (tmp_path / "log").open("wb")
    command = [sys.executable, str(script), *arguments]
    process = subprocess.Popen(command, cwd=ROOT, env=base | production, stdout=log, stderr=log)
    try:
        row = _wait_for(lambda: Worker.objects.filter(name__startswith=name).first(), process, tmp_path / "log")
        assert (row.pid, row.queues) == (process.pid, name)
        file = heartbeat_file(f"{name}@x")
        _wait_for(file.exists, process, tmp_path / "log")
        file.unlink()
    finally:
        _end(process)
    lost = production | {"DATABASE_URL": "postgresql://nobody@127.0.0.1:9/nothing"}
    process = subprocess.Popen(command, cwd=ROOT, env=base | lost, stdout=log, stderr=log)
    try:
        assert process.wait(60) == watchdog.EXIT_CODE
    finally:
        _end(process)
    assert "ends: its database has not answered" in (tmp_path / "log").read_text()
    assert not file.exists()


def _wait_for(true: Any, process: subprocess.Popen[bytes], log: Path) -> Any:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        if found := true():
            return found
        assert process.poll() is None, log.read_text()
        time.sleep(0.1)
    raise AssertionError(f"not in time: {log.read_text()}")


def _end(process: subprocess.Popen[bytes]) -> None:
    """End a worker with the processes of its pool."""
    if process.poll() is None:
        parent = psutil.Process(process.pid)
        for each in (*parent.children(recursive=True), parent):
            each.kill()
    process.wait(30)
