"""Pages of the notifications app."""

from django.urls import URLPattern, URLResolver, path

from feedback_app.notifications import views

app_name = "notifications"
urlpatterns: list[URLPattern | URLResolver] = [
    path("p/<slug:slug>/settings/notifications/", views.notifications, name="notifications"),
    path("p/<slug:slug>/settings/notifications/mine/", views.choose, name="choose"),
    path("p/<slug:slug>/settings/notifications/webhooks/", views.add, name="webhook_add"),
    path("p/<slug:slug>/settings/notifications/webhooks/<uuid:webhook_id>/", views.act, name="webhook"),
]
