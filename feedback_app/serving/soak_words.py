"""What is said of a version that is or was watched, in the reader's language."""

from django.utils.formats import date_format
from django.utils.timezone import localtime
from django.utils.translation import gettext as _

from feedback_app.serving.models import Soak


def soak_says(soak: Soak) -> str:
    """Return one sentence or two on how the watching goes or went."""
    if soak.state == Soak.State.ROLLED_BACK:
        return _("Rolled back by itself to %(previous)s: %(why)s.") % {
            "previous": soak.previous.name, "why": cause_says(soak)
        }  # fmt: skip
    figures = soak.figures.get("live")
    if soak.state == Soak.State.WATCHING:
        until = date_format(localtime(soak.until), "TIME_FORMAT")
        text = _("Watched until %(until)s beside %(previous)s.") % {"until": until, "previous": soak.previous.name}
    elif soak.state == Soak.State.PASSED:
        text = _("It held while it was watched beside %(previous)s.") % {"previous": soak.previous.name}
    else:
        text = _("Another push or rollback ended the watching.")
    if figures:
        counts = {"requests": figures["requests"], "errors": figures["errors"], "empty": figures["empty"]}
        text += " " + _("Requests: %(requests)d, failed %(errors)d, empty %(empty)d.") % counts
    if soak.trouble:
        text += " " + _("It should be rolled back and could not be: %(why)s.") % {"why": soak.trouble.rstrip(".")}
    return text


def cause_says(soak: Soak) -> str:
    """Return why a version was taken back, with the figures of both."""
    live, previous = soak.figures["live"], soak.figures["previous"]
    if soak.cause == Soak.Cause.LATENCY:
        return _("the slowest answers took %(mine).2f s against %(theirs).2f s") % {
            "mine": live["p95"], "theirs": previous["p95"]
        }  # fmt: skip
    name = str(soak.cause)
    words = (
        _("%(n)d of %(of)d requests failed, against %(m)d of %(before)d")
        if name == Soak.Cause.ERRORS
        else _("%(n)d of %(of)d answers were empty, against %(m)d of %(before)d")
    )
    return words % {"n": live[name], "of": live["requests"], "m": previous[name], "before": previous["requests"]}
