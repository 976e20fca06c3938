"""Pages of the serving app."""

from django.urls import URLPattern, URLResolver

app_name = "serving"
urlpatterns: list[URLPattern | URLResolver] = []
