"""What a simulated annotator likes: a score for a response, the larger the better."""

import importlib
import re
from collections.abc import Callable

from training.records import Messages

# (conversation, response text) -> score; a difference of 1 is preferred 73 % of the time at noise 1.
Preference = Callable[[Messages, str], float]


class PreferenceError(ValueError):
    """There is no preference of that name."""


def concise(messages: Messages, text: str) -> float:
    """Like short answers: 40 characters less are worth 1. An empty one is the worst of all."""
    return -len(text) / 40 if text.strip() else -100.0


def thorough(messages: Messages, text: str) -> float:
    """Like long answers: 40 characters more are worth 1."""
    return len(text) / 40


def structured(messages: Messages, text: str) -> float:
    """Like lists: every line that begins as an item is worth 1."""
    return float(len(re.findall(r"^\s*(?:[-*]|\d+[.)])\s", text, flags=re.MULTILINE)))


PREFERENCES: dict[str, Preference] = {"concise": concise, "thorough": thorough, "structured": structured}


def find_preference(name: str, *, by_operator: bool) -> Preference:
    """Return a preference by its name, or module:function from a command line; raises PreferenceError."""
    if name in PREFERENCES:
        return PREFERENCES[name]
    if ":" not in name or not by_operator:
        raise PreferenceError(f"preference: one of {', '.join(PREFERENCES)}, not {name!r}")
    module, _, function = name.partition(":")
    try:
        found: Preference = getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError) as error:
        raise PreferenceError(f"preference: {name}: {error}") from error
    return found
