"""Run everything on this machine."""

import os
from argparse import ArgumentParser
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError

from feedback_app.embedded.postgres import PostgresError
from feedback_app.embedded.supervisor import CannotStart, Supervisor
from feedback_app.embedded.valkey import ValkeyError


class Command(BaseCommand):
    help = "Run PostgreSQL, Valkey, the pages, the workers and the inference server until Ctrl-C."
    requires_system_checks: list[str] = []

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--port", type=int, default=int(os.environ.get("PORT", "8000")))

    def handle(self, *args: Any, **options: Any) -> None:
        if settings.PRODUCTION:
            raise CommandError("DATABASE_URL is set: `up` is for a machine that has no services of its own")
        try:
            Supervisor(settings.DATA_DIR, options["port"]).run()
        except (CannotStart, PostgresError, ValkeyError, OSError) as error:
            raise CommandError(str(error)) from error
