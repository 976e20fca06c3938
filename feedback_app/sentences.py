"""Sentences that a worker keeps, said again in the language of whoever reads them."""

from collections.abc import Mapping
from typing import Any

from django.utils.translation import gettext


class SaidError(RuntimeError):
    """An error whose message is for people: in English as it is logged, and kept so that each reads it in theirs."""

    def __init__(self, words: str, **values: object) -> None:
        """Make one of words, marked by gettext_noop, and of what stands in them."""
        self.kept = keep_sentence(words, **values)
        super().__init__(self.kept["said"])


def keep_sentence(words: str, **values: object) -> dict[str, Any]:
    """Return a sentence as it is kept: in English, and what it was made of; words are marked by gettext_noop."""
    return {"said": words % values if values else words, "words": words, "values": values}


def say_sentence(kept: Mapping[str, Any]) -> str:
    """Return a kept sentence in the reader's language; one kept without its parts as it was said."""
    if "words" not in kept:
        return str(kept["said"])
    words = gettext(kept["words"])
    return words % kept["values"] if kept["values"] else words
