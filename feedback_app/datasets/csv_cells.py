"""Values as CSV cells and back: no spreadsheet takes one for a formula, and what was written is what is read."""

import json
from typing import Any

from feedback_app.datasets.json_values import parse_json

# Spreadsheets run a cell that begins with one of these (OWASP, CSV injection); a quote before it makes it text.
FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")
GUARD = "'"


def write_cell(value: Any) -> Any:
    """Return a value as a CSV cell: lists and objects as JSON, texts made safe from being run as formulas."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, dict | list):
        return json.dumps(value, ensure_ascii=False)
    if isinstance(value, str) and value.lstrip(GUARD).startswith(FORMULA_STARTS):
        return GUARD + value
    return value


def read_cell(text: str) -> Any:
    """Return a cell's value: a list or an object where it holds one as JSON, None where it is empty."""
    if text[:1] in ("[", "{"):
        try:
            return parse_json(text)
        except ValueError:
            return text  # a text that happens to begin with a bracket
    if text.startswith(GUARD) and text.lstrip(GUARD).startswith(FORMULA_STARTS):
        return text[1:]
    return text or None
