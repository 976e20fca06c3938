"""Register the notifications app."""

from django.apps import AppConfig


class NotificationsConfig(AppConfig):
    name = "feedback_app.notifications"
    label = "notifications"
    default_auto_field = "django.db.models.BigAutoField"
