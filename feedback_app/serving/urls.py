"""Pages of the serving app."""

from django.urls import URLPattern, URLResolver, path

from feedback_app.serving import views

app_name = "serving"
urlpatterns: list[URLPattern | URLResolver] = [
    path("p/<slug:slug>/policies/<uuid:policy_id>/push/", views.push, name="push"),
    path("p/<slug:slug>/policies/rollback/", views.rollback, name="rollback"),
    path("p/<slug:slug>/policies/endpoint/", views.endpoint, name="endpoint"),
]
