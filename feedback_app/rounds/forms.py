"""Forms of the rounds pages."""

from django import forms
from django.utils.translation import gettext_lazy as _

from feedback_app.rounds.models import RoundStep


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
        label=_("Do again from"), choices=[("", _("where it ended")), *RoundStep.Name.choices], required=False
    )
