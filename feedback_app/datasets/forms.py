"""Forms of the data pages; what they take is checked by the same reader as an address or a command line."""

import io
import json
from collections.abc import Iterable, Mapping
from dataclasses import fields
from typing import IO, Any, cast

from django import forms
from django.core.exceptions import ValidationError
from django.db.models import TextChoices
from django.utils.translation import gettext_lazy as _

from feedback_app.datasets.browsing import ExampleFilter
from feedback_app.datasets.exporting.options import ExportOptions, OptionsError, parse_options
from feedback_app.datasets.exporting.rows import attribute_bounds
from feedback_app.datasets.services.asking import VERSION_FILE_TYPES
from feedback_app.projects.models import Project
from feedback_app.projects.protocols import parse_protocol

EXPORT_FORMATS = (
    ("preference", _("Preference pairs: prompt, chosen, rejected")),
    ("implicit", _("Preference pairs as whole dialogues (hh-rlhf)")),
    ("unpaired", _("Single answers, good or bad (KTO)")),
    ("ranked", _("Ranked answers: prompt, responses, ranks")),
    ("ratings", _("Attribute scores (HelpSteer2)")),
    ("sft", _("Rewrites for supervised fine-tuning")),
    ("oasst", _("Message trees (OASST)")),
    ("judgments", _("Judged rows: everything, readable back")),
)
FILES = (("jsonl", "JSON lines"), ("parquet", "Parquet"), ("csv", "CSV"))
SPLITS = (
    ("", _("as the format says (train for trainers)")), ("train", _("train")), ("validation", _("validation")),
    ("test", _("test")), ("all", _("all")),
)  # fmt: skip
SIMULATED = (("exclude", _("leave out")), ("include", _("take too")), ("only", _("take only these")))
COMBINE = (
    ("per_judgment", _("one example a judgment")),
    ("majority", _("majority of a task's judgments")),
    ("weighted", _("majority, weighted by agreement")),
)
PAIRS = (
    ("all", _("all pairs")), ("adjacent", _("neighbouring tiers")), ("best_worst", _("best against worst")),
    ("one_per_prompt", _("one a prompt")),
)  # fmt: skip
MARGIN = (("small", _("strength / 3")), ("large", _("strength")), ("none", _("none")))
TIES = (("drop", _("leave out")), ("both", _("both ways, half the weight")))
ALL_BAD = (("keep", _("keep")), ("drop", _("leave out")))
ADJUDICATED = (
    ("replace", _("the reviewer's verdict alone")), ("ignore", _("the judgments as given")),
    ("only", _("only these tasks")),
)  # fmt: skip


class Do(TextChoices):
    """What the export form's buttons ask for."""

    DOWNLOAD = "download", _("Download")
    PREVIEW = "preview", _("Show the first rows")
    FREEZE = "freeze", _("Freeze as a dataset version")


class ExportForm(forms.Form):
    """A format, a file type, and every filter and rule of ExportOptions."""

    format = forms.ChoiceField(label=_("Format"), choices=EXPORT_FORMATS)
    file = forms.ChoiceField(label=_("File"), choices=FILES)
    split = forms.ChoiceField(label=_("Split"), choices=SPLITS, required=False)
    since = forms.DateField(label=_("Judged since"), required=False, widget=forms.DateInput({"type": "date"}))
    until = forms.DateField(label=_("Judged before"), required=False, widget=forms.DateInput({"type": "date"}))
    annotators = forms.CharField(label=_("Annotators"), required=False, help_text=_("user names; empty: all"))
    policies = forms.CharField(label=_("Policy versions"), required=False, help_text=_("names; empty: all"))
    languages = forms.CharField(label=_("Languages"), required=False, help_text=_("tags, such as en; empty: all"))
    minimum_strength = forms.IntegerField(label=_("Strength at least"), initial=0, min_value=0, max_value=3)
    minimum_agreement = forms.FloatField(
        label=_("Agreement at least"), initial=0, min_value=0, max_value=1, widget=forms.NumberInput({"step": "0.05"}),
        help_text=_("share of annotators who agree; tasks judged once pass"),
    )  # fmt: skip
    without_flags = forms.CharField(label=_("Without answers flagged"), required=False)
    simulated = forms.ChoiceField(label=_("Simulated judgments"), choices=SIMULATED)
    truncated = forms.BooleanField(
        label=_("Take answers cut off by length too"), required=False,
        help_text=_("rewrites are taken in any case, of flagged answers too: they are a person's own finished text"),
    )  # fmt: skip
    combine = forms.ChoiceField(label=_("From many judgments"), choices=COMBINE)
    pairs = forms.ChoiceField(label=_("Pairs of a ranking"), choices=PAIRS)
    margin = forms.ChoiceField(label=_("Margin"), choices=MARGIN)
    ties = forms.ChoiceField(label=_("Ties"), choices=TIES)
    all_bad = forms.ChoiceField(label=_("Rankings marked all bad"), choices=ALL_BAD)
    adjudicated = forms.ChoiceField(label=_("Tasks a reviewer decided"), choices=ADJUDICATED)
    rating_weights = forms.CharField(
        label=_("Weights of scores"), required=False, help_text=_("such as helpfulness:1, verbosity:-0.4")
    )
    rating_gap = forms.FloatField(label=_("Smallest gap of scores"), initial=0, min_value=0)
    policy_decay = forms.FloatField(
        label=_("Weight of older policies"), initial=1, min_value=0, max_value=1,
        widget=forms.NumberInput({"step": "0.05"}), help_text=_("factor for each version back"),
    )  # fmt: skip

    # In the order of the page.
    MAIN = ("format", "file", "split")
    FILTERS = (
        "since", "until", "annotators", "policies", "languages", "minimum_strength", "minimum_agreement",
        "without_flags", "simulated", "truncated",
    )  # fmt: skip
    RULES = (
        "combine", "pairs", "margin", "ties", "all_bad", "adjudicated", "rating_weights", "rating_gap", "policy_decay",
    )  # fmt: skip

    def __init__(self, *args: Any, project: Project, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if project.protocol is not None:
            flags = [flag.name for flag in parse_protocol(project.protocol.spec).flags]
            self.fields["without_flags"].help_text = ", ".join(flags) or _("this protocol has no flags")
        if not attribute_bounds(project):
            for name in ("rating_weights", "rating_gap"):
                self.fields[name].widget = forms.HiddenInput()

    @classmethod
    def filled(cls, *, project: Project, format: str, file_type: str, options: Mapping[str, Any]) -> "ExportForm":
        """Return the form as it was when these options were chosen; of moments it knows the day."""
        initial = {"format": format, "file": file_type} | {name: _as_typed(value) for name, value in options.items()}
        initial |= {name: str(options[name])[:10] for name in ("since", "until") if options.get(name)}
        return cls(project=project, initial=initial)

    def clean(self) -> dict[str, Any]:
        """Read the options by their own reader, so that a page takes neither more nor less than a command."""
        given = super().clean() or {}
        if self.errors:
            return given
        try:
            given["options"] = parse_options(self.options_given())
        except OptionsError as error:
            # An attribute's weight is named with its attribute: rating_weights.helpfulness.
            name, _dot, attribute = error.field_name.partition(".")
            said = f"{attribute}: {error.reason}" if attribute else error.reason
            raise ValidationError({name: [said]}) from error
        return given

    def options_given(self) -> dict[str, Any]:
        """Return the options as an address carries them, those at their defaults left out."""
        plain = ExportOptions()
        chosen = {}
        for option in fields(ExportOptions):
            value = self.cleaned_data.get(option.name)
            if value in (None, "") or value == getattr(plain, option.name):
                continue
            chosen[option.name] = value.isoformat() if hasattr(value, "isoformat") else value
            if value is True:
                chosen[option.name] = "true"
        return chosen

    def groups(self) -> list[tuple[Any, list[forms.BoundField]]]:
        """Return the folded parts of the form with their visible fields."""
        named = ((_("Filters"), self.FILTERS), (_("Rules"), self.RULES))
        return [(title, [self[name] for name in names if not self[name].is_hidden]) for title, names in named]

    def main(self) -> list[forms.BoundField]:
        """Return the fields that always show."""
        return [self[name] for name in self.MAIN]

    def clean_for_version(self) -> bool:
        """Check what a dataset version asks beyond an export; False leaves the reason in the form."""
        if self.cleaned_data["file"] not in VERSION_FILE_TYPES:
            self.add_error("file", _("a dataset version is JSON lines or Parquet"))
            return False
        return True


def _as_typed(value: Any) -> Any:
    """Return an option's value as people type it into the form: lists and weights with commas."""
    if isinstance(value, dict):
        return ", ".join(f"{key}:{number}" for key, number in value.items())
    return ", ".join(map(str, value)) if isinstance(value, list | tuple) else value


def tell_option(name: str, value: Any) -> tuple[str, str]:
    """Return an option's label and what it was set to, in the words of the form where it has any."""
    field = ExportForm.base_fields.get(name) or forms.Field(label=name)
    if isinstance(field, forms.ChoiceField):
        flat = cast("Iterable[tuple[str, Any]]", field.choices)  # no groups
        return str(field.label), str(dict(flat).get(value, value))
    if isinstance(value, bool):
        return str(field.label), str(_("yes") if value else _("no"))
    if isinstance(value, dict):
        value = [f"{key}:{number:g}" for key, number in value.items()]
    return str(field.label), ", ".join(map(str, value)) if isinstance(value, list) else str(
        "" if value is None else value
    )


IMPORT_CHOICES = (
    ("judged", _("Judged rows, or rows to judge: prompt, responses, judgments")),
    ("prompts", _("Prompts alone, to be sampled")),
    ("preference", _("Preference pairs: prompt, chosen, rejected (TRL)")),
    ("hh-rlhf", _("Preference pairs as whole dialogues (hh-rlhf)")),
    ("helpsteer2", _("Attribute scores or preferences (HelpSteer2)")),
    ("oasst", _("Message trees (OASST)")),
    ("label-studio", _("Label Studio's JSON export")),
)


class ImportForm(forms.Form):
    """A file or pasted rows, and what they are."""

    format = forms.ChoiceField(label=_("What is in it"), choices=IMPORT_CHOICES)
    file = forms.FileField(
        label=_("File"), required=False,
        help_text=_("JSON lines, a JSON array, CSV, TSV, Excel's Unicode text or Parquet; gzip is fine"),
    )  # fmt: skip
    rows = forms.CharField(
        label=_("Or paste rows"), required=False, strip=False,
        widget=forms.Textarea({"rows": 6, "spellcheck": "false"}),
        help_text=_("one JSON object a line; for prompts alone plain text will do, one a line"),
    )  # fmt: skip

    def clean(self) -> dict[str, Any]:
        """One of the two, and not both."""
        given = super().clean() or {}
        if bool(given.get("file")) == bool((given.get("rows") or "").strip()):
            raise ValidationError({"file": _("Choose a file, or paste rows: one of the two.")})
        return given

    def content(self) -> tuple[IO[bytes], str]:
        """Return what was sent as a file, with its name."""
        if upload := self.cleaned_data.get("file"):
            return upload, upload.name or "rows.jsonl"
        text = self.cleaned_data["rows"]
        if self.cleaned_data["format"] == "prompts":
            text = "".join(f"{_prompt_line(line)}\n" for line in text.splitlines() if line.strip())
        return io.BytesIO(text.encode()), "rows.jsonl"


def _prompt_line(line: str) -> str:
    """Return a pasted line as a row: an object as it is, anything else as a prompt's text."""
    return line if line.lstrip().startswith("{") else json.dumps({"prompt": line.strip()})


# Names that formats know: what a column of other people's files may be here.
OUR_COLUMNS = {
    "judged": ("prompt", "responses", "responses.0.text", "responses.0.model", "responses.1.text", "responses.1.model",
               "judgments", "external_id", "language", "source"),
    "prompts": ("prompt", "external_id", "language", "source"),
    "preference": ("prompt", "chosen", "rejected", "margin", "external_id", "language", "source"),
    "hh-rlhf": ("chosen", "rejected", "external_id", "language", "source"),
    "helpsteer2": ("prompt", "response", "helpfulness", "correctness", "coherence", "complexity", "verbosity",
                   "response_1", "response_2", "preference_strength"),
}  # fmt: skip


class DraftForm(forms.Form):
    """Read a draft as another format, and its columns by our names for them."""

    format = forms.ChoiceField(label=_("What is in it"), choices=IMPORT_CHOICES)

    def __init__(self, *args: Any, columns: list[str], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.columns = columns
        format = str(self["format"].value())
        names = OUR_COLUMNS.get(format, ())
        mapped = self.initial.get("mapping", {})
        for place, column in enumerate(columns if names else ()):
            kept = ("", _("as it is") if column in names else _("passed over"))
            chosen = mapped.get(column, "")
            others = [name for name in dict.fromkeys((*names, chosen)) if name and name != column]
            self.fields[f"column_{place}"] = forms.ChoiceField(
                label=column, required=False, initial=chosen, choices=[kept, *((name, name) for name in others)]
            )

    def mapping(self) -> dict[str, str]:
        """Return their columns by our names; those left as they are are not in it."""
        return {
            column: name
            for place, column in enumerate(self.columns)
            if (name := self.cleaned_data.get(f"column_{place}"))
        }

    def column_fields(self) -> list[forms.BoundField]:
        """Return the columns' fields."""
        return [self[name] for name in self.fields if name != "format"]


class ExampleForm(forms.Form):
    """What the data browser is narrowed to."""

    words = forms.CharField(label=_("Words"), required=False)
    split = forms.ChoiceField(label=_("Split"), choices=[("", _("all")), *SPLITS[1:4]], required=False)
    language = forms.CharField(label=_("Language"), required=False, max_length=16)
    policy = forms.CharField(label=_("Policy or model"), required=False, max_length=200)
    annotator = forms.CharField(label=_("Judged by"), required=False, max_length=150)
    flag = forms.CharField(label=_("Flag"), required=False, max_length=64)
    since = forms.DateField(label=_("Judged since"), required=False, widget=forms.DateInput({"type": "date"}))
    until = forms.DateField(label=_("Judged before"), required=False, widget=forms.DateInput({"type": "date"}))
    unjudged = forms.BooleanField(label=_("those not judged yet too"), required=False)

    def __init__(self, *args: Any, policies: list[str], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.policies = policies
        self.fields["policy"].widget.attrs["list"] = "policies"

    def chosen(self) -> ExampleFilter:
        """Return the filter; fields in error narrow nothing."""
        self.full_clean()
        given = dict(self.cleaned_data)
        judged = not given.pop("unjudged", False)
        texts = {name: value if isinstance(value, str) else value.isoformat() for name, value in given.items() if value}
        return ExampleFilter(judged=judged, **texts)


class EraseForm(forms.Form):
    """Whose judgments, or which prompt, is to be forgotten; the project's name is typed so that nobody slips."""

    annotator = forms.CharField(
        label=_("What this person judged"), required=False, max_length=150,
        help_text=_("the name that exports and imports give"), widget=forms.TextInput({"autocomplete": "off"}),
    )  # fmt: skip
    prompt = forms.UUIDField(
        label=_("Or this prompt, with all that hangs on it"), required=False, help_text=_("its id, as in exports")
    )
    withdraw = forms.BooleanField(
        label=_("Delete the files of dataset versions that hold it, too"), required=False,
        help_text=_("a round that still reads them will fail"),
    )  # fmt: skip
    confirm = forms.CharField(
        label=_("The project's name in addresses"), widget=forms.TextInput({"autocomplete": "off"})
    )

    def __init__(self, *args: Any, slug: str, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.slug = slug
        self.fields["confirm"].help_text = _("type %(slug)s: there is no way back") % {"slug": slug}

    def clean_confirm(self) -> str:
        """The name must be this project's."""
        if self.cleaned_data["confirm"] != self.slug:
            raise ValidationError(_("This is not the project's name: nothing was erased."))
        return self.slug
