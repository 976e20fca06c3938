"""`make up`: everything the product needs on one machine, started in order, watched, and stopped together."""

import contextlib
import fcntl
import os
import shutil
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

from django.conf import settings

from feedback_app.embedded import postgres, valkey
from feedback_app.embedded.base_model import is_complete
from feedback_app.embedded.children import Child, end_leftovers, stop_children, write_running
from feedback_app.embedded.inference import inference_child
from feedback_app.embedded.installing import is_installed
from feedback_app.embedded.long_logs import shorten
from feedback_app.embedded.paths import choose_port, make_run_dir, postgres_dir, run_dir
from feedback_app.embedded.preparation import Preparation
from feedback_app.embedded.services import ensure_services, hold_services

WEB_HOST = "127.0.0.1"
GIB = 2**30
# The model, the database and a first round's checkpoints; and beside the environment, torch while it is installed.
NEEDED_BYTES, NEEDED_FOR_TORCH_BYTES = 2 * GIB, 2 * GIB
SERVICES = (("PostgreSQL", postgres), ("Valkey", valkey))
HEALTH_EVERY_S = 2.0


class CannotStart(RuntimeError):
    """The reason, in one line."""


class Supervisor:
    """Holds PostgreSQL and Valkey up, and the processes of the product beside them."""

    def __init__(self, data_dir: Path, port: int) -> None:
        self.data_dir, self.port = data_dir, port
        self.stopping = threading.Event()
        self.preparation = Preparation(data_dir)
        self.children: list[Child] = []
        self.watching = False
        self.bar_shown = False
        self.told = ""

    def run(self) -> None:
        """Start everything and watch it until a signal comes.

        Raises:
            CannotStart: another one runs, the port is taken, or the disk is full.
        """
        began = time.monotonic()
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, self._stop)
        try:
            self._check_machine()
            with self._alone(), hold_services(self.data_dir):
                self._prepare_database()
                self.children = [self._web(), *self._workers()]
                self._run_children(began)
        except KeyboardInterrupt:
            self.say("Stopping ...")
        self.say(f"Stopped. Everything is kept in {self.data_dir}")

    def _run_children(self, began: float) -> None:
        self.watching = True
        try:
            if self._wait_for_page():
                address = f"http://{WEB_HOST}:{self.port}"
                self.say(f"Ready in {time.monotonic() - began:.1f} s: {address}   (Ctrl-C stops it)")
                self.preparation.start()
            self._watch_until_stopped()
        finally:
            self.say("Stopping ...")
            self.preparation.stop()
            stop_children(self.children)
            self._running_file().unlink(missing_ok=True)

    def _stop(self, number: int, frame: FrameType | None) -> None:
        first = not self.stopping.is_set()
        self.stopping.set()
        if first and not self.watching:  # the start is cut short where it is: each part of it can be done again
            raise KeyboardInterrupt

    def say(self, line: str) -> None:
        """Print a line above the bar."""
        clear = "\r\x1b[K" if self.bar_shown else ""
        self.bar_shown = False
        print(f"{clear}{line}", flush=True)

    def _check_machine(self) -> None:
        try:
            self.data_dir.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise CannotStart(
                f"{self.data_dir}: {error.strerror}; set DATA_DIR to a folder that can be written"
            ) from None
        needs = []
        if not is_complete(self.data_dir / "models" / "base"):
            needs.append((self.data_dir, NEEDED_BYTES, "set DATA_DIR to a folder with more"))
        if not is_installed("torch"):
            needs.append((Path(sys.prefix), NEEDED_FOR_TORCH_BYTES, "make room there"))
        for folder, needed, advice in needs:
            free = shutil.disk_usage(folder).free
            if free < needed:
                raise CannotStart(
                    f"{folder}: {free / GIB:.1f} GiB are free and {needed / GIB:.0f} are needed; {advice}"
                )

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        with (make_run_dir(self.data_dir) / "up.lock").open("a+") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                lock.seek(0)
                raise CannotStart(f"already running for {self.data_dir}: {lock.read().strip()}") from None
            lock.truncate(0)
            lock.write(f"process {os.getpid()}, http://{WEB_HOST}:{self.port}")
            lock.flush()
            if left := end_leftovers(self._running_file()):
                self.say(f"Ended {left} processes that an earlier start had left.")
            self._check_port()
            # Chosen before anybody reads it: every process has the same address.
            choose_port(self.data_dir, "inference")
            yield

    def _running_file(self) -> Path:
        return run_dir(self.data_dir) / "running.json"

    def _check_port(self) -> None:
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((WEB_HOST, self.port))
            except OSError:
                raise CannotStart(
                    f"port {self.port} is taken by another program; choose another: make up PORT={self.port + 1}"
                ) from None

    def _prepare_database(self) -> None:
        from feedback_app.embedded.first_start import make_administrator, seed
        from feedback_app.embedded.migrations import migrate_embedded

        migrate_embedded()
        login = make_administrator()
        seed()
        if login is not None:
            self.say(f"\n  Administrator: {login[0]}\n  Password:      {login[1]}\n  (printed this once; keep it)\n")

    def _python(self, *arguments: str) -> list[str]:
        return [sys.executable, *arguments]

    def _log(self, name: str) -> Path:
        return self.data_dir / "logs" / f"{name}.log"

    def _web(self) -> Child:
        command = self._python(
            "-m", "granian", "--interface", "wsgi", "feedback_app.wsgi:application", "--host", WEB_HOST,
            "--port", str(self.port), "--workers", "2", "--blocking-threads", "4", "--respawn-failed-workers",
            "--no-ws", "--log-level", "warning",
        )  # fmt: skip
        # Every web process counts in a file of its own there, and /metrics adds them up.
        counts = run_dir(self.data_dir) / "metrics"
        shutil.rmtree(counts, ignore_errors=True)
        counts.mkdir(parents=True)
        return Child("web", command, self._log("web"), environment={"PROMETHEUS_MULTIPROC_DIR": str(counts)})

    def _workers(self) -> list[Child]:
        worker = ("-m", "celery", "-A", "feedback_app", "worker", "--without-gossip", "--without-mingle", "-l", "info")
        schedule = str(run_dir(self.data_dir) / "beat")
        return [
            Child(
                "worker",
                self._python(*worker, "-Q", "ctl", "-c", "2", "-n", "ctl@%h"),
                self._log("worker"),
                environment={"SITE_URL": f"http://{WEB_HOST}:{self.port}"},
            ),
            # Training gives way to the pages beside it: judging stays quick during a round.
            Child(
                "gpu-worker",
                self._python(*worker, "-Q", f"gpu,gpu.{settings.HOST_NAME}", "-c", "1", "-n", "gpu@%h"),
                self._log("gpu-worker"),
                niceness=5,
            ),
            Child(
                "beat", self._python("-m", "celery", "-A", "feedback_app", "beat", "-s", schedule), self._log("beat")
            ),
        ]

    def _inference(self) -> Child:
        return inference_child(self.data_dir, sys.executable)

    def _wait_for_page(self) -> bool:
        """Return whether the page came up before a stop was asked for."""
        while not self.stopping.is_set():
            self._watch_all()
            with contextlib.suppress(OSError), socket.create_connection((WEB_HOST, self.port), timeout=1):
                return True
            self.stopping.wait(0.1)
        return False

    def _watch_all(self) -> None:
        before = [child.process for child in self.children]
        for child in self.children:
            child.watch(self.say)
        if [child.process for child in self.children] != before:
            write_running(self._running_file(), self.children)

    def _watch_until_stopped(self) -> None:
        next_health = time.monotonic() + HEALTH_EVERY_S
        while not self.stopping.wait(0.3):
            self._watch_all()
            if self.preparation.done.is_set() and not any(child.name == "inference" for child in self.children):
                self.children.append(self._inference())
                self.say("The base model is in place; the inference server is starting.")
            if error := self.preparation.status.error:
                step = self.preparation.status.step
                self._say_once(f"{step} failed: {error}. The pages stand; the next start tries again.")
            self._show_bar()
            if time.monotonic() >= next_health:
                self._check_services()
                self._shorten_logs()
                next_health = time.monotonic() + HEALTH_EVERY_S

    def _say_once(self, line: str) -> None:
        if line != self.told:
            self.told = line
            self.say(line)

    def _check_services(self) -> None:
        for name, service in SERVICES:
            if service.server_pid(self.data_dir) is None:
                self.say(f"{name} ended; starting it again.")
                try:
                    ensure_services(self.data_dir)
                except (postgres.PostgresError, valkey.ValkeyError) as error:
                    # A full disk, say: what is asked next finds it better, or says so again.
                    self._say_once(str(error))

    def _shorten_logs(self) -> None:
        services = (postgres_dir(self.data_dir).with_name("postgres.log"), self.data_dir / "valkey" / "valkey.log")
        for log in (*services, *(child.log for child in self.children)):
            try:
                shorten(log)
            except OSError as error:  # a full disk, say: everything else goes on
                self._say_once(f"{log} is long and cannot be put aside: {error}")

    def _show_bar(self) -> None:
        status = self.preparation.status
        if status.ready or status.error or not sys.stdout.isatty():
            return
        filled = round(30 * status.share)
        left = ", measuring how long" if status.seconds_left is None else f", about {status.seconds_left} s left"
        print(f"\r\x1b[K  [{'#' * filled}{'.' * (30 - filled)}] {status.step}{left}", end="", flush=True)
        self.bar_shown = True
