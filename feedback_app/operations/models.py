"""Workers, as they say of themselves."""

from django.db import models


class Worker(models.Model):
    """A Celery worker that said within the last day that it is well; its watchdog writes this."""

    name = models.CharField(max_length=200, primary_key=True)
    queues = models.CharField(max_length=200)
    pid = models.PositiveIntegerField()
    busy = models.PositiveIntegerField(default=0)
    started_at = models.DateTimeField()
    seen_at = models.DateTimeField()

    class Meta:
        db_table = "operations_worker"
        ordering = ["name"]

    def __str__(self) -> str:
        return self.name
