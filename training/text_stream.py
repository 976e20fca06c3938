"""Tokens to text as they come: a character may take several of them, and its spaces depend on what precedes."""

from collections.abc import Sequence
from typing import Any

# Tokens of the prompt that are decoded along, so that a first word keeps the space before it.
_CONTEXT = 5
_INCOMPLETE = "\ufffd"


class TextStream:
    """Text of one answer; special tokens are left out of it."""

    def __init__(self, tokenizer: Any, special: frozenset[int], prompt: Sequence[int]) -> None:
        self._tokenizer = tokenizer
        self._special = special
        self._ids = list(prompt[-_CONTEXT:])
        self._prefix = 0
        self._read = len(self._ids)
        self.text = ""

    def push(self, token: int, *, last: bool = False) -> str:
        """Add a token and return what it shows: "" while it is a part of a character, unless it is the last."""
        if token in self._special:
            self.text += self._take(force=True)
            self._ids.append(token)
            self._prefix, self._read = self._read, len(self._ids)
            return self._decode([token])
        self._ids.append(token)
        shown = self._take(force=last)
        self.text += shown
        return shown

    def _take(self, *, force: bool) -> str:
        before = self._decode(self._ids[self._prefix : self._read])
        after = self._decode(self._ids[self._prefix :])
        if len(after) <= len(before) or (after.endswith(_INCOMPLETE) and not force):
            return ""
        self._prefix, self._read = self._read, len(self._ids)
        return after[len(before) :]

    def _decode(self, ids: list[int]) -> str:
        return str(self._tokenizer.decode(ids, clean_up_tokenization_spaces=False))
