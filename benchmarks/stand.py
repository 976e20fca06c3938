"""What a benchmark of the running site stands on: services made for one run, and the web server of `make up`."""

import http.client
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
WEB_PROCESSES = 2


@contextmanager
def services_of_a_run() -> Iterator[Path]:
    """Hold PostgreSQL and Valkey up in a folder that is removed afterwards, with Django set up on them; yields it."""
    folder = Path(tempfile.mkdtemp(prefix="rlhf-bench-"))
    folder.chmod(0o711)  # as root, PostgreSQL runs as another user that must pass through
    sys.path.insert(0, str(ROOT))
    os.environ |= {"DATA_DIR": str(folder), "DJANGO_SETTINGS_MODULE": "feedback_app.settings", "LOG_LEVEL": "WARNING"}
    os.environ.pop("DATABASE_URL", None)
    # Django's models can be imported only after django.setup(), which needs the environment above.
    from feedback_app.embedded.migrations import migrate_embedded
    from feedback_app.embedded.paths import run_dir
    from feedback_app.embedded.services import hold_services

    try:
        with hold_services(folder):
            migrate_embedded()
            yield folder
    finally:
        shutil.rmtree(run_dir(folder), ignore_errors=True)
        shutil.rmtree(folder, ignore_errors=True)


def free_port() -> int:
    """Return a port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def web_server() -> Iterator[int]:
    """Run the web server until it answers and for the time of the block; yields its port."""
    port = free_port()
    command = [
        sys.executable, "-m", "granian", "--interface", "wsgi", "feedback_app.wsgi:application", "--host", "127.0.0.1",
        "--port", str(port), "--workers", str(WEB_PROCESSES), "--blocking-threads", "4", "--no-ws",
        "--log-level", "error",
    ]  # fmt: skip
    with tempfile.TemporaryDirectory(prefix="rlhf-bench-metrics-") as counts:
        environment = os.environ | {"PROMETHEUS_MULTIPROC_DIR": counts}
        with server(command, port, "/readyz", cwd=ROOT, env=environment):
            yield port


@contextmanager
def server(
    command: list[str], port: int, path: str, *, cwd: Path, env: dict[str, str] | None = None, patience_s: float = 60
) -> Iterator[None]:
    """Run a web server until the path answers 200 and for the time of the block."""
    process = subprocess.Popen(command, cwd=cwd, env=env, stdout=sys.stderr)
    try:
        _wait_until_up(process, port, path, patience_s)
        yield
    finally:
        process.terminate()
        process.wait(30)


def _wait_until_up(process: subprocess.Popen[bytes], port: int, path: str, patience_s: float) -> None:
    deadline = time.monotonic() + patience_s
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise RuntimeError(f"the web server ended with exit code {process.returncode}")
        try:
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
            connection.request("GET", path)
            if connection.getresponse().status == 200:
                return
        except OSError:
            pass
        time.sleep(0.2)
    raise RuntimeError("the web server did not come up")
