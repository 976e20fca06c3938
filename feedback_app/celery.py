"""The Celery application; every message only rings a bell for a row that waits in PostgreSQL."""

import os
from typing import Any

from celery import Celery, Task

from feedback_app.logs import bound

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "feedback_app.settings")


class BoundTask(Task):  # type: ignore[misc]  # Celery is untyped
    """A task whose log lines say which it is."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        with bound(task=self.name.rpartition(".")[2], task_id=self.request.id):
            return super().__call__(*args, **kwargs)


app = Celery("feedback_app", task_cls=BoundTask)
app.config_from_object("django.conf:settings", namespace="CELERY")
app.autodiscover_tasks()
app.steps["worker"].add("feedback_app.rounds.host_step:HostStep")
app.steps["worker"].add("feedback_app.operations.watchdog:WatchdogStep")
