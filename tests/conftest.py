"""A real PostgreSQL and a real Valkey for the session, in a folder of their own, and a Chromium where there is one."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from django.conf import settings

from feedback_app.embedded.browser import NAMES, find_browser
from feedback_app.embedded.paths import run_dir
from feedback_app.embedded.services import hold_services


@pytest.fixture(scope="session")
def embedded_services() -> Iterator[Path]:
    """Hold both services up for the session; yields their DATA_DIR."""
    with hold_services(settings.DATA_DIR):
        yield settings.DATA_DIR


@pytest.fixture(scope="session")
def django_db_modify_db_settings(embedded_services: Path) -> None:
    """Have the services up before pytest-django makes its database."""


@pytest.fixture(scope="session")
def chromium() -> str:
    """Return the installed browser's path; a machine that should test pages and cannot is an error, not a skip."""
    path = find_browser()
    if path is None:
        raise RuntimeError(f"no browser found (looked for {', '.join(NAMES)}): `make test` says how to get one")
    return path


def pytest_unconfigure() -> None:
    shutil.rmtree(settings.DATA_DIR, ignore_errors=True)
    shutil.rmtree(run_dir(settings.DATA_DIR), ignore_errors=True)
