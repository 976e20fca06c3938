"""JSON as strangers send it: read to the letter of the standard, and never at the interpreter's expense."""

import json
from collections.abc import Iterable
from typing import Any, NoReturn

from django.utils.translation import gettext as _

# Deeper than any conversation tree is; what walks a value may recurse that far.
DEEPEST = 200


def parse_json(text: str) -> Any:
    """Read one JSON value; raises ValueError with a reason for people, for a hostile one too."""
    try:
        value = _decode(text)
    except RecursionError:
        raise ValueError(_("nested too deeply")) from None
    if text.count("[") + text.count("{") > DEEPEST:
        check_depth(value)
    return value


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
