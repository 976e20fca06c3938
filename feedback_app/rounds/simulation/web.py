"""A web server for a command that needs the HTTP API while none runs."""

import socket
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import httpx
from django.conf import settings

from feedback_app.embedded.children import Child, stop_children

START_TIMEOUT_S = 60.0


@contextmanager
def hold_web(url: str) -> Iterator[str]:
    """Yield an address that answers: the given one, or a server's of our own for the time of the block."""
    if url:
        yield url
        return
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [
        sys.executable, "-m", "granian", "--interface", "wsgi", "feedback_app.wsgi:application",
        "--host", "127.0.0.1", "--port", str(port), "--workers", "1", "--blocking-threads", "8", "--no-ws",
        "--log-level", "warning",
    ]  # fmt: skip
    # Its own name is let in, whatever name the site goes by; over plain HTTP, for nobody else comes here.
    environment = {"ALLOWED_HOSTS": ",".join([*settings.ALLOWED_HOSTS, "127.0.0.1"])}
    child = Child("web", command, settings.DATA_DIR / "logs" / "simulate-web.log", environment=environment)
    child.start()
    try:
        _wait(f"http://127.0.0.1:{port}", child)
        yield f"http://127.0.0.1:{port}"
    finally:
        stop_children([child])


def _wait(url: str, child: Child) -> None:
    deadline = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline and (child.process is None or child.process.poll() is None):
        try:
            httpx.get(f"{url}/api/v1/schema/", timeout=10)
            return
        except httpx.HTTPError:
            time.sleep(0.1)
    raise RuntimeError(f"the web server did not come up; its log: {child.log}")
