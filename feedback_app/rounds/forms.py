"""Forms of the rounds pages."""

from typing import Any

from django import forms
from django.utils.translation import gettext_lazy as _

from feedback_app.rounds.models import RoundStep, Schedule
from feedback_app.rounds.simulation.jobs import MOST_ANNOTATORS, MOST_JUDGMENTS, MOST_NOISE

PREFERENCE_WORDS = (
    ("concise", _("short answers")),
    ("thorough", _("long answers")),
    ("structured", _("answers with lists")),
)


class StartForm(forms.Form):
    """Start a round by the project's recipe."""

    simulated = forms.BooleanField(label=_("Learn from simulated judgments too"), required=False)


class RejectForm(forms.Form):
    """Why a policy does not go live."""

    reason = forms.CharField(
        label=_("Reason"), max_length=2000, widget=forms.Textarea({"rows": 2}),
        help_text=_("kept with the round, for whoever asks later"),
    )  # fmt: skip


class RetryForm(forms.Form):
    """From which step on a round is done again; empty goes on where it ended."""

    step = forms.ChoiceField(
        label=_("Do again from"),
        choices=[("", _("where it ended")), *(choice for choice in RoundStep.Name.choices if choice[0] != "adopt")],
        required=False,
    )


class ScheduleForm(forms.Form):
    """When rounds start by themselves; each kind reads its own field."""

    kind = forms.ChoiceField(label=_("Start"), choices=Schedule.Kind.choices)
    judgments = forms.IntegerField(label=_("N judgments"), required=False, min_value=1, initial=200)
    hours = forms.FloatField(
        label=_("Hours between starts"),
        required=False,
        min_value=0.1,
        initial=24,
        widget=forms.NumberInput({"step": "any"}),
    )
    cron = forms.CharField(
        label=_("Calendar (cron)"), required=False, max_length=100, initial="0 2 * * 1-5",
        help_text=_("minute hour day month weekday, in UTC: 0 2 * * 1-5 is two at night from Monday to Friday"),
    )  # fmt: skip
    minimum_judgments = forms.IntegerField(
        label=_("New judgments at least"), min_value=0, initial=50, help_text=_("fewer, and the start waits for them")
    )

    # Where a service's refusal of `every` is shown.
    FIELD_OF = {Schedule.Kind.JUDGMENTS: "judgments", Schedule.Kind.INTERVAL: "hours", Schedule.Kind.CRON: "cron"}

    def clean(self) -> dict[str, Any]:
        """Ask for the field of the chosen kind."""
        cleaned = self.cleaned_data
        name = self.FIELD_OF.get(cleaned.get("kind", ""))
        if name and name not in self.errors and not cleaned.get(name):
            self.add_error(name, _("is needed for this kind"))
        return cleaned

    def every(self) -> int | None:
        """Return what the kind counts: judgments, or seconds."""
        match self.cleaned_data["kind"]:
            case Schedule.Kind.JUDGMENTS:
                return int(self.cleaned_data["judgments"])
            case Schedule.Kind.INTERVAL:
                return int(3600 * self.cleaned_data["hours"])
            case _:
                return None


class SimulateForm(forms.Form):
    """Simulated annotators with a stated preference; only ours, never code from a page."""

    judgments = forms.IntegerField(label=_("Judgments"), min_value=1, max_value=MOST_JUDGMENTS, initial=100)
    annotators = forms.IntegerField(label=_("Annotators"), min_value=1, max_value=MOST_ANNOTATORS, initial=3)
    preference = forms.ChoiceField(label=_("They prefer"), choices=PREFERENCE_WORDS)
    noise = forms.FloatField(
        label=_("Noise"), min_value=0, max_value=MOST_NOISE, initial=1.0, widget=forms.NumberInput({"step": "any"}),
        help_text=_("0: always what they prefer"),
    )  # fmt: skip
