"""The Celery application; every message only rings a bell for a row that waits in PostgreSQL."""

import logging
import os
from typing import Any

import redis
from celery import Celery, Task
from redis.backoff import NoBackoff
from redis.retry import Retry

from feedback_app.logs import bound

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "feedback_app.settings")
logger = logging.getLogger(__name__)
# What nobody has heard is rung again at the next tick. Celery's own way against a heap of such messages, an expiry, is
# a matter of two machines' clocks: a worker whose clock ran ahead of beat's threw every bell away.
MOST_WAITING = 100
BROKER_TIMEOUT_S = 2.0


class BoundTask(Task):  # type: ignore[misc]  # Celery is untyped
    """A task whose log lines say which it is."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        with bound(task=self.name.rpartition(".")[2], task_id=self.request.id):
            return super().__call__(*args, **kwargs)


class Bells(Celery):  # type: ignore[misc]  # Celery is untyped
    """Celery that rings no more where enough bells wait to be heard."""

    def send_task(self, name: str, *args: Any, **options: Any) -> Any:
        """Send a message, unless its queue is full of others; returns None then."""
        queue = options.get("queue") or self.amqp.router.route({}, name)["queue"]
        queue_name = str(getattr(queue, "name", queue))
        if self._waiting(queue_name) >= MOST_WAITING:
            logger.info("queue %s: %s bells wait to be heard; %s is not rung", queue_name, MOST_WAITING, name)
            return None
        return super().send_task(name, *args, **options)

    def _waiting(self, queue: str) -> int:
        # Asked once: where the broker does not answer, sending says so as ever.
        client = redis.Redis.from_url(
            self.conf.broker_url, retry=Retry(NoBackoff(), 0),
            socket_timeout=BROKER_TIMEOUT_S, socket_connect_timeout=BROKER_TIMEOUT_S,
        )  # fmt: skip
        try:
            return int(client.llen(queue))
        except redis.RedisError:
            return 0
        finally:
            client.close()


app = Bells("feedback_app", task_cls=BoundTask)
app.config_from_object("django.conf:settings", namespace="CELERY")
app.autodiscover_tasks()
app.steps["worker"].add("feedback_app.rounds.host_step:HostStep")
app.steps["worker"].add("feedback_app.operations.watchdog:WatchdogStep")
