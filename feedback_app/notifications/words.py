"""What is said of an event, in the language that is active."""

from collections.abc import Mapping
from typing import Any

from django.utils.translation import gettext, gettext_noop

from feedback_app.notifications.models import Notification
from feedback_app.sentences import say_sentence

Kind = Notification.Kind
WORDS: dict[str, str] = {
    Kind.ROUND_SUCCEEDED: gettext_noop("Round %(number)s succeeded: %(policy)s is live."),
    Kind.ROUND_REJECTED: gettext_noop("Round %(number)s was rejected: %(why)s"),
    Kind.ROUND_FAILED: gettext_noop("Round %(number)s failed: %(why)s"),
    Kind.ROUND_CANCELLED: gettext_noop("Round %(number)s was cancelled."),
    Kind.ROUND_WAITS: gettext_noop("Round %(number)s has passed its gates and waits for somebody to approve it."),
    Kind.ROUND_ASKS: gettext_noop("Round %(number)s waits for blind comparisons by annotators."),
    Kind.PROMPTS_OUT: gettext_noop("The prompts have run out: every one was sampled. New ones would teach more."),
    Kind.ANNOTATOR_PAUSED: gettext_noop("%(name)s was paused by a rule: %(why)s"),
    Kind.TEST: gettext_noop("A test: whoever asked for it sees that this arrives."),
}
# By what made the version worse.
ROLLED_BACK: dict[str, str] = {
    "errors": gettext_noop(
        "%(policy)s was rolled back by itself to %(previous)s: %(count)s of %(requests)s requests failed."
    ),
    "empty": gettext_noop(
        "%(policy)s was rolled back by itself to %(previous)s: %(count)s of %(requests)s answers were empty."
    ),
    "latency": gettext_noop("%(policy)s was rolled back by itself to %(previous)s: its answers were too slow."),
}


def say(kind: str, values: Mapping[str, Any]) -> str:
    """Return the sentence of an event."""
    words = ROLLED_BACK[values["cause"]] if kind == Kind.ROLLED_BACK else WORDS[kind]
    said = {name: say_sentence(kept) for name, kept in values.get("kept", {}).items()}
    return gettext(words) % {**values, **said}
