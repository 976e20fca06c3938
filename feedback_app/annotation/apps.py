"""Register the annotation app."""

from django.apps import AppConfig


class AnnotationConfig(AppConfig):
    name = "feedback_app.annotation"
    label = "annotation"
    default_auto_field = "django.db.models.BigAutoField"
