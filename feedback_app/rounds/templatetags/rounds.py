"""How the rounds pages write figures."""

from typing import Any

from django import template
from django.utils import timezone
from django.utils.translation import gettext as _
from django.utils.translation import ngettext

from feedback_app.rounds.curves import figure
from feedback_app.rounds.models import Round
from feedback_app.serving import soak_words
from training.records import Messages

register = template.Library()
register.filter("soak_says", soak_words.soak_says)
TONES = {
    Round.State.SUCCEEDED: "success",
    Round.State.FAILED: "danger",
    Round.State.REJECTED: "danger",
    Round.State.CANCELLED: "",
}


@register.filter
def digits(value: Any) -> str:
    """Write a number with three digits that matter; nothing measured is a dash."""
    return "–" if value is None else figure(float(value))


@register.filter
def percent(value: Any) -> str:
    """Write a share in per cent."""
    return "–" if value is None else f"{100 * float(value):.0f} %"


@register.filter
def about(seconds: float | None) -> str:
    """Write how long something still takes, no finer than it is known."""
    if seconds is None:
        return ""
    if seconds < 60:
        return _("less than a minute")
    minutes = round(seconds / 60)
    if minutes < 90:
        return ngettext("about %(n)d minute", "about %(n)d minutes", minutes) % {"n": minutes}
    hours = round(seconds / 3600)
    return ngettext("about %(n)d hour", "about %(n)d hours", hours) % {"n": hours}


@register.filter
def took(seconds: float | None) -> str:
    """Write how long something took: 42 s, 3 min 20 s, 2 h 05 min."""
    if seconds is None:
        return ""
    whole = round(seconds)
    if whole < 60:
        return _("%(s)d s") % {"s": whole}
    if whole < 3600:
        return _("%(m)d min %(s)02d s") % {"m": whole // 60, "s": whole % 60}
    return _("%(h)d h %(m)02d min") % {"h": whole // 3600, "m": whole % 3600 // 60}


@register.filter
def tone(held: Round) -> str:
    """Return the tag's colour of a round's state; the word beside it says the same."""
    return TONES.get(Round.State(held.state), "accent")


@register.filter
def lasted(held: Round) -> float | None:
    """Return the seconds that a round took, or has taken so far; None where it has not begun."""
    if held.started_at is None:
        return None
    return ((held.finished_at or timezone.now()) - held.started_at).total_seconds()


@register.filter
def last_words(messages: Messages) -> str:
    """Return what the last turn of a conversation says."""
    return messages[-1]["content"] if messages else ""


@register.filter
def span(seconds: int | None) -> str:
    """Write a schedule's interval in the largest unit that fits it whole."""
    whole = seconds or 0
    if whole and whole % 86400 == 0:
        return ngettext("%(n)d day", "%(n)d days", whole // 86400) % {"n": whole // 86400}
    if whole and whole % 3600 == 0:
        return ngettext("%(n)d hour", "%(n)d hours", whole // 3600) % {"n": whole // 3600}
    minutes = round(whole / 60)
    return ngettext("%(n)d minute", "%(n)d minutes", minutes) % {"n": minutes}


@register.filter
def took_briefly(seconds: float | None) -> str:
    """Write the seconds of a short step with a digit after the point."""
    return "" if seconds is None else _("%(s).1f s") % {"s": seconds}
