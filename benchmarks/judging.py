"""How many judgments a second the site takes, and how long an annotator waits for the next task.

    python benchmarks/judging.py [--tasks 20000] [--annotators 16] [--seconds 20]

Sixteen annotators in a closed loop over the HTTP API of a web server with two processes, on services and a database
made for this run and removed after it. Server, PostgreSQL and clients share the machine. Prints one JSON object. Label
Studio 1.23.2, measured on 2 cores with the same load: 9.1 pairs/s, next p95 1,094 ms.
"""

import argparse
import http.client
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
LABEL_STUDIO = {"pairs_per_s": 9.1, "next_p95_ms": 1094}
SLUG = "load"


@contextmanager
def web_server(port: int) -> Iterator[None]:
    """Run the web server as `make up` does, until it answers and for the time of the block."""
    command = [
        sys.executable, "-m", "granian", "--interface", "wsgi", "feedback_app.wsgi:application", "--host", "127.0.0.1",
        "--port", str(port), "--workers", "2", "--blocking-threads", "4", "--no-ws", "--log-level", "warning",
    ]  # fmt: skip
    process = subprocess.Popen(command, cwd=ROOT)
    try:
        deadline = time.monotonic() + 60
        while True:
            try:
                connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
                connection.request("GET", "/readyz")
                if connection.getresponse().status == 200:
                    break
            except OSError:
                pass
            if time.monotonic() > deadline:
                raise RuntimeError("the web server did not come up")
            time.sleep(0.2)
        yield
    finally:
        process.terminate()
        process.wait(30)


class Annotator(threading.Thread):
    """Asks for a task, judges it, and asks again, until the time is over."""

    def __init__(self, port: int, token: str, began: float, seconds: float) -> None:
        super().__init__()
        self.port, self.token, self.began, self.seconds = port, token, began, seconds
        self.next_ms: list[float] = []
        self.submit_ms: list[float] = []
        self.error: BaseException | None = None

    def run(self) -> None:
        try:
            self._judge_on()
        except (OSError, RuntimeError, http.client.HTTPException) as error:
            self.error = error

    def _judge_on(self) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        while (now := time.monotonic()) < self.began + self.seconds:
            task, next_ms = self._post(connection, f"/api/v1/projects/{SLUG}/tasks/next/", {}, 200)
            first, second = (response["id"] for response in task["responses"])
            body = {"ranking": [[first], [second]], "lead_time": 1.0}
            _, submit_ms = self._post(connection, f"/api/v1/tasks/{task['id']}/judgments/", body, 201)
            if now >= self.began:  # before, the server and PostgreSQL warm up
                self.next_ms.append(next_ms)
                self.submit_ms.append(submit_ms)

    def _post(
        self, connection: http.client.HTTPConnection, path: str, body: dict[str, Any], expected: int
    ) -> tuple[dict[str, Any], float]:
        headers = {"Authorization": f"Token {self.token}", "Content-Type": "application/json"}
        began = time.perf_counter()
        connection.request("POST", path, json.dumps(body), headers)
        answer = connection.getresponse()
        content = answer.read()
        if answer.status != expected:
            raise RuntimeError(f"{path}: {answer.status} {content[:200]!r}")
        return json.loads(content), (time.perf_counter() - began) * 1000


def percentile(values: list[float], share: float) -> float:
    """Return the smallest value that so large a share of them does not pass."""
    return round(sorted(values)[min(len(values) - 1, int(share * len(values)))], 1)


def measure(port: int, tokens: list[str], seconds: float) -> dict[str, Any]:
    """Let one annotator a token judge for so long after two seconds of warming up."""
    began = time.monotonic() + 2
    annotators = [Annotator(port, token, began, seconds) for token in tokens]
    for annotator in annotators:
        annotator.start()
    for annotator in annotators:
        annotator.join()
    if errors := [annotator.error for annotator in annotators if annotator.error]:
        raise RuntimeError(f"{len(errors)} annotators stopped, the first with: {errors[0]}")
    next_ms = [value for annotator in annotators for value in annotator.next_ms]
    submit_ms = [value for annotator in annotators for value in annotator.submit_ms]
    return {
        "pairs_per_s": round(len(next_ms) / seconds, 1),
        "next_p50_ms": percentile(next_ms, 0.5),
        "next_p95_ms": percentile(next_ms, 0.95),
        "submit_p95_ms": percentile(submit_ms, 0.95),
        "label_studio": LABEL_STUDIO,
    }


def main() -> int:
    """Prepare, measure, report, and remove what was made."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", type=int, default=20_000)
    parser.add_argument("--annotators", type=int, default=16)
    parser.add_argument("--seconds", type=float, default=20)
    options = parser.parse_args()
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
        with hold_services(folder), socket.socket() as probe:
            migrate_embedded()
            from benchmarks.annotate import prepare

            tokens = prepare(slug=SLUG, tasks=options.tasks, overlap=3, annotators=options.annotators)
            probe.bind(("127.0.0.1", 0))
            port = int(probe.getsockname()[1])
            probe.close()
            with web_server(port):
                report = measure(port, tokens, options.seconds)
        print(json.dumps({"tasks": options.tasks, "annotators": options.annotators} | report, indent=2))
    finally:
        shutil.rmtree(run_dir(folder), ignore_errors=True)
        shutil.rmtree(folder, ignore_errors=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
