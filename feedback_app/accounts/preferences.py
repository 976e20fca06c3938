"""How a person wants the pages to look: kept in a cookie, so that the first byte of a page is right already."""

from django.http import HttpRequest, HttpResponse

THEMES = ("system", "light", "dark")
COOKIE = "theme"
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
