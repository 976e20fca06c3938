"""Pages of the accounts app."""

from django.urls import URLPattern, URLResolver, path

from feedback_app.accounts import me, views

app_name = "accounts"
urlpatterns: list[URLPattern | URLResolver] = [
    path("accounts/login/", views.LoginView.as_view(), name="login"),
    path("accounts/logout/", views.LogoutView.as_view(), name="logout"),
    path("accounts/theme/", views.set_theme, name="set_theme"),
    path("accounts/language/", views.set_language, name="set_language"),
    path("accounts/me/", me.account, name="me"),
    path("accounts/me/password/", me.password, name="change_password"),
    path("accounts/me/tokens/", me.make_token, name="make_token"),
    path("accounts/me/tokens/<int:token_id>/revoke/", me.revoke, name="revoke_token"),
]
