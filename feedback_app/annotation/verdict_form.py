"""A verdict as a plain form: for reviewers who overrule and managers who make gold, with or without JavaScript."""

from collections.abc import Mapping, Sequence
from typing import Any

from django import forms
from django.utils.translation import get_language
from django.utils.translation import gettext_lazy as _

from feedback_app.projects.protocols import Protocol

LETTERS = "ABCDEFGHI"


class VerdictForm(forms.Form):
    """Asks what the protocol asks, one row a response; `body` is what parse_verdict reads."""

    def __init__(self, data: Any = None, *, protocol: Protocol, responses: Sequence[str], prefix: str = "") -> None:
        super().__init__(data, prefix=prefix or None)
        self.protocol, self.responses = protocol, list(responses)
        for place in range(len(self.responses)):
            self._add_row(place)
        if protocol.strength != "off" and len(self.responses) == 2:
            self.fields["strength"] = forms.TypedChoiceField(
                label=_("How much better"), coerce=int, empty_value=None, required=protocol.strength == "required",
                choices=[("", "–"), *enumerate(protocol.strength_steps(get_language()))],
            )  # fmt: skip

    def _add_row(self, place: int) -> None:
        letter = LETTERS[place]
        if self.protocol.ranking != "off":
            self.fields[f"rank_{place}"] = forms.TypedChoiceField(
                label=_("Place of %(letter)s") % {"letter": letter}, coerce=int, empty_value=None,
                required=self.protocol.ranking == "required" and not self.protocol.partial,
                choices=[("", "–"), *((n, str(n + 1)) for n in range(len(self.responses)))],
            )  # fmt: skip
        for attribute in self.protocol.attributes:
            label = self.protocol.label_of(attribute, get_language())
            self.fields[f"rating_{place}_{attribute.key}"] = forms.TypedChoiceField(
                label=f"{letter}: {label}", coerce=int, empty_value=None, required=attribute.required,
                choices=[("", "–"), *((n, str(n)) for n in range(attribute.minimum, attribute.maximum + 1))],
            )  # fmt: skip

    def body(self) -> dict[str, Any]:
        """Return the verdict as the API takes it; the form must be valid."""
        given: Mapping[str, Any] = self.cleaned_data
        body: dict[str, Any] = {}
        tiers: dict[int, list[str]] = {}
        for place, response in enumerate(self.responses):
            if (rank := given.get(f"rank_{place}")) is not None:
                tiers.setdefault(rank, []).append(response)
        if tiers:
            body["ranking"] = [tiers[rank] for rank in sorted(tiers)]
        ratings = {
            response: {
                attribute.key: score
                for attribute in self.protocol.attributes
                if (score := given.get(f"rating_{place}_{attribute.key}")) is not None
            }
            for place, response in enumerate(self.responses)
        }
        if any(ratings.values()):
            body["ratings"] = {response: scores for response, scores in ratings.items() if scores}
        if given.get("strength") is not None:
            body["strength"] = given["strength"]
        return body
