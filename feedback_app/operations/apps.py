"""Register the operations app."""

from django.apps import AppConfig


class OperationsConfig(AppConfig):
    name = "feedback_app.operations"
    label = "operations"
    default_auto_field = "django.db.models.BigAutoField"
