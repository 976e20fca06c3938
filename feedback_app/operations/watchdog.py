"""A worker that cannot work any more ends, with a code that is not 0, so that whoever supervises it starts it again.

Celery's own process lives on through a lost database, a consumer that hangs after its broker came back, and a pool
whose processes are stuck; from outside all three look like a quiet day.
"""

import logging
import os
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import psycopg
from celery import bootsteps
from celery.worker import state
from django.db import connections

from feedback_app.broker import queue_lengths

logger = logging.getLogger(__name__)
EVERY_S = 10.0
# A restart of PostgreSQL takes less.
DATABASE_PATIENCE_S = 60.0
# Messages wait and nothing is taken, or what was taken is not begun.
CONSUMER_PATIENCE_S = 60.0
# A process at a task uses processor time now and then: every wait of ours ends within 300 seconds.
STILL_PATIENCE_S = 600.0
QUERY_TIMEOUT_MS = 5000
EXIT_CODE = 70
_BEAT = """
INSERT INTO operations_worker (name, queues, pid, busy, started_at, seen_at)
VALUES (%(name)s, %(queues)s, %(pid)s, %(busy)s, now(), now())
ON CONFLICT (name) DO UPDATE SET queues = excluded.queues, pid = excluded.pid, busy = excluded.busy, seen_at = now(),
    started_at = CASE WHEN operations_worker.pid = excluded.pid THEN operations_worker.started_at ELSE now() END
"""
_FORGET = "DELETE FROM operations_worker WHERE seen_at < now() - interval '1 day'"


@dataclass(frozen=True)
class Seen:
    """How a worker is at one look: whether its database answered, what it has to do, and what its processes used.

    taken: tasks begun in all. not_begun: the ids of those that were taken and not begun. free: whether a process of the
    pool is at no task. waiting: messages in its queues, None where the broker did not say. processor_s: of each pool
    process that is at a task.
    """

    database: bool
    taken: int = 0
    not_begun: frozenset[str] = frozenset()
    free: bool = True
    waiting: int | None = 0
    processor_s: Mapping[int, float] = field(default_factory=dict)


@dataclass
class Watchdog:
    """Looks, remembers since when something has been wrong, and says why the worker must end."""

    now: Callable[[], float] = time.monotonic
    since: dict[str, float] = field(default_factory=dict)
    taken: int = -1
    used: dict[int, tuple[float, float]] = field(default_factory=dict)

    def judge(self, seen: Seen) -> str:
        """Return why the worker must end, empty while it need not."""
        idle = not seen.processor_s and seen.taken == self.taken
        self.taken = seen.taken
        wrong = {
            "its database has not answered": (not seen.database, DATABASE_PATIENCE_S),
            "messages wait and it takes none": (
                idle and bool(seen.waiting) and not seen.not_begun, CONSUMER_PATIENCE_S
            ),
        }  # fmt: skip
        wrong |= {
            f"task {task}, which it took, is not begun with a process free": (seen.free, CONSUMER_PATIENCE_S)
            for task in seen.not_begun
        }
        for gone in set(self.since) - set(wrong):
            del self.since[gone]
        for why, (is_wrong, patience) in wrong.items():
            if not is_wrong:
                self.since.pop(why, None)
            elif (for_s := self.now() - self.since.setdefault(why, self.now())) >= patience:
                return f"{why} for {for_s:.0f} s"
        return self._still(seen.processor_s)

    def _still(self, processor_s: Mapping[int, float]) -> str:
        """Say which process at a task has used no processor time for too long."""
        before, self.used = self.used, {}
        for pid, used in processor_s.items():
            last, at = before.get(pid, (-1.0, 0.0))
            self.used[pid] = (used, at if used == last else self.now())
            if self.now() - self.used[pid][1] >= STILL_PATIENCE_S:
                return f"process {pid} has stood still at its task for {STILL_PATIENCE_S:.0f} s"
        return ""

    @property
    def is_well(self) -> bool:
        """Say whether nothing is wrong at the moment."""
        return not self.since


class WatchdogStep(bootsteps.StartStopStep):  # type: ignore[misc]  # Celery is untyped
    """Run the watchdog in a thread of the worker's own process for as long as the worker runs."""

    requires = {"celery.worker.components:Pool"}

    def __init__(self, worker: Any, **options: Any) -> None:
        super().__init__(worker, **options)
        self.over = threading.Event()

    def start(self, worker: Any) -> None:
        queues = sorted(queue.name for queue in worker.app.amqp.queues.consume_from.values())
        arguments = (str(worker.hostname), queues, int(worker.concurrency), self.over)
        threading.Thread(target=watch, args=arguments, name="watchdog", daemon=True).start()

    def stop(self, worker: Any) -> None:
        self.over.set()


def watch(name: str, queues: Sequence[str], processes: int, over: threading.Event) -> None:
    """Look until the worker stops; end the process where it cannot work any more."""
    dog = Watchdog()
    file = heartbeat_file(name)
    while not over.wait(EVERY_S):
        try:
            why = dog.judge(_look(name, queues, processes))
        except Exception:  # a watchdog that dies of its own fault watches nobody
            logger.exception("the watchdog could not look")
            continue
        if why:
            logger.critical("worker %s ends: %s", name, why)
            logging.shutdown()
            os._exit(EXIT_CODE)  # not by an exception: what is stuck would not let the process end
        if dog.is_well:
            file.touch()


def heartbeat_file(name: str) -> Path:
    """Return the file that a worker touches while all is well; a container's health check looks at its age."""
    return Path(tempfile.gettempdir()) / f"worker-{name.partition('@')[0]}-{os.getuid()}"


def _look(name: str, queues: Sequence[str], processes: int) -> Seen:
    active = list(state.active_requests)
    processor_s = {
        request.worker_pid: used for request in active if (used := _processor_s(request.worker_pid)) is not None
    }
    return Seen(
        database=_beat(name, queues, len(active)),
        taken=sum(state.total_count.values()),
        not_begun=frozenset(str(request.id) for request in set(state.reserved_requests) - set(active)),
        free=len(active) < processes,
        waiting=_waiting(queues),
        processor_s=processor_s,
    )


def _processor_s(pid: int | None) -> float | None:
    try:
        times = psutil.Process(pid).cpu_times() if pid else None
    except psutil.Error:
        return None
    return None if times is None else times.user + times.system


def _beat(name: str, queues: Sequence[str], busy: int) -> bool:
    """Write the heartbeat; return whether the database took it.

    By a connection of its own, made and closed here: a pool's would be shared with processes that are forked later.
    """
    values = {"name": name, "queues": ",".join(queues), "pid": os.getpid(), "busy": busy}
    stated = connections.settings["default"]
    names = {"dbname": "NAME", "user": "USER", "password": "PASSWORD", "host": "HOST", "port": "PORT"}
    given = {key: stated[setting] for key, setting in names.items() if stated.get(setting)}
    try:
        with psycopg.connect(
            **given, connect_timeout=5, options=f"-c statement_timeout={QUERY_TIMEOUT_MS}"
        ) as connection:  # fmt: skip
            connection.execute(_BEAT, values)
            connection.execute(_FORGET)
    except psycopg.Error as error:
        logger.warning("worker %s: its database does not answer: %s", name, error)
        return False
    return True


def _waiting(queues: Sequence[str]) -> int | None:
    lengths = queue_lengths(queues)
    # None where the broker is away: Celery itself connects again, and that it then takes messages is watched.
    return None if lengths is None else sum(lengths.values())
