"""How the rounds pages write memory, sizes of models and the names of trainers."""

from django import template
from django.utils.translation import gettext as _

from feedback_app.rounds.hosts import waiting_words
from feedback_app.rounds.models import Round, RoundStep, Trial

register = template.Library()
GIB = 2**30


@register.filter
def gib(size: float | None) -> str:
    """Write bytes in GiB, small ones in MiB; nothing known is a dash."""
    if size is None:
        return "–"
    if size < GIB / 10:
        return _("%(n).0f MiB") % {"n": size / 2**20}
    return _("%(n).1f GiB") % {"n": size / GIB}


@register.filter
def weights(count: int) -> str:
    """Write a model's size as people say it."""
    if count < 1_000_000:
        return f"{count:,}"
    return _("%(n).0f million") % {"n": count / 1e6} if count < 1e9 else _("%(n).1f billion") % {"n": count / 1e9}


@register.filter
def trainer(key: str) -> str:
    """Return what a trainer, or the reward step's second model, is called."""
    return _("reward model that judges") if key == "judge" else str(RoundStep.Name(key).label)


@register.filter
def host(owner: str) -> str:
    """Return the host of a lease's owner: what stands before its process."""
    return owner.rsplit(":", 1)[0]


@register.filter
def waits(row: Round | Trial) -> str:
    """Write which host a queued row waits for and why."""
    return waiting_words(row)
