"""A check of a gate as it is kept: what was looked at, whether it holds, and a sentence."""

from typing import Any

from feedback_app.sentences import keep_sentence


def make_check(name: str, passed: bool, words: str, **values: str) -> dict[str, Any]:
    """Return a check; words are marked by gettext_noop."""
    return {"name": name, "passed": bool(passed), **keep_sentence(words, **values)}


def in_percent(shares: dict[str, float]) -> dict[str, str]:
    """Return shares as a sentence says them."""
    return {key: f"{share:.0%}" for key, share in shares.items()}
