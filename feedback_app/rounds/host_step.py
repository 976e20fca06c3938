"""A training worker's own heartbeat: a step of the worker that registers its machine and says that it lives."""

import logging
import threading
from typing import Any

from celery import bootsteps
from django.conf import settings
from django.db import DatabaseError, InterfaceError, connection

from feedback_app.rounds.hosts import BEAT_EVERY_S, beat_host, queue_of, register_host

logger = logging.getLogger(__name__)
# How often torch is asked for again where it was not there: a first start installs it beside the running worker.
ASK_AGAIN_EVERY = 6


class HostStep(bootsteps.StartStopStep):  # type: ignore[misc]  # Celery is untyped
    """Keep this machine's row for as long as the worker runs; a worker that does not train keeps none."""

    requires = {"celery.worker.components:Pool"}

    def __init__(self, worker: Any, **options: Any) -> None:
        super().__init__(worker, **options)
        self.over = threading.Event()

    def include_if(self, worker: Any) -> bool:
        """Say whether this worker trains: it listens to its machine's own queue then."""
        return queue_of(settings.HOST_NAME) in worker.app.amqp.queues.consume_from

    def start(self, worker: Any) -> None:
        threading.Thread(target=keep_host, args=(self.over,), name="host", daemon=True).start()

    def stop(self, worker: Any) -> None:
        self.over.set()


def keep_host(over: threading.Event) -> None:
    """Register, then beat until the worker stops; a database that is away is tried again at the next beat."""
    beats, has_torch = 0, False
    while True:
        try:
            if (not has_torch and beats % ASK_AGAIN_EVERY == 0) or not beat_host():
                has_torch = bool(register_host().torch)
        except (DatabaseError, InterfaceError) as error:
            logger.warning("host=%s: its row is not kept: %s", settings.HOST_NAME, error)
        finally:
            # Processes of the pool are forked from this one: no connection may be open for them to inherit.
            connection.close()
            connection.close_pool()  # type: ignore[attr-defined]  # PostgreSQL's own
        beats += 1
        if over.wait(BEAT_EVERY_S):
            return
