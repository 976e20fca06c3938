"""Prompts alone, plain or as messages: they wait to be sampled."""

from typing import Any

from django.utils.translation import gettext as _

from feedback_app.datasets.formats.base import RowRefused, convert_each

# The names under which datasets keep what a model is asked.
NAMES = ("prompt", "messages", "instruction", "question", "text")
KEPT = ("external_id", "language", "source")


def convert_row(row: dict[str, Any]) -> dict[str, Any]:
    """Return the prompt's row; Alpaca's input follows its instruction after an empty line."""
    found = next((name for name in NAMES if row.get(name) is not None), None)
    if found is None:
        raise RowRefused(_("prompt: is needed (also taken: %(names)s)") % {"names": ", ".join(NAMES[1:])})
    prompt = row[found]
    if found == "instruction" and isinstance(prompt, str) and row.get("input"):
        prompt = f"{prompt}\n\n{row['input']}"
    return {"prompt": prompt, **{name: row[name] for name in KEPT if row.get(name) is not None}}


convert = convert_each(convert_row)
