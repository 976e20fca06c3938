"""What a start finds: half-made clusters, foreign folders, missing settings; each works or says one clear line."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from feedback_app.embedded import postgres, supervisor
from feedback_app.embedded.half_installed import forget_half_installed
from feedback_app.embedded.paths import choose_port, port_of, postgres_dir, run_dir, socket_dir
from feedback_app.embedded.services import hold_services
from feedback_app.settings import NEEDED

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def data_dir() -> Iterator[Path]:
    """A folder that root's PostgreSQL user can reach, unlike pytest's own."""
    folder = Path(tempfile.mkdtemp(prefix="rlhf-test-start-"))
    folder.chmod(0o711)
    yield folder
    shutil.rmtree(run_dir(folder), ignore_errors=True)
    shutil.rmtree(folder)


def test_a_cluster_half_made_by_a_killed_start_is_made_anew(data_dir: Path) -> None:
    # What a kill in initdb leaves: it works in postgres.new, so nothing half-made ever has the cluster's name.
    half = data_dir / "postgres.new" / "data"
    half.mkdir(parents=True)
    (half / "PG_VERSION").write_text("18\n")
    with hold_services(data_dir), psycopg.connect(host=str(socket_dir(data_dir)), user="postgres", dbname="rlhf") as db:
        assert db.execute("SELECT 1").fetchone() == (1,)
        shown = db.execute("SELECT setting::int * 8 / 1024 FROM pg_settings WHERE name = 'shared_buffers'").fetchone()
        assert shown == (postgres.buffers_mb(postgres._memory()),)  # pages of 8 kB
    assert not (data_dir / "postgres.new").exists()
    assert postgres.server_pid(data_dir) is None  # the last holder has left


@pytest.mark.parametrize(("gigabytes", "megabytes"), [(1, 128), (2, 128), (4, 256), (8, 512), (64, 512)])
def test_the_server_holds_a_sixteenth_of_the_memory_within_bounds(gigabytes: int, megabytes: int) -> None:
    assert postgres.buffers_mb(gigabytes * 2**30) == megabytes


def test_a_server_killed_with_work_in_it_starts_again_with_what_was_committed(data_dir: Path) -> None:
    with hold_services(data_dir):
        address = {"host": str(socket_dir(data_dir)), "user": "postgres", "dbname": "rlhf"}
        with psycopg.connect(**address) as db:  # type: ignore[arg-type]
            db.execute("CREATE TABLE kept AS SELECT 7 AS n")
        pid = postgres.server_pid(data_dir)
        assert pid is not None
        busy = psycopg.connect(**address)  # type: ignore[arg-type]
        busy.execute("INSERT INTO kept VALUES (8)")  # never committed
        os.kill(pid, signal.SIGKILL)
        postgres.start(data_dir)
        busy.close()
        with psycopg.connect(**address) as db:  # type: ignore[arg-type]
            assert db.execute("SELECT n FROM kept").fetchall() == [(7,)]


def test_a_killed_server_that_is_not_gone_yet_is_waited_for(data_dir: Path) -> None:
    postgres.initialise(data_dir)
    dead = subprocess.Popen(["true"], **postgres._run_as())  # type: ignore[call-overload]
    os.waitid(os.P_PID, dead.pid, os.WEXITED | os.WNOWAIT)  # it has ended, and its number stays taken until wait()
    (postgres_dir(data_dir) / "postmaster.pid").write_text(f"{dead.pid}\n{postgres_dir(data_dir)}\n")
    reaper = threading.Timer(1, dead.wait)
    reaper.start()
    try:
        postgres.start(data_dir)
        assert dead.returncode == 0  # not before
        assert postgres.server_pid(data_dir) is not None
    finally:
        reaper.join()
        postgres.stop(data_dir)


def test_a_folder_that_is_no_cluster_is_left_alone(data_dir: Path) -> None:
    precious = postgres_dir(data_dir) / "thesis.txt"
    precious.parent.mkdir()
    precious.write_text("mine")
    with pytest.raises(postgres.PostgresError, match="holds no PostgreSQL cluster: move it away"):
        postgres.initialise(data_dir)
    assert precious.read_text() == "mine"


def test_a_taken_port_of_a_service_is_exchanged_for_a_free_one_and_kept(data_dir: Path) -> None:
    wanted = port_of(data_dir, "inference")
    with socket.socket() as squatter:
        squatter.bind(("127.0.0.1", wanted))
        squatter.listen()
        chosen = choose_port(data_dir, "inference")
        assert chosen != wanted
    # Others read it from DATA_DIR, and it stays although the first one is free again.
    assert port_of(data_dir, "inference") == chosen


def test_a_full_disk_is_said_before_anything_is_written(data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisor, "NEEDED_BYTES", 2**60)
    with pytest.raises(supervisor.CannotStart) as caught:
        supervisor.Supervisor(data_dir, 1).run()
    assert str(caught.value).startswith(f"{data_dir}: ")
    assert "GiB are free" in str(caught.value)
    assert list(data_dir.iterdir()) == []


def test_a_package_that_pip_did_not_finish_is_forgotten_and_others_stay(tmp_path: Path) -> None:
    whole, half = tmp_path / "whole-1.0.dist-info", tmp_path / "half-2.0.dist-info"
    for info in (whole, half):
        info.mkdir()
        (info / "METADATA").write_text("Name: x\n")
    (whole / "RECORD").write_text("")  # pip writes it last
    assert forget_half_installed(tmp_path) == ["half-2.0"]
    assert whole.is_dir()
    assert not half.exists()


PRODUCTION = {
    "DATABASE_URL": "postgresql://u:p@127.0.0.1:1/db",
    "REDIS_URL": "redis://127.0.0.1:1/0",
    "SERVING_URL": "http://127.0.0.1:1",
    "SECRET_KEY": "0123456789abcdef" * 4,
    "ALLOWED_HOSTS": "example.org",
    "DATA_DIR": "/nonexistent",
}


def run_manage(environment: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    kept = {name: value for name, value in os.environ.items() if name not in {*NEEDED, "DJANGO_SETTINGS_MODULE"}}
    return subprocess.run(
        [sys.executable, "manage.py", *arguments], cwd=ROOT, env=kept | environment, capture_output=True, text=True
    )


@pytest.mark.parametrize("missing", [name for name in NEEDED if name != "DATABASE_URL"])
def test_each_setting_that_production_lacks_stops_the_start_by_name(missing: str) -> None:
    ended = run_manage({name: value for name, value in PRODUCTION.items() if name != missing}, "migrate")
    assert ended.returncode == 1
    assert ended.stderr == f"{missing} not set: with DATABASE_URL set, each setting of production is needed\n"


def test_an_empty_setting_is_a_missing_one_and_all_are_named_at_once() -> None:
    ended = run_manage({"DATABASE_URL": PRODUCTION["DATABASE_URL"], "SECRET_KEY": ""}, "migrate")
    assert ended.stderr.startswith("REDIS_URL, SERVING_URL, SECRET_KEY, ALLOWED_HOSTS, DATA_DIR not set")


def test_production_passes_djangos_deployment_checks() -> None:
    ended = run_manage(PRODUCTION, "check", "--deploy", "--fail-level", "WARNING")
    assert ended.returncode == 0, ended.stderr


def test_up_is_refused_where_a_database_is_given() -> None:
    ended = run_manage(PRODUCTION, "up")
    assert ended.returncode == 1
    assert ended.stderr.startswith("CommandError: DATABASE_URL is set")


def test_a_data_dir_that_cannot_be_had_is_one_line() -> None:
    ended = run_manage({"DATA_DIR": "/proc/nowhere"}, "quality", "demo")
    assert ended.returncode == 1
    assert len(ended.stderr.splitlines()) == 1
    assert "/proc/nowhere" in ended.stderr
