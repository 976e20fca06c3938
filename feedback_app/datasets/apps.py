"""Register the datasets app."""

from django.apps import AppConfig


class DatasetsConfig(AppConfig):
    name = "feedback_app.datasets"
    label = "datasets"
    default_auto_field = "django.db.models.BigAutoField"
