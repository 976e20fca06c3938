"""Register the rounds app."""

from django.apps import AppConfig


class RoundsConfig(AppConfig):
    name = "feedback_app.rounds"
    label = "rounds"
    default_auto_field = "django.db.models.BigAutoField"
