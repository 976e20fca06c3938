"""API addresses of the serving app, below /api/v1/."""

from django.urls import URLPattern, URLResolver, path

from feedback_app.serving.api import PoliciesApi, PushApi, RollbackApi

urlpatterns: list[URLPattern | URLResolver] = [
    path("projects/<slug:slug>/policies/", PoliciesApi.as_view(), name="policies"),
    path("policies/<uuid:policy_id>/push/", PushApi.as_view(), name="push"),
    path("projects/<slug:slug>/rollback/", RollbackApi.as_view(), name="rollback"),
]
