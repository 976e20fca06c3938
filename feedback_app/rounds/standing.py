"""How a round stands, in words a manager acts on: what happened, what was kept, and what may be pressed."""

import re
from dataclasses import dataclass
from datetime import datetime, timedelta

from django.utils import timezone
from django.utils.text import capfirst
from django.utils.translation import gettext as _
from django.utils.translation import ngettext

from feedback_app.rounds.blind import UNDECIDED, BlindStanding, blind_standing, waits_for_people
from feedback_app.rounds.hosts import waiting_words
from feedback_app.rounds.models import Round, RoundStep
from feedback_app.rounds.reports import gate_rows, running_step
from feedback_app.rounds.selectors import usable_judgments
from feedback_app.sentences import say_sentence

State = Round.State
# After this a queued round has no worker: a bell is answered at once, and beat rings again every 10 seconds.
UNCLAIMED_AFTER = timedelta(seconds=45)
# A process that the kernel killed, as Python and as a shell tell it.
KILLED = re.compile(r"exit code (-9|137)\b")
# As the kernel says it, and PyTorch of a file that it could write no further.
FULL = re.compile(r"No space left on device|Disk quota exceeded")


@dataclass(frozen=True)
class Standing:
    """What a page says of a round: tone is "", success or danger; acts are the names of what may be pressed."""

    text: str
    tone: str = ""
    acts: tuple[str, ...] = ()


def standing_of(held: Round, now: datetime | None = None) -> Standing:
    """Return how a round with its steps stands."""
    return _SAY[State(held.state)](held, now or timezone.now())


def is_active(held: Round) -> bool:
    """Say whether the page has to look again by itself."""
    return held.state in Round.ACTIVE


def _next(held: Round) -> str:
    step = running_step(held)
    return step.get_name_display() if step else _("its end")


def _kept(held: Round) -> str:
    """Say what stands and is not done again."""
    done = [step.get_name_display() for step in held.steps.all() if step.state == RoundStep.State.DONE]
    if not done:
        return _("Nothing was finished yet.")
    return _("What is finished is kept: %(steps)s.") % {"steps": ", ".join(done)}


def _queued(held: Round, now: datetime) -> Standing:
    if words := waiting_words(held):
        return Standing(words, "", ("pause", "cancel"))
    waited = now - max(moment for moment in (held.created_at, held.lease_until) if moment is not None)
    if waited > UNCLAIMED_AFTER and held.fence == 0:
        text = _("No worker has taken it yet. It starts by itself as soon as one for training runs.")
        return Standing(text, "danger", ("pause", "cancel"))
    return Standing(_("Waiting for a worker; nothing needs to be done."), "", ("pause", "cancel"))


def _running(held: Round, now: datetime) -> Standing:
    if held.cancel_requested:
        return Standing(_("Stopping: within ten seconds. Its checkpoint is kept."))
    if held.lease_until is not None and held.lease_until < now:
        text = _("Its worker has not been heard of. Another goes on from the last checkpoint within half a minute.")
        return Standing(text, "danger", ("cancel",))
    if held.pause_requested:
        return Standing(_("It pauses once %(step)s is finished.") % {"step": _next(held)}, "", ("cancel",))
    return Standing("", "", ("pause", "cancel"))


def _paused(held: Round, now: datetime) -> Standing:
    text = _("Paused; no worker is held. It goes on with %(step)s.") % {"step": _next(held)}
    return Standing(text, "", ("resume", "cancel"))


def _waiting_for_judgments(held: Round, now: datetime) -> Standing:
    if waits_for_people(held) and (blind := blind_standing(held)) is not None:
        return Standing(say_blind(blind), "", ("settle", "reject", "cancel"))
    simulated = held.config["judgments"].get("simulated", "exclude")
    found = usable_judgments(project=held.project, simulated=simulated).count()
    wanted = held.config.get("minimum_judgments", 0)
    text = ngettext(
        "It starts by itself once there is %(wanted)d judgment to learn from; there are %(found)d.",
        "It starts by itself once there are %(wanted)d judgments to learn from; there are %(found)d.",
        wanted,
    ) % {"wanted": wanted, "found": found}
    return Standing(text, "", ("cancel",))


def say_blind(blind: BlindStanding) -> str:
    """Return how the blind comparisons stand, in sentences."""
    if blind.outcome:
        return _("The blind comparisons are over; it goes on within seconds.")
    waits = ngettext(
        "%(n)d blind comparison with the old policy's answers waits in the annotators' queue.",
        "%(n)d blind comparisons with the old policy's answers wait in the annotators' queue.",
        blind.waiting,
    ) % {"n": blind.waiting}
    if blind.share is None:
        nobody = _("Nobody has judged one yet.")
        return f"{waits} {nobody}"
    judged = _(
        "%(judged)d of at most %(wanted)d are judged: it wins %(share)s (95 %% interval %(low)s to %(high)s), and goes"
        " on by itself once the interval lies above or below %(bound)s."
    ) % {
        "judged": blind.judged, "wanted": blind.wanted, "share": f"{blind.share:.0%}", "low": f"{blind.low:.0%}",
        "high": f"{blind.high:.0%}", "bound": f"{blind.bound:.0%}",
    }  # fmt: skip
    return f"{waits} {judged}"


def _waiting_for_approval(held: Round, now: datetime) -> Standing:
    text = _("It has passed every gate and waits for a manager. Until then the old policy answers.")
    if held.gate.get("blind", {}).get("outcome") == UNDECIDED:
        text = _(
            "Annotators found it neither better nor worse for certain: it waits for a manager. Until then the old"
            " policy answers."
        )
    return Standing(text, "", ("approve", "reject", "cancel"))


def _succeeded(held: Round, now: datetime) -> Standing:
    name = held.policy.name if held.policy else ""
    if held.elsewhere:
        went_live = any(step.name == RoundStep.Name.PUSH for step in held.steps.all())
        text = _("Finished: %(policy)s went live.") if went_live else _(
            "Finished: %(policy)s is registered. It serves nobody before it has been put to the gates."
        )  # fmt: skip
        return Standing(text % {"policy": name}, "success")
    return Standing(_("Finished: it made %(policy)s, which went live.") % {"policy": name}, "success")


def _rejected(held: Round, now: datetime) -> Standing:
    broken = "; ".join(f"{row['name']}: {row['said']}" for row in gate_rows(held) if not row["passed"])
    why = broken or (_(held.error) if held.error else "")
    text = _("Not gone live: %(why)s. The old policy goes on answering.") % {"why": why.rstrip(".")}
    return Standing(text, "danger", ("again", "start"))


def _failed(held: Round, now: datetime) -> Standing:
    step = next((s for s in held.steps.all() if s.state == RoundStep.State.FAILED), running_step(held))
    name = step.get_name_display() if step else _("the round")
    why = say_sentence(held.why) if held.why else held.error
    text = _("%(step)s failed: %(why)s") % {"step": capfirst(name), "why": why.rstrip(".")}
    hint = ""
    if FULL.search(held.error):
        hint = _("The disk is full: make room, and let it go on from its last checkpoint.")
    if KILLED.search(held.error):
        hint = _("It was killed, most likely for want of memory: a smaller batch, shorter texts or LoRA need less.")
    return Standing(" ".join(filter(None, (f"{text}.", hint, _kept(held)))), "danger", ("retry", "again"))


def _cancelled(held: Round, now: datetime) -> Standing:
    text = _("Cancelled. Its checkpoint is kept: it can go on from there.")
    return Standing(f"{text} {_kept(held)}", "", ("retry", "again"))


_SAY = {
    State.QUEUED: _queued,
    State.RUNNING: _running,
    State.PAUSED: _paused,
    State.WAITING_FOR_JUDGMENTS: _waiting_for_judgments,
    State.WAITING_FOR_APPROVAL: _waiting_for_approval,
    State.SUCCEEDED: _succeeded,
    State.REJECTED: _rejected,
    State.FAILED: _failed,
    State.CANCELLED: _cancelled,
}
