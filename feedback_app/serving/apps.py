"""Register the serving app."""

from django.apps import AppConfig


class ServingConfig(AppConfig):
    name = "feedback_app.serving"
    label = "serving"
    default_auto_field = "django.db.models.BigAutoField"
