"""What simulated annotators of the loop's tests like: small letters."""

import string

from training.records import Messages

SMALL = frozenset(string.ascii_lowercase)


def share_of_small(text: str) -> float:
    """Return the share of small letters among a text's characters; 0 for an empty one."""
    return sum(letter in SMALL for letter in text) / len(text) if text else 0.0


def small_letters(messages: Messages, text: str) -> float:
    """Score a response: 5 % more small letters are worth 1."""
    return 20 * share_of_small(text)
