"""The protocol editor: fields and rows on the page, one JSON object behind them, read by parse_protocol alone."""

from collections.abc import Mapping
from typing import Any

from django import forms
from django.http import QueryDict
from django.utils.translation import gettext_lazy as _
from django.utils.translation import pgettext_lazy

from feedback_app.projects.protocols import Protocol, ProtocolError, parse_protocol

NEED = (("required", _("required")), ("optional", _("optional")), ("off", _("not asked")))
MOST_ROWS = 30
ONE_A_LINE = {"rows": 3, "spellcheck": "false"}


class ProtocolForm(forms.Form):
    """The protocol's own fields."""

    name = forms.CharField(label=_("Name of the protocol"), max_length=100)
    min_responses = forms.IntegerField(label=_("Fewest answers"), min_value=2, max_value=9, initial=2)
    max_responses = forms.IntegerField(label=_("Most answers"), min_value=2, max_value=9, initial=2)
    ranking = forms.ChoiceField(label=_("Ranking"), choices=NEED)
    ties = forms.BooleanField(label=_("Ties are allowed"), required=False, initial=True)
    partial = forms.BooleanField(label=_("Answers may be left out of the ranking"), required=False)
    all_bad = forms.BooleanField(label=_("“All bad” can be said"), required=False, initial=True)
    strength = forms.ChoiceField(label=_("Strength of the preference"), choices=NEED, initial="off")
    strength_levels = forms.IntegerField(label=_("Steps of strength"), min_value=1, max_value=3, initial=3)
    strength_labels = forms.CharField(
        label=_("Names of the steps"), required=False, widget=forms.Textarea(ONE_A_LINE),
        help_text=_("one a line, from 0 (as good) up; empty: numbers"),
    )  # fmt: skip
    two_sided = forms.BooleanField(
        label=_("Ranking and strength are one scale"), required=False,
        help_text=_("from A much better to B much better, chosen in one press"),
    )  # fmt: skip
    rationale = forms.ChoiceField(label=_("Reasons in words"), choices=NEED, initial="optional")
    rewrites = forms.BooleanField(label=_("An answer may be rewritten"), required=False)
    translations = forms.CharField(
        label=_("These words in other languages"), required=False, widget=forms.Textarea(ONE_A_LINE | {"rows": 5}),
        help_text=_("one a line, of steps, labels or descriptions, as zh-hans: better = 更好"),
    )  # fmt: skip

    def clean_translations(self) -> dict[str, dict[str, str]]:
        """Return the lines by language; one that is no translation is named."""
        read: dict[str, dict[str, str]] = {}
        for line in _lines(self.cleaned_data["translations"]):
            language, _colon, words = line.partition(":")
            text, equals, translated = (part.strip() for part in words.partition(" = "))
            if not (equals and text and translated):
                raise forms.ValidationError(
                    _("not of the form language: words = translation: %(line)s") % {"line": line}
                )
            read.setdefault(language.strip(), {})[text] = translated
        return read


class AttributeForm(forms.Form):
    """One row of scores; without a key it is an empty row and means nothing."""

    key = forms.CharField(label=pgettext_lazy("of a score or flag", "Key"), required=False, max_length=64)
    label = forms.CharField(label=_("Label"), required=False, max_length=200)
    minimum = forms.IntegerField(label=_("From"), initial=0, min_value=0, max_value=9)
    maximum = forms.IntegerField(label=_("To"), initial=4, min_value=1, max_value=10)
    letter = forms.CharField(label=_("Letter key"), required=False, max_length=1)
    required = forms.BooleanField(label=_("Required"), required=False, initial=True)
    anchors = forms.CharField(
        label=_("What steps mean"), required=False, widget=forms.Textarea(ONE_A_LINE), help_text=_("step: words")
    )
    labels = forms.CharField(
        label=_("Label in other languages"), required=False, widget=forms.Textarea(ONE_A_LINE | {"rows": 2}),
        help_text=_("language: words"),
    )  # fmt: skip


class FlagForm(forms.Form):
    """One flag; without a name it is an empty row and means nothing."""

    name = forms.CharField(label=pgettext_lazy("of a score or flag", "Key"), required=False, max_length=64)
    label = forms.CharField(label=_("Label"), required=False, max_length=200)
    description = forms.CharField(label=_("Description"), required=False, max_length=500)
    letter = forms.CharField(label=_("Letter key"), required=False, max_length=1)
    labels = forms.CharField(
        label=_("Label in other languages"), required=False, widget=forms.Textarea(ONE_A_LINE | {"rows": 2}),
        help_text=_("language: words"),
    )  # fmt: skip


AttributeFormSet = forms.formset_factory(AttributeForm, extra=0, can_delete=True, max_num=MOST_ROWS)
FlagFormSet = forms.formset_factory(FlagForm, extra=0, can_delete=True, max_num=MOST_ROWS)


class ProtocolEditor:
    """The three forms together; protocol is what they describe once valid() has said yes."""

    def __init__(self, *, data: QueryDict | None = None, spec: Mapping[str, Any] | None = None) -> None:
        given = _with_added_rows(data) if data is not None else None
        initial = _as_fields(spec or {})
        self.form = ProtocolForm(given, initial=initial["form"])
        self.attributes = AttributeFormSet(given, initial=initial["attributes"], prefix="attributes")
        self.flags = FlagFormSet(given, initial=initial["flags"], prefix="flags")
        self.protocol: Protocol | None = None

    def valid(self) -> bool:
        """Read the protocol; False leaves the reason at the field or row it is about."""
        if not all([self.form.is_valid(), self.attributes.is_valid(), self.flags.is_valid()]):
            return False
        spec: dict[str, Any] = {
            **self.form.cleaned_data,
            "strength_labels": _lines(self.form.cleaned_data["strength_labels"]),
            "attributes": [_attribute(row) for row in _rows(self.attributes, "key")],
            "flags": [_flag(row) for row in _rows(self.flags, "name")],
        }
        try:
            self.protocol = parse_protocol(spec)
        except ProtocolError as error:
            self._place(error)
            return False
        return True

    def _place(self, error: ProtocolError) -> None:
        if error.field_name in self.form.fields:
            self.form.add_error(error.field_name, error.reason)
        else:
            self.form.add_error(None, f"{error.field_name}: {error.reason}")


def _with_added_rows(data: QueryDict) -> QueryDict:
    """Return the data with one more empty row where its button was pressed."""
    wanted = {"add_attribute": "attributes", "add_flag": "flags"}.get(data.get("do", ""))
    if wanted is None:
        return data
    copy = data.copy()
    total = f"{wanted}-TOTAL_FORMS"
    row = int(copy.get(total) or 0)
    copy[total] = str(min(row + 1, MOST_ROWS))
    if wanted == "attributes":
        copy.update({f"attributes-{row}-minimum": "0", f"attributes-{row}-maximum": "4"})
        copy[f"attributes-{row}-required"] = "on"
    return copy


def _as_fields(spec: Mapping[str, Any]) -> dict[str, Any]:
    """Return a protocol's JSON as initial values of the forms."""
    return {
        "form": {
            **spec,
            "strength_labels": "\n".join(spec.get("strength_labels", ())),
            "translations": "\n".join(
                f"{language}: {text} = {translated}"
                for language, words in spec.get("translations", {}).items()
                for text, translated in words.items()
            ),
        },
        "attributes": [
            {**part, "anchors": _as_lines(part.get("anchors")), "labels": _as_lines(part.get("labels"))}
            for part in spec.get("attributes", ())
        ],
        "flags": [{**part, "labels": _as_lines(part.get("labels"))} for part in spec.get("flags", ())],
    }


def _as_lines(words: Mapping[str, str] | None) -> str:
    return "\n".join(f"{name}: {text}" for name, text in (words or {}).items())


def _lines(text: str) -> list[str]:
    return [line.strip() for line in text.splitlines() if line.strip()]


def _words(text: str) -> dict[str, str]:
    """Return `name: words` lines as an object; a line without a colon names a step without words."""
    parts = [line.partition(":") for line in _lines(text)]
    return {name.strip(): words.strip() for name, _colon, words in parts}


def _rows(formset: Any, key: str) -> list[dict[str, Any]]:
    return [row for row in formset.cleaned_data if row.get(key) and not row.get("DELETE")]


def _attribute(row: dict[str, Any]) -> dict[str, Any]:
    return {
        "key": row["key"], "label": row["label"] or row["key"], "minimum": row["minimum"], "maximum": row["maximum"],
        "letter": row["letter"].lower(), "required": row["required"], "anchors": _words(row["anchors"]),
        "labels": _words(row["labels"]),
    }  # fmt: skip


def _flag(row: dict[str, Any]) -> dict[str, Any]:
    return {
        "name": row["name"], "label": row["label"] or row["name"], "description": row["description"],
        "letter": row["letter"].lower(), "labels": _words(row["labels"]),
    }  # fmt: skip
