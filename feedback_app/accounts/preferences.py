"""How a person wants the pages to look: kept in a cookie, so that the first byte of a page is right already."""

from collections.abc import Callable
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from django.http import HttpRequest, HttpResponse
from django.utils import timezone

THEMES = ("system", "light", "dark")
COOKIE = "theme"
TIMEZONE_COOKIE = "timezone"
COOKIE_AGE_S = 365 * 24 * 3600


def appearance(request: HttpRequest) -> dict[str, str]:
    """Give templates the theme; anything unknown in the cookie is the system's."""
    theme = request.COOKIES.get(COOKIE, "system")
    return {"theme": theme if theme in THEMES else "system"}


def keep_theme(response: HttpResponse, theme: str) -> None:
    """Remember a theme in the browser; raises ValueError for an unknown one."""
    if theme not in THEMES:
        raise ValueError(f"theme: one of {', '.join(THEMES)}")
    response.set_cookie(COOKIE, theme, max_age=COOKIE_AGE_S, samesite="Lax")


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
