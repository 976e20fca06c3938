"""The Celery application; every message only rings a bell for a row that waits in PostgreSQL."""

import logging
import os
from typing import Any

from celery import Celery, Task

from feedback_app.broker import queue_lengths
from feedback_app.logs import bound

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "feedback_app.settings")
logger = logging.getLogger(__name__)
# What nobody has heard is rung again at the next tick. Celery's own way against a heap of such messages, an expiry, is
# a matter of two machines' clocks: a worker whose clock ran ahead of beat's threw every bell away.
MOST_WAITING = 100


class BoundTask(Task):  # type: ignore[misc]  # Celery is untyped
    """A task whose log lines say which it is."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        with bound(task=self.name.rpartition(".")[2], task_id=self.request.id):
            return super().__call__(*args, **kwargs)


class Bells(Celery):  # type: ignore[misc]  # Celery is untyped
    """Celery that does not ring again where enough messages wait to be heard."""

    def send_task(self, name: str, *args: Any, again: bool = False, **options: Any) -> Any:
        """Send a message; one that is sent again at every tick not where its queue is long: returns None then."""
        if again:
            queue = options.get("queue") or self.amqp.router.route({}, name)["queue"]
            queue_name = str(getattr(queue, "name", queue))
            lengths = queue_lengths([queue_name])  # None where the broker does not answer: sending says so as ever
            if lengths is not None and lengths[queue_name] >= MOST_WAITING:
                logger.info("queue %s: %s messages wait; %s is not rung again", queue_name, MOST_WAITING, name)
                return None
        return super().send_task(name, *args, **options)


app = Bells("feedback_app", task_cls=BoundTask)
app.config_from_object("django.conf:settings", namespace="CELERY")
app.autodiscover_tasks()
app.steps["worker"].add("feedback_app.rounds.host_step:HostStep")
app.steps["worker"].add("feedback_app.operations.watchdog:WatchdogStep")
