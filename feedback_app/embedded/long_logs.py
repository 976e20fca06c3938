"""Logs that are written for months: the end of a long one is put aside, and its writer goes on in the same file."""

import os
from pathlib import Path

LONGEST_LOG_BYTES = 10 * 2**20


def shorten(log: Path) -> bool:
    """Put the end of a long log aside as .old.log and cut it to nothing; say whether it was done.

    For a log whose writer has it open to append. A line written between the copy and the cut is lost.
    """
    try:
        size = log.stat().st_size
    except FileNotFoundError:
        return False
    if size <= LONGEST_LOG_BYTES:
        return False
    fresh = log.with_suffix(".new.log")
    try:
        with log.open("rb") as source:
            source.seek(size - LONGEST_LOG_BYTES)
            fresh.write_bytes(source.read(LONGEST_LOG_BYTES))
        fresh.replace(log.with_suffix(".old.log"))
    finally:
        fresh.unlink(missing_ok=True)  # what a full disk left of it
    os.truncate(log, 0)
    return True


def last_words(log: Path, lines: int = 3) -> str:
    """Return the last lines of a log, however long it is."""
    try:
        with log.open("rb") as source:
            source.seek(max(0, log.stat().st_size - 2**16))
            words = source.read(2**16).decode(errors="replace").strip().splitlines()
    except FileNotFoundError:
        words = []
    return " / ".join(words[-lines:]) or "no log"
