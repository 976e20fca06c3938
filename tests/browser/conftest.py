"""A real Chromium on the live server: pages open signed in, and a script error or a blocked script fails the test."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

import pytest
from django.conf import settings
from django.test import Client
from playwright.sync_api import Browser, Page, ViewportSize, expect, sync_playwright
from pytest_django.live_server_helper import LiveServer

from feedback_app.accounts.models import User
from feedback_app.accounts.services import create_user

LAPTOP = ViewportSize(width=1366, height=850)
PHONE = ViewportSize(width=390, height=844)
# Nothing that Chromium does by itself may reach for the network or for a GPU.
ARGUMENTS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage",
]  # fmt: skip
# A machine that trains beside the tests is slow; what is awaited mostly comes within milliseconds.
PATIENCE_MS = 20_000
PASSWORD = "correct horse battery"


class OpenPage(Protocol):
    """Open a browser window of its own for a user."""

    def __call__(self, user: User | None, *, phone: bool = False, dark: bool = False, **context: Any) -> Page: ...


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            item.add_marker(pytest.mark.browser)


@pytest.fixture(scope="package")
def browser(chromium: str) -> Iterator[Browser]:
    """One Chromium for these tests; each page has a context of its own.

    Not for the session: while Playwright's event loop stands in this thread, no other test may run one.
    """
    # Playwright's own event loop runs in this thread, so Django would take every query of a test for an async one.
    before = os.environ.get("DJANGO_ALLOW_ASYNC_UNSAFE")
    os.environ["DJANGO_ALLOW_ASYNC_UNSAFE"] = "1"
    expect.set_options(timeout=PATIENCE_MS)
    with sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=chromium, args=ARGUMENTS)
        yield running
        running.close()
    if before is None:
        del os.environ["DJANGO_ALLOW_ASYNC_UNSAFE"]


def session_cookie(user: User, url: str) -> dict[str, str]:
    """Return the cookie of a fresh session of the user, as Playwright takes it."""
    client = Client()
    client.force_login(user)
    return {
        "name": settings.SESSION_COOKIE_NAME,
        "value": client.cookies[settings.SESSION_COOKIE_NAME].value,
        "url": url,
    }


@pytest.fixture
def open_page(browser: Browser, live_server: LiveServer) -> Iterator[OpenPage]:
    """Open pages signed in as a user (None: signed out), laptop or phone, light or dark; paths need no host.

    What a script throws, or the content security policy blocks, fails the test at its end.
    """
    contexts, complaints = [], []

    def opened(user: User | None, *, phone: bool = False, dark: bool = False, **context: Any) -> Page:
        made = browser.new_context(
            base_url=live_server.url,
            viewport=PHONE if phone else LAPTOP,
            has_touch=phone,
            color_scheme="dark" if dark else "light",
            reduced_motion="reduce",
            **context,
        )
        made.set_default_timeout(PATIENCE_MS)
        if user is not None:
            made.add_cookies([session_cookie(user, live_server.url)])  # type: ignore[list-item]  # a plain dict will do
        contexts.append(made)
        page = made.new_page()
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("console", lambda line: complaints.append(line.text) if _blocked(line.text) else None)
        return page

    yield opened
    for made in contexts:
        made.close()
    assert complaints == []


def _blocked(line: str) -> bool:
    return "Content Security Policy" in line


@pytest.fixture
def administrator(transactional_db: None) -> User:
    """An administrator of the site, who may open every page; signs in with PASSWORD."""
    return create_user(username="boss", password=PASSWORD, is_superuser=True)


@pytest.fixture
def page(open_page: OpenPage, administrator: User) -> Page:
    """A laptop's page signed in as the administrator."""
    return open_page(administrator)
