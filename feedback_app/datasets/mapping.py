"""Other people's column names: each moved to ours before a format reads the row."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any

from django.core.exceptions import ValidationError
from django.utils.translation import gettext as _

from feedback_app.annotation.splits import storable
from feedback_app.datasets.formats.base import SourceRow

MOST_COLUMNS = 100
LONGEST_PATH = 200
# A list is made no longer than a task has responses, whatever number stands in a path.
MOST_ITEMS = 9
_NOTHING = object()


def parse_mapping(given: Any) -> dict[str, str]:
    """Return a mapping (their column -> ours) of an object, or of a text such as question=prompt,answer=chosen.

    Both sides may be paths: data.question, responses.0.text. What is mapped to nothing is left out.

    Raises:
        ValidationError: says what cannot be read.
    """
    if isinstance(given, str):
        pairs = [part.partition("=") for part in given.split(",") if part.strip()]
        if any(not sign for _theirs, sign, _ours in pairs):
            raise _invalid(_("their=ours pairs with commas between are needed"))
        given = {theirs.strip(): ours.strip() for theirs, _sign, ours in pairs}
    if not isinstance(given, Mapping) or len(given) > MOST_COLUMNS:
        raise _invalid(_("an object of at most %(most)d columns is needed") % {"most": MOST_COLUMNS})
    for theirs, ours in given.items():
        if not (
            isinstance(theirs, str)
            and isinstance(ours, str)
            and theirs
            and len(theirs + ours) <= LONGEST_PATH
            and storable(theirs + ours)
        ):
            raise _invalid(_("each column needs a name, and the name it has here"))
        if any(part.isdigit() and int(part) >= MOST_ITEMS for part in ours.split(".")):
            raise _invalid(_("%(ours)s: a list has at most %(most)d items") % {"ours": ours, "most": MOST_ITEMS})
    taken = [ours for ours in given.values() if ours]
    for ours in taken:
        if taken.count(ours) > 1 or any(other.startswith(f"{ours}.") for other in taken):
            raise _invalid(_("%(ours)s is filled from two columns") % {"ours": ours})
    return dict(given)


def _invalid(reason: str) -> ValidationError:
    return ValidationError({"mapping": [reason]})


def map_rows(rows: Iterable[SourceRow], mapping: Mapping[str, str]) -> Iterator[SourceRow]:
    """Yield rows with their columns moved to our names; columns that the mapping does not name stay."""
    for row in rows:
        yield replace(row, value=map_row(row.value, mapping)) if isinstance(row.value, dict) and mapping else row


def map_row(value: dict[str, Any], mapping: Mapping[str, str]) -> dict[str, Any]:
    """Return one row so; a column that it has not is not made."""
    mapped: dict[str, Any] = _copied(value)
    # All are taken before any is put: a mapping may exchange two columns.
    taken = {ours: _take(mapped, theirs) for theirs, ours in mapping.items()}
    for ours, part in taken.items():
        if ours and part is not _NOTHING:
            _put(mapped, ours.split("."), part)
    return mapped


def _copied(value: dict[str, Any]) -> dict[str, Any]:
    return {key: _copied(part) if isinstance(part, dict) else part for key, part in value.items()}


def _take(value: dict[str, Any], path: str) -> Any:
    if path in value:  # a column's name may hold dots
        return value.pop(path)
    *above, last = path.split(".")
    inside: Any = value
    for name in above:
        inside = inside.get(name) if isinstance(inside, dict) else None
    return inside.pop(last, _NOTHING) if isinstance(inside, dict) else _NOTHING


def _put(value: Any, path: list[str], part: Any) -> None:
    for name, following in zip(path, [*path[1:], ""], strict=True):
        fresh: Any = part if not following else [] if following.isdigit() else {}
        if isinstance(value, list):
            place = int(name) if name.isdigit() else 0
            value.extend({} for _missing in range(place + 1 - len(value)))
            kept = value[place]
            value[place] = kept if following and isinstance(kept, type(fresh)) and kept else fresh
            value = value[place]
        else:
            kept = value.get(name)
            value[name] = kept if following and isinstance(kept, dict | list) else fresh
            value = value[name]


def columns_of(rows: Iterable[SourceRow]) -> list[str]:
    """Return the columns that rows have, nested ones as paths, in the order they are met."""
    found: dict[str, None] = {}
    for row in rows:
        if isinstance(row.value, dict):
            for name, part in row.value.items():
                inner = [f"{name}.{key}" for key in part] if isinstance(part, dict) and len(part) <= MOST_ITEMS else []
                found |= dict.fromkeys(inner or [name])
    return list(found)[:MOST_COLUMNS]
