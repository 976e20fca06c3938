"""Bring an embedded database to the code's tables before a command runs; nobody should have to ask for it."""

import sys

import django
from django.conf import settings
from django.core.management import call_command
from django.db import connection
from django.db.migrations.executor import MigrationExecutor

from feedback_app.embedded.services import migration_lock


def migrate_embedded() -> None:
    """Apply what is missing, one process at a time; says so on standard error, and nothing when all is there."""
    django.setup()
    with migration_lock(settings.DATA_DIR):
        executor = MigrationExecutor(connection)
        if executor.migration_plan(executor.loader.graph.leaf_nodes()):
            print("Bringing the database up to date ...", file=sys.stderr)
            call_command("migrate", verbosity=0, interactive=False)
