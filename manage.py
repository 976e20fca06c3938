#!/usr/bin/env python
"""Run a command of the project; where no DATABASE_URL is set, the embedded services are found or started for it."""

import os
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from pathlib import Path

# Commands that need no database, and so start none.
WITHOUT_SERVICES = {
    "help",
    "version",
    "--help",
    "--version",
    "makemessages",
    "compilemessages",
    "startapp",
    "up",
    "test",
}


def main() -> None:
    """Hold the embedded services up for the time of the command, migrate, then run it."""
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "feedback_app.settings")
    command = sys.argv[1] if len(sys.argv) > 1 else "help"
    embedded = "DATABASE_URL" not in os.environ and command not in WITHOUT_SERVICES
    with _services() if embedded else nullcontext():
        from django.conf import settings
        from django.core.exceptions import ImproperlyConfigured
        from django.core.management import execute_from_command_line

        try:
            _ = settings.PRODUCTION  # reads them: what they lack is said in one line, before any command begins
        except (ImproperlyConfigured, OSError) as error:
            sys.exit(f"{type(error).__name__}: {error}" if isinstance(error, OSError) else str(error))
        if embedded and command not in ("migrate", "makemigrations", "check"):
            from feedback_app.embedded.migrations import migrate_embedded

            migrate_embedded()
        execute_from_command_line(sys.argv)


@contextmanager
def _services() -> Iterator[None]:
    # Imported here: production has no embedded extra.
    from feedback_app.embedded.postgres import PostgresError
    from feedback_app.embedded.services import hold_services
    from feedback_app.embedded.valkey import ValkeyError

    with ExitStack() as held:
        try:
            held.enter_context(hold_services(Path(os.environ.get("DATA_DIR", "var")).resolve()))
        except (PostgresError, ValkeyError, OSError) as error:
            sys.exit(f"The embedded services cannot be had: {error}")
        yield


if __name__ == "__main__":
    main()
