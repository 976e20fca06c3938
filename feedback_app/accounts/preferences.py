"""How a person wants the pages to look: kept with the account, so that it follows from device to device.

A cookie keeps it in the browser as well: for pages before sign-in, right from their first byte.
"""

from collections.abc import Callable
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from django.conf import settings
from django.http import HttpRequest, HttpResponse
from django.utils import timezone, translation

from feedback_app.accounts.models import User

COOKIE = "theme"
TIMEZONE_COOKIE = "timezone"
COOKIE_AGE_S = 365 * 24 * 3600


def appearance(request: HttpRequest) -> dict[str, str]:
    """Give templates the theme: the person's, else the cookie's; anything unknown is the system's."""
    user = getattr(request, "user", None)  # pages of errors come without one
    theme = (user.theme if isinstance(user, User) else "") or request.COOKIES.get(COOKIE, "")
    return {"theme": theme if theme in User.Theme.values else User.Theme.SYSTEM.value}


def keep_theme(response: HttpResponse, theme: str) -> None:
    """Remember a theme in the browser; raises ValueError for an unknown one."""
    if theme not in User.Theme.values:
        raise ValueError(f"theme: one of {', '.join(User.Theme.values)}")
    response.set_cookie(COOKIE, theme, max_age=COOKIE_AGE_S, samesite="Lax")


def keep_language(response: HttpResponse, language: str) -> None:
    """Remember a language in the browser; raises ValueError for one that the pages are not in."""
    if language not in dict(settings.LANGUAGES) or not translation.check_for_language(language):
        raise ValueError(f"language: one of {', '.join(dict(settings.LANGUAGES))}")
    response.set_cookie(settings.LANGUAGE_COOKIE_NAME, language, max_age=COOKIE_AGE_S, samesite="Lax")


class LanguageMiddleware:
    """Speak the language that the signed-in person chose, on whatever device; else LocaleMiddleware has chosen."""

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        # Without the cookie nobody is signed in: programs with a token pay nothing for this.
        if settings.SESSION_COOKIE_NAME in request.COOKIES and request.user.is_authenticated:
            language = request.user.language
            if language in dict(settings.LANGUAGES):
                translation.activate(language)
                request.LANGUAGE_CODE = language
        return self.get_response(request)


class TimezoneMiddleware:
    """Count days and write times as the browser's clock does: its zone comes in a cookie, anything unknown is UTC."""

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        with timezone.override(_zone(request.COOKIES.get(TIMEZONE_COOKIE, ""))):
            return self.get_response(request)


def _zone(name: str) -> ZoneInfo | None:
    try:
        return ZoneInfo(name.replace("%2F", "/")) if name else None
    except (ZoneInfoNotFoundError, ValueError, OSError):
        return None
