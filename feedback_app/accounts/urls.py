"""Pages of the accounts app."""

from django.urls import URLPattern, URLResolver, path

from feedback_app.accounts import views

app_name = "accounts"
urlpatterns: list[URLPattern | URLResolver] = [
    path("accounts/login/", views.LoginView.as_view(), name="login"),
    path("accounts/logout/", views.LogoutView.as_view(), name="logout"),
    path("accounts/theme/", views.set_theme, name="set_theme"),
    path("accounts/language/", views.set_language, name="set_language"),
]
