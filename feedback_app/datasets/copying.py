"""What a COPY is made of: cells as its text, ids by the thousand, and foreign keys that are checked by the batch."""

import os
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from typing import Any

import numpy
from django.db import IntegrityError, connection, transaction

# What a UUIDv4 has at its 17th digit for each digit that chance put there: two bits are the variant's.
_VARIANT = {digit: "89ab"[int(digit, 16) & 3] for digit in "0123456789abcdef"}
IDS_AT_ONCE = 1000
LINES_SENT = 100
MAY_SET = "SELECT has_parameter_privilege('session_replication_role', 'SET')"
PRIVILEGES_SINCE = 150000  # of PostgreSQL


def copy_rows(table: str, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """COPY rows into a table; columns left out take the database's default."""
    copy_lines(table, columns, ("\t".join(map(cell, row)) + "\n" for row in rows))


def copy_lines(table: str, columns: Sequence[str], lines: Iterable[str]) -> None:
    """COPY rows that are lines already: cells with tabs between, texts escaped by text_cell.

    They are sent as they are made: PostgreSQL stores the first ones meanwhile.
    """
    names = ", ".join(f'"{name}"' for name in columns)
    waiting = iter(lines)
    with connection.cursor() as cursor, cursor.copy(f"COPY {table} ({names}) FROM STDIN") as copy:
        while piece := "".join(islice(waiting, LINES_SENT)):
            copy.write(piece)


def cell(value: object) -> str:
    """Return a value as COPY reads it."""
    if isinstance(value, str):
        return text_cell(value)
    if value is None:
        return "\\N"
    if isinstance(value, bool):
        return "t" if value else "f"
    return str(value)


def text_cell(value: str) -> str:
    """Return a text as COPY reads it."""
    if "\\" in value:
        value = value.replace("\\", "\\\\")
    if "\n" in value:
        value = value.replace("\n", "\\n")
    if "\t" in value:
        value = value.replace("\t", "\\t")
    return value.replace("\r", "\\r") if "\r" in value else value


def array_cell(values: Iterable[int | None]) -> str:
    """Return an array of numbers as COPY reads it."""
    return "{" + ",".join("NULL" if value is None else str(value) for value in values) + "}"


def fresh_ids(at_once: int = IDS_AT_ONCE) -> Iterator[str]:
    """Yield UUIDv4 without end, each draw in rising order; the system is asked for randomness once for many.

    In order, what a batch adds to an index comes to one leaf after the other; anywhere, each id was a cache miss.
    """
    while True:
        drawn = numpy.frombuffer(os.urandom(16 * at_once), dtype=">u8").reshape(at_once, 2)
        digits = drawn[numpy.argsort(drawn[:, 0])].tobytes().hex()
        for at in range(0, len(digits), 32):
            yield (
                f"{digits[at : at + 8]}-{digits[at + 8 : at + 12]}-4{digits[at + 13 : at + 16]}-"
                f"{_VARIANT[digits[at + 16]]}{digits[at + 17 : at + 20]}-{digits[at + 20 : at + 32]}"
            )


def without_order(ids: Iterable[str]) -> list[str]:
    """Return a few ids in an order that says nothing: by their ends, which no draw is sorted by."""
    return sorted(ids, key=_end_of)


def _end_of(pk: str) -> str:
    return pk[19:]


def hold_rows(table: str, ids: Collection[object]) -> None:
    """Keep rows from being deleted until the transaction ends, with the very lock that a foreign key's check takes.

    Raises:
        IntegrityError: one of them is gone.
    """
    with connection.cursor() as cursor:
        query = f"SELECT id FROM {table} WHERE id = ANY(%s) ORDER BY id FOR KEY SHARE"  # names of our own
        cursor.execute(query, [list(ids)])
        if len(cursor.fetchall()) != len(set(ids)):
            raise IntegrityError(f"a row of {table} that new rows name was deleted meanwhile")


@contextmanager
def keys_by_the_batch() -> Iterator[None]:
    """Let rows in without a look-up for each of their foreign keys: in an import, these cost more than the rows.

    Whatever the rows name must be held by hold_rows (or a stronger lock), or be made in this very transaction. Where
    the database's user may not do so (it takes a superuser, or a GRANT SET ON PARAMETER session_replication_role), each
    key is looked up as ever.
    """
    with transaction.atomic():  # an error takes the setting back with everything else
        with connection.cursor() as cursor:
            allowed = cursor.connection.info.server_version >= PRIVILEGES_SINCE and _may_set(cursor)
            if allowed:
                cursor.execute("SET LOCAL session_replication_role = replica")
        yield
        if allowed:
            with connection.cursor() as cursor:
                cursor.execute("SET LOCAL session_replication_role = DEFAULT")


def _may_set(cursor: Any) -> bool:
    cursor.execute(MAY_SET)
    return bool(cursor.fetchone()[0])
