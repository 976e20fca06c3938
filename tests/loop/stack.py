"""The whole product as its own processes in a folder of its own, as `make up` runs it, for tests from outside."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import psutil

from feedback_app.embedded.paths import serving_url

ROOT = Path(__file__).resolve().parents[2]
READY_WITHIN_S = 120.0


class Stack:
    """A running product: commands and requests go in, what they answer comes out."""

    def __init__(self, data_dir: Path, port: int) -> None:
        self.data_dir, self.url = data_dir, f"http://127.0.0.1:{port}"
        # What each process of Python imports first, should somebody leave a sitecustomize there.
        self.hooks = data_dir / "hooks"
        # Not the settings of the session's own tests: each process here finds its services by DATA_DIR.
        outside = ("DATABASE_URL", "REDIS_URL", "SERVING_URL", "BASE_MODEL", "DJANGO_SETTINGS_MODULE")
        self.environment = {key: value for key, value in os.environ.items() if key not in outside} | {
            "DATA_DIR": str(data_dir), "PORT": str(port), "PYTHONPATH": f"{self.hooks}{os.pathsep}{ROOT}",
        }  # fmt: skip

        self.out = data_dir / "up.log"
        self.up: psutil.Popen | None = None

    def start(self) -> None:
        """Run everything, and return once it answers; more is written to the end of up.log."""
        with self.out.open("ab") as log:
            self.up = psutil.Popen(
                [sys.executable, "manage.py", "up"], cwd=ROOT, env=self.environment, stdin=subprocess.DEVNULL,
                stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip
        wait_until(self._is_well, READY_WITHIN_S, "the product is ready")

    def stop(self) -> None:
        """Stop it as Ctrl-C does; what is left of its processes after that is ended too."""
        if self.up is None:
            return
        started = self.up.children(recursive=True) if self.up.is_running() else []
        self.up.send_signal(signal.SIGTERM)
        try:
            self.up.wait(60)
        finally:
            for process in [*started, self.up]:
                if process.is_running():
                    process.kill()

    def _is_well(self) -> bool:
        assert self.up is not None
        if self.up.poll() is not None:
            raise AssertionError(f"`manage.py up` ended:\n{self.out.read_text(errors='replace')}")
        try:
            page = httpx.get(f"{self.url}/accounts/login/", timeout=10)
            return page.status_code == 200 and bool(self.info()["policies"])
        except httpx.HTTPError:
            return False

    def manage(self, *arguments: str, fails: bool = False) -> str:
        """Run a command of manage.py; return what it prints on standard output."""
        done = subprocess.run(
            [sys.executable, "manage.py", *arguments],
            cwd=ROOT, env=self.environment, capture_output=True, text=True, timeout=400, check=False,
        )  # fmt: skip
        if (done.returncode != 0) != fails:
            raise AssertionError(f"manage.py {' '.join(arguments)}: {done.returncode}\n{done.stdout}\n{done.stderr}")
        return done.stdout.strip()

    def client(self, token: str) -> httpx.Client:
        """Return a client of the HTTP API as the token's owner."""
        return httpx.Client(base_url=f"{self.url}/api/v1", headers={"Authorization": f"Token {token}"}, timeout=60)

    def info(self) -> dict[str, Any]:
        """Return what the inference server says of itself."""
        return dict(httpx.get(f"{serving_url(self.data_dir)}/info", timeout=10).json())

    def complete(self, model: str, prompt: str, seed: int) -> tuple[str, str]:
        """Return (the version that says it answered, its text) of one chat completion asked of the server itself."""
        body = {
            "model": model, "messages": [{"role": "user", "content": prompt}], "max_tokens": 24, "temperature": 1.0,
            "seed": seed,
        }  # fmt: skip
        answer = httpx.post(
            f"{serving_url(self.data_dir)}/v1/chat/completions", json=body, timeout=60
        ).raise_for_status()
        shown = answer.json()
        return shown["model"], shown["choices"][0]["message"]["content"]

    def logs(self) -> str:
        """Return the end of every process's log, for a failure's message."""
        ends = []
        for log in sorted((self.data_dir / "logs").glob("*.log")):
            ends.append(f"== {log.name}\n" + "\n".join(log.read_text(errors="replace").splitlines()[-15:]))
        return "\n".join(ends)


@contextmanager
def run_stack(make_model: Callable[[Path], object]) -> Iterator[Stack]:
    """Run everything in a folder of its own, with the model that make_model leaves in the given directory."""
    data_dir = Path(tempfile.mkdtemp(prefix="rlhf-loop-"))
    data_dir.chmod(0o711)  # as root, PostgreSQL runs as another user that must pass through
    make_model(data_dir / "models" / "base")
    stack = Stack(data_dir, _free_port())
    try:
        stack.start()
        yield stack
    finally:
        # Shown by pytest where a test has failed.
        print(stack.out.read_text(errors="replace"), stack.logs(), sep="\n", file=sys.stderr)
        stack.stop()
        shutil.rmtree(data_dir, ignore_errors=True)


def wait_until(holds: Callable[[], bool], seconds: float, what: str) -> None:
    """Poll until something holds; AssertionError saying what after so many seconds."""
    deadline = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {seconds:.0f} s: {what}")
        time.sleep(0.2)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
