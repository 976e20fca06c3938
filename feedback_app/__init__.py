"""The Django project; importing it makes the Celery application known to every shared task."""

from feedback_app.celery import app as celery_app

__all__ = ["celery_app"]
