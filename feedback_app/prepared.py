"""The few statements that every request waits for, prepared once a connection: planning costs more than running."""

from collections.abc import Mapping
from typing import Any

import psycopg
from django.db import connection


def fetch_prepared(statement: str, values: Mapping[str, Any]) -> tuple[Any, ...] | None:
    """Run a statement on Django's connection, in its transaction, and return its first row.

    Values are bound by the server. Django's own cursors bind on the client and never prepare; the threshold that is set
    here is therefore nobody else's. None where the statement returns no row.
    """
    connection.ensure_connection()
    raw = connection.connection
    raw.prepare_threshold = 1
    with connection.wrap_database_errors, psycopg.Cursor(raw) as cursor:
        cursor.execute(statement, values, prepare=True)
        # cursor.description would say the same, but makes an object of every column.
        return cursor.fetchone() if cursor.pgresult and cursor.pgresult.nfields else None
