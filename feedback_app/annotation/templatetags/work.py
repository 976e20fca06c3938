"""How the pages write a span of time."""

from django import template

register = template.Library()


@register.filter
def duration(seconds: float | None) -> str:
    """Write seconds as 0:42, 12:03 or 3 h 20 min; nothing measured is a dash."""
    if seconds is None:
        return "–"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes}:{rest:02}"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02} min"
