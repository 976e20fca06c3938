"""JSON as strangers send it: read to the letter of the standard, and never at the interpreter's expense."""

import json
from collections.abc import Iterable
from typing import Any, NoReturn

from django.utils.translation import gettext as _
from django.utils.translation import gettext_noop

# Deeper than any conversation tree is; what walks a value may recurse that far.
DEEPEST = 200
# Python takes some 60 bytes and more for each value, be it two brackets: of sixteen megabytes it makes hundreds. A text
# of so many commas is longer than any that is stored.
MOST_VALUES = 1_000_000
# What Python's reader says of a text, so that it can be said in the reader's language; what is not here stays as it is.
PYTHON_SAYS = (
    gettext_noop("Expecting value"),
    gettext_noop("Expecting property name enclosed in double quotes"),
    gettext_noop("Expecting ':' delimiter"),
    gettext_noop("Expecting ',' delimiter"),
    gettext_noop("Illegal trailing comma before end of object"),
    gettext_noop("Illegal trailing comma before end of array"),
    gettext_noop("Unterminated string starting at"),
    gettext_noop("Invalid control character at"),
    gettext_noop("Invalid \\escape"),
    gettext_noop("Invalid \\uXXXX escape"),
    gettext_noop("Extra data"),
)


def parse_json(text: str) -> Any:
    """Read one JSON value; raises ValueError with a reason for people, for a hostile one too."""
    check_count(text)
    try:
        value = _decode(text)
    except RecursionError:
        raise ValueError(_("nested too deeply")) from None
    except json.JSONDecodeError as error:
        raise ValueError(explain(error)) from None
    if text.count("[") + text.count("{") > DEEPEST:
        check_depth(value)
    return value


def check_count(text: str) -> None:
    """Raise ValueError where a JSON text could hold more than MOST_VALUES, before they take any memory."""
    if len(text) > MOST_VALUES and sum(map(text.count, ",[{")) > MOST_VALUES:
        raise ValueError(_("more than %(most)s values") % {"most": MOST_VALUES})


def explain(error: ValueError) -> str:
    """Return what is wrong with a JSON text, and where, in the reader's language."""
    if not isinstance(error, json.JSONDecodeError):
        return str(error)
    said = error.msg.removesuffix(": ")  # of an escape, Python's message ends so
    reason = _(said) if said in PYTHON_SAYS else said
    return _("%(reason)s: line %(line)s column %(column)s") % {
        "reason": reason, "line": error.lineno, "column": error.colno,
    }  # fmt: skip


def check_depth(value: Any) -> None:
    """Raise ValueError where a value is nested deeper than DEEPEST."""
    level = [value]
    for _depth in range(DEEPEST + 1):
        level = [part for item in level if isinstance(item, dict | list) for part in _inside(item)]
        if not level:
            return
    raise ValueError(_("nested too deeply"))


def _inside(item: dict[str, Any] | list[Any]) -> Iterable[Any]:
    return item.values() if isinstance(item, dict) else item


def refuse_constant(name: str) -> NoReturn:
    """Refuse NaN and the infinities, which Python writes and reads and JSON does not know."""
    raise ValueError(_("%(name)s is no JSON") % {"name": name})


_decode = json.JSONDecoder(parse_constant=refuse_constant).decode
