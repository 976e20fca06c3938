"""The recipe as a form: a field for each setting that a page may change, made from the recipe's own declarations."""

import dataclasses
import typing
from collections.abc import Callable, Mapping
from typing import Any, Literal

from django import forms
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from feedback_app.datasets.exporting.options import CHOICES, ExportOptions
from feedback_app.datasets.forms import ADJUDICATED, ALL_BAD, COMBINE, MARGIN, PAIRS, SIMULATED, TIES
from feedback_app.rounds.recipe_labels import LABELS, TITLES
from feedback_app.rounds.recipe_text import with_operators, without_operators
from feedback_app.rounds.recipes import FILLED_IN, OPERATORS_ALONE, STAGES, TABLES, Recipe, RecipeError, parse_recipe

ORIGINS = (("parent", gettext_lazy("the live policy")), ("base", gettext_lazy("the base model")))
# Settings that are one of a few words.
WORDS: dict[str, Any] = {
    "start_from": ORIGINS,
    "reference": ORIGINS,
    "gate.human_undecided": (
        ("approval", gettext_lazy("a manager decides")),
        ("pass", gettext_lazy("it passes")),
        ("reject", gettext_lazy("it is rejected")),
    ),
}
# What a round reads of judgments unless its recipe says otherwise; truncated as the export step takes it.
JUDGMENTS: dict[str, Any] = {
    name: getattr(ExportOptions(), name)
    for name in (
        "simulated", "combine", "pairs", "ties", "margin", "all_bad", "adjudicated", "minimum_strength",
        "minimum_agreement", "rating_gap", "policy_decay",
    )
} | {"truncated": True}  # fmt: skip
JUDGMENT_WORDS: dict[str, Any] = {
    "simulated": SIMULATED, "combine": COMBINE, "pairs": PAIRS, "ties": TIES, "margin": MARGIN, "all_bad": ALL_BAD,
    "adjudicated": ADJUDICATED,
}  # fmt: skip
# Shown at once; every other setting of its table is a click away.
FIRST = {
    "judgments": ("simulated", "combine", "pairs", "ties"),
    "sft": ("epochs", "batch", "lr"),
    "reward": ("epochs", "batch", "max_length", "lr"),
    "ppo": (
        "updates", "rollout_batch", "response_length", "lr", "kl_coef", "lora_rank", "critic", "ppo_epochs",
        "minibatch",
    ),
    "evaluate": ("max_prompts", "response_length"),
}  # fmt: skip
# Of the machine, or no use without what only an operator sets.
NOT_HERE = {"parents", "threads", "ptx_coef", "ptx_batch", "attributes", "reward_weight"}


@dataclasses.dataclass(frozen=True)
class Setting:
    """One setting: where it stands, what kind of value it takes, and the default that an empty field means."""

    table: str
    name: str
    kind: Any
    default: Any

    @property
    def key(self) -> str:
        return f"{self.table}.{self.name}" if self.table else self.name

    @property
    def label(self) -> str:
        return str(LABELS.get(self.key) or LABELS.get(self.name) or self.name.replace("_", " "))


def _settings() -> list[Setting]:
    plain = [
        Setting("", entry.name, typing.get_type_hints(Recipe)[entry.name], entry.default)
        for entry in dataclasses.fields(Recipe)
        if entry.default is not dataclasses.MISSING and entry.name != "launcher"
    ]
    judgments = [Setting("judgments", name, type(value), value) for name, value in JUDGMENTS.items()]
    tables = [
        Setting(table, entry.name, typing.get_type_hints(kind)[entry.name], getattr(kind(), entry.name))
        for table, kind in TABLES.items()
        for entry in dataclasses.fields(kind)
    ]
    return [*plain, *judgments, *(s for stage in STAGES for s in _stage_settings(stage)), *tables]


def _stage_settings(stage: str) -> list[Setting]:
    hints = typing.get_type_hints(STAGES[stage])
    apart = FILLED_IN[stage] | OPERATORS_ALONE.get(stage, set()) | NOT_HERE
    return [
        Setting(stage, entry.name, hints[entry.name], entry.default)
        for entry in dataclasses.fields(STAGES[stage])
        if entry.name not in apart
    ]


SETTINGS = _settings()


def _field(setting: Setting) -> forms.Field:
    """Return a field that may be left empty, which means the default it shows."""
    more: dict[str, Any] = {"label": setting.label, "required": False}
    if setting.key in WORDS:
        return forms.ChoiceField(choices=WORDS[setting.key], **more)
    if setting.table == "judgments" and setting.name in CHOICES:
        return _choice(JUDGMENT_WORDS[setting.name], setting.default, more)
    if setting.kind is bool:
        return _choice((("true", _("yes")), ("false", _("no"))), str(setting.default).lower(), more)
    if typing.get_origin(setting.kind) is Literal:
        return _choice([(option, option) for option in typing.get_args(setting.kind)], setting.default, more)
    shown = {"placeholder": f"{setting.default:g}", "step": "any"}
    if setting.kind is int:
        return forms.IntegerField(widget=forms.NumberInput({"placeholder": str(setting.default)}), **more)
    return forms.FloatField(widget=forms.NumberInput(shown), **more)


def _choice(options: Any, default: Any, more: dict[str, Any]) -> forms.ChoiceField:
    words = dict(options).get(default, default)
    usual = (("", _("usual: %(choice)s") % {"choice": words}),)
    return forms.ChoiceField(choices=(*usual, *options), **more)


class RecipeForm(forms.Form):
    """Every setting of a recipe that a page may change; what an operator has set stays as it is."""

    def __init__(self, *args: Any, config: Mapping[str, Any], **kwargs: Any) -> None:
        self.config, self.kept = without_operators(config)
        super().__init__(*args, **kwargs)
        for setting in SETTINGS:
            field = _field(setting)
            field.initial = _initial(setting, self.config)
            self.fields[setting.key] = field

    def clean(self) -> dict[str, Any]:
        """Read the recipe; a refusal stands at the field that it names."""
        cleaned = self.cleaned_data
        if self.errors:
            return cleaned
        try:
            cleaned["recipe"] = parse_recipe(with_operators(self._values(), self.kept), by_operator=True)
        except RecipeError as error:
            key, _colon, reason = str(error).partition(": ")
            if key in self.fields:
                self.add_error(key, reason)
            else:
                self.add_error(None, str(error))
        return cleaned

    def _values(self) -> dict[str, Any]:
        """Return the recipe in its JSON form: what is not a field of ours stays, an empty field is not set."""
        values = {key: dict(part) if isinstance(part, Mapping) else part for key, part in self.config.items()}
        for setting in SETTINGS:
            given = self.cleaned_data.get(setting.key)
            table = values.setdefault(setting.table, {}) if setting.table else values
            if given in (None, ""):
                table.pop(setting.name, None)
            else:
                table[setting.name] = given == "true" if setting.kind is bool else given
        return values

    def groups(self) -> list[dict[str, Any]]:
        """Return the fields by table: those shown at once, and the others."""
        found: dict[str, dict[str, Any]] = {}
        for setting in SETTINGS:
            group = found.setdefault(
                setting.table, {"title": TITLES[setting.table], "first": [], "more": [], "open": False}
            )
            bound = self[setting.key]
            first = setting.table not in FIRST or setting.name in FIRST[setting.table]
            group["first" if first else "more"].append(bound)
            group["open"] = group["open"] or bool(not first and bound.errors)
        for table, group in found.items():
            places = {f"{table}.{name}": place for place, name in enumerate(FIRST.get(table, ()))}
            group["first"] = sorted(group["first"], key=_placed_by(places))
        return list(found.values())


def _placed_by(places: Mapping[str, int]) -> Callable[[forms.BoundField], int]:
    return lambda bound: places.get(bound.name, -1)


def _initial(setting: Setting, config: Mapping[str, Any]) -> Any:
    table = config.get(setting.table, {}) if setting.table else config
    value = table.get(setting.name)
    if setting.table in ("", *TABLES) and value is None:
        value = setting.default
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:g}" if isinstance(value, float) else value
