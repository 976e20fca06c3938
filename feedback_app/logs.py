"""One line for everything that is said: for people, as key=value, or as JSON, with what it is about bound to it."""

import contextlib
import json
import logging
from collections.abc import Iterator
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Any

_bound: ContextVar[dict[str, Any]] = ContextVar("bound", default={})  # noqa: B039  # replaced, never changed


@contextlib.contextmanager
def bound(**values: Any) -> Iterator[None]:
    """Say with every line of the block what it is about: round, fence, step, request, task."""
    token = _bound.set({**_bound.get(), **values})
    try:
        yield
    finally:
        _bound.reset(token)


def bound_values() -> dict[str, Any]:
    """Return what is bound here, to be bound again in a thread: a thread begins with nothing."""
    return _bound.get()


def _at(record: logging.LogRecord) -> str:
    return datetime.fromtimestamp(record.created, tz=UTC).isoformat(timespec="milliseconds")


class LineFormatter(logging.Formatter):
    """For people: the sentence, and what it is about behind it where that does not stand in it already."""

    def format(self, record: logging.LogRecord) -> str:
        first, line_feed, rest = super().format(record).partition("\n")
        about = [f"{key}={value}" for key, value in _bound.get().items()]
        more = " ".join(part for part in about if part not in first)
        return f"{first} [{more}]{line_feed}{rest}" if more else f"{first}{line_feed}{rest}"


class _Fields(logging.Formatter):
    """Give what a line of fields is made of."""

    def fields(self, record: logging.LogRecord) -> dict[str, Any]:
        found: dict[str, Any] = {
            "at": _at(record), "level": record.levelname, "logger": record.name, **_bound.get(),
            "message": record.getMessage(),
        }  # fmt: skip
        if record.exc_info:
            found["exception"] = self.formatException(record.exc_info)
        if record.stack_info:
            found["stack"] = self.formatStack(record.stack_info)
        return found


class JsonFormatter(_Fields):
    """One JSON object a line."""

    def format(self, record: logging.LogRecord) -> str:
        return json.dumps(self.fields(record), ensure_ascii=False, default=str)


class KeyValueFormatter(_Fields):
    """key=value, a value that is no plain word in JSON's quotes: one line whatever is in it."""

    def format(self, record: logging.LogRecord) -> str:
        return " ".join(f"{key}={_word(str(value))}" for key, value in self.fields(record).items())


def _word(text: str) -> str:
    plain = bool(text) and text.isprintable() and not set(text) & set(' "=\\')
    return text if plain else json.dumps(text, ensure_ascii=False)


FORMATTERS: dict[str, dict[str, Any]] = {
    "line": {"()": LineFormatter, "fmt": "{asctime} {levelname} {name} {message}", "style": "{"},
    "keyvalue": {"()": KeyValueFormatter},
    "json": {"()": JsonFormatter},
}
