"""The beat that a clock set back does not silence: Celery's own waits until the old time comes round again."""

from typing import Any

from celery.beat import PersistentScheduler


class SteadyScheduler(PersistentScheduler):  # type: ignore[misc]  # Celery is untyped
    """Celery's scheduler, of which no entry was last run in the future."""

    def tick(self, *args: Any, **kwargs: Any) -> float:
        """Take what was run in the future for run now: the clock was set back, here or while nobody ran."""
        for entry in self.schedule.values():
            now = entry.default_now()
            if entry.last_run_at > now:
                entry.last_run_at = now
                self._heap = None  # made anew from the entries
        return float(super().tick(*args, **kwargs))
