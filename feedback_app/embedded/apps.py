"""Register the embedded services' commands."""

from django.apps import AppConfig


class EmbeddedConfig(AppConfig):
    name = "feedback_app.embedded"
    label = "embedded"
