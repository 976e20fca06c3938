"""Every address of the site: pages by app, the versioned API, and health."""

from django.contrib import admin
from django.urls import URLPattern, URLResolver, include, path
from drf_spectacular.views import SpectacularAPIView, SpectacularSwaggerSplitView

api_v1: list[URLPattern | URLResolver] = [
    path("", include("feedback_app.annotation.api_urls")),
    path("", include("feedback_app.datasets.api_urls")),
    path("", include("feedback_app.serving.api_urls")),
    path("", include("feedback_app.rounds.api_urls")),
]

urlpatterns: list[URLPattern | URLResolver] = [
    path("api/v1/", include((api_v1, "api"), namespace="api")),
    path("api/v1/schema/", SpectacularAPIView.as_view(), name="schema"),
    path("api/v1/docs/", SpectacularSwaggerSplitView.as_view(url_name="schema"), name="api_docs"),
    path("admin/", admin.site.urls),
    path("", include("feedback_app.accounts.urls")),
    path("", include("feedback_app.annotation.urls")),
    path("", include("feedback_app.annotation.manager_urls")),
    path("", include("feedback_app.datasets.urls")),
    path("", include("feedback_app.serving.urls")),
    path("", include("feedback_app.notifications.urls")),
    path("", include("feedback_app.rounds.urls")),
    path("", include("feedback_app.projects.urls")),
]

handler400 = "feedback_app.accounts.error_views.bad_request"
handler404 = "feedback_app.accounts.error_views.not_found"
