"""What an import format is made of: it turns a file's rows into judged rows, the one form that is stored."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from django.utils.translation import gettext as _

LONGEST_ROW = 16 * 2**20
# JSON packs to a tenth or so; what unpacks to far more than that is made to fill a memory or a disk.
BOMB_FREE = 256 * 2**20
BOMB_RATIO = 100


class RowRefused(ValueError):
    """A row that cannot be taken; the message names the field."""


class FileRefused(ValueError):
    """A file that cannot be read on; what was read before it stands."""


@dataclass(frozen=True, slots=True)
class SourceRow:
    """One row as a file holds it: its line (or row number), and its value or why there is none.

    size: about how many bytes it took in the file, unpacked; a converter need not keep it.
    """

    line: int
    value: Any = None
    problem: str = ""
    size: int = 0


# A converter yields one judged row, or a problem, for each row or group of rows that it reads.
Converter = Callable[[Iterable[SourceRow]], Iterator[SourceRow]]


def convert_each(convert: Callable[[dict[str, Any]], dict[str, Any]]) -> Converter:
    """Return the converter of a format in which every row stands by itself."""

    def converter(rows: Iterable[SourceRow]) -> Iterator[SourceRow]:
        for row in rows:
            if row.problem:
                yield row
                continue
            try:
                yield SourceRow(row.line, convert(as_object(row.value)))
            except RowRefused as error:
                yield SourceRow(row.line, problem=str(error))

    return converter


def as_object(value: Any) -> dict[str, Any]:
    """Return a row that is an object; raises RowRefused."""
    if not isinstance(value, dict):
        raise RowRefused(_("an object is needed, not %(given)s") % {"given": json_type(value)})
    return value


def json_type(value: Any) -> str:
    """Return what JSON calls the type of a value."""
    if isinstance(value, bool):
        return _("true or false")
    names = {dict: _("an object"), list: _("a list"), str: _("a text"), int: _("a number"), float: _("a number")}
    return "null" if value is None else names.get(type(value), type(value).__name__)
