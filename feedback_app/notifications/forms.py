"""Forms of the page of notifications."""

from django import forms
from django.utils.translation import gettext_lazy as _

from feedback_app.notifications.models import CHOICES


class ChoicesForm(forms.Form):
    """What somebody wants by e-mail, and where to."""

    email = forms.EmailField(
        label=_("Your e-mail address"), required=False, max_length=254,
        widget=forms.EmailInput({"autocomplete": "email"}),
    )  # fmt: skip
    kinds = forms.MultipleChoiceField(
        label=_("Write to me when"), choices=CHOICES, required=False, widget=forms.CheckboxSelectMultiple
    )


class WebhookForm(forms.Form):
    """An address, and what it is told of."""

    url = forms.CharField(
        label=_("Address"), max_length=500, widget=forms.URLInput({"placeholder": "https://", "autocomplete": "off"}),
        help_text=_("https; private addresses only where the operator allows them"),
    )  # fmt: skip
    kinds = forms.MultipleChoiceField(
        label=_("Told when"), choices=CHOICES, widget=forms.CheckboxSelectMultiple,
        initial=[value for value, _label in CHOICES],
    )  # fmt: skip
