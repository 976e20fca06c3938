"""JSON as strangers send it: read to the letter of the standard, and never at the interpreter's expense."""

import json
from typing import Any, NoReturn


def parse_json(text: str) -> Any:
    """Read one JSON value; raises ValueError with a reason for people, for a hostile one too."""
    try:
        return json.loads(text, parse_constant=refuse_constant)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def refuse_constant(name: str) -> NoReturn:
    """Refuse NaN and the infinities, which Python writes and reads and JSON does not know."""
    raise ValueError(f"{name} is no JSON")
