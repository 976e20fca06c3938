"""What goes into an export and by which rules many judgments become one example; unknown choices fail by name."""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, fields
from datetime import UTC, datetime
from typing import Any

from django.utils.dateparse import parse_date, parse_datetime
from django.utils.translation import gettext as _

from feedback_app.annotation.splits import storable

SPLITS = ("train", "validation", "test")
CHOICES: dict[str, tuple[str, ...]] = {
    "split": (*SPLITS, "all", ""),
    "simulated": ("exclude", "include", "only"),
    "combine": ("per_judgment", "majority", "weighted"),
    "pairs": ("all", "adjacent", "best_worst", "one_per_prompt"),
    "margin": ("small", "large", "none"),
    "ties": ("drop", "both"),
    "all_bad": ("keep", "drop"),
    "adjudicated": ("replace", "ignore", "only"),
}
# The quality page and API ask for simulated judgments by true or false.
_SIMULATED: dict[Any, str] = {True: "include", "true": "include", "1": "include", False: "exclude", "false": "exclude"}
# Of annotators, policies and the like: a manifest and a card repeat them.
MOST_NAMES = 1000
# HelpSteer2's two attributes of style: more of them is not better in itself.
WITHOUT_MERIT = ("complexity", "verbosity")


class OptionsError(ValueError):
    """A choice that an export does not know; the message names the field."""

    def __init__(self, field_name: str, reason: str) -> None:
        self.field_name, self.reason = field_name, reason
        super().__init__(f"{field_name}: {reason}")


@dataclass(frozen=True, kw_only=True)
class ExportOptions:
    """Filters and rules of an export.

    split: empty is the format's own default: a trainer's file is the train split alone, judgments are all.
    simulated: verdicts of simulated annotators are left out unless asked for.
    since, until: of the judgment's time, ISO 8601; since included, until not.
    annotators, policies, languages: empty is all of them; an imported annotator or model goes by the file's name.
    minimum_strength: judgments that state no strength pass.
    minimum_agreement: share of annotator pairs that agree about the task, 0 to 1; tasks judged once pass.
    without_flags: a response with one of these is left out, by whomever it was flagged.
    truncated: take responses cut off by length too. Rewrites are taken whatever became of the response: a person's own
        finished text.
    combine: per judgment, by majority (a task's judgments make one example each pair; weight is the share that says
        so), or weighted: a majority in which each annotator counts by agreement with the others.
    pairs: all of a ranking's pairs, of neighbouring tiers, of the best tier and the worst, or one a prompt.
    margin: small is strength / 3 (Llama 2's 1, 2/3, 1/3, 0; arXiv:2307.09288, table 27), large is the strength, none
        is 0. Without a strength it is 0, which asks for no distance; of ratings it is the gap as a share of the widest.
    ties: left out, or taken both ways at half the weight.
    all_bad: whether a ranking of responses that are all bad still teaches.
    adjudicated: a reviewer's verdict takes the place of a task's judgments, or is ignored, or tasks without one are
        left out. Agreement and reliability go by the judgments all the same, and the judgments format tells these.
    rating_weights: how attributes add up to a score; empty is 1 each, style (complexity, verbosity) apart.
    rating_gap: the smallest difference of two scores that makes a pair.
    policy_decay: weight of a pair falls by this factor for each policy version between its older response and the
        newest of the project.
    """

    split: str = ""
    simulated: str = "exclude"
    since: str = ""
    until: str = ""
    annotators: tuple[str, ...] = ()
    policies: tuple[str, ...] = ()
    languages: tuple[str, ...] = ()
    minimum_strength: int = 0
    minimum_agreement: float = 0.0
    without_flags: tuple[str, ...] = ()
    truncated: bool = False
    combine: str = "per_judgment"
    pairs: str = "all"
    margin: str = "small"
    ties: str = "drop"
    all_bad: str = "keep"
    adjudicated: str = "replace"
    rating_weights: dict[str, float] = field(default_factory=dict)
    rating_gap: float = 0.0
    policy_decay: float = 1.0

    def __post_init__(self) -> None:
        for name, known in CHOICES.items():
            if getattr(self, name) not in known:
                raise OptionsError(
                    name, _("one of %(names)s") % {"names": ", ".join(choice for choice in known if choice)}
                )
        for name in ("since", "until"):
            if value := getattr(self, name):
                object.__setattr__(self, name, read_moment(name, value))
        if not 0 <= self.minimum_agreement <= 1:
            raise OptionsError("minimum_agreement", _("from 0 to 1"))
        if not 0 < self.policy_decay <= 1:
            raise OptionsError("policy_decay", _("above 0, at most 1"))
        if self.rating_gap < 0:
            raise OptionsError("rating_gap", _("0 or more"))
        if not 0 <= self.minimum_strength <= 3:
            raise OptionsError("minimum_strength", _("from 0 to 3"))

    def as_json(self) -> dict[str, Any]:
        """Return the options as JSON, each one written out; parse_options reads them."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}


def parse_options(values: Mapping[str, Any]) -> ExportOptions:
    """Read options from JSON, or from an address or a command line, where all values are texts.

    Raises:
        OptionsError: names the first option that is unknown or malformed.
    """
    kinds = {item.name: item.type for item in fields(ExportOptions)}
    read = {}
    for name, value in values.items():
        if name not in kinds:
            raise OptionsError(name, _("unknown; there are %(names)s") % {"names": ", ".join(kinds)})
        if name == "simulated" and isinstance(value, str | bool):
            value = _SIMULATED.get(value, value)
        read[name] = _READERS[str(kinds[name])](name, value)
    return ExportOptions(**read)


def _text(name: str, value: Any) -> str:
    if not isinstance(value, str):
        raise OptionsError(name, _("a text is needed"))
    return _storable(name, value)


def _storable(name: str, text: str) -> str:
    if not storable(text):
        raise OptionsError(name, _("holds a NUL or half a surrogate pair"))
    return text


def _texts(name: str, value: Any) -> tuple[str, ...]:
    if isinstance(value, str):
        value = [part.strip() for part in value.split(",") if part.strip()]
    if not isinstance(value, list | tuple) or not all(isinstance(part, str) for part in value):
        raise OptionsError(name, _("a list of texts is needed"))
    if len(value) > MOST_NAMES:
        raise OptionsError(name, _("at most %(most)d of them") % {"most": MOST_NAMES})
    return tuple(_storable(name, part) for part in value)


def read_flag(name: str, value: Any) -> bool:
    """Return true or false as JSON or an address say it; raises OptionsError."""
    known = {"1": True, "true": True, "yes": True, "include": True, "0": False, "false": False, "no": False,
             "exclude": False, "": False}  # fmt: skip
    if isinstance(value, bool):
        return value
    if not isinstance(value, str) or value.lower() not in known:
        raise OptionsError(name, _("true or false is needed"))
    return known[value.lower()]


def _number(name: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise OptionsError(name, _("a number is needed"))
    try:
        number = float(value)
    except ValueError:
        raise OptionsError(name, _("a number is needed")) from None
    if number != number or number in (float("inf"), float("-inf")):
        raise OptionsError(name, _("a finite number is needed"))
    return number


def _whole(name: str, value: Any) -> int:
    number = _number(name, value)
    if number != int(number):
        raise OptionsError(name, _("a whole number is needed"))
    return int(number)


def _weights(name: str, value: Any) -> dict[str, float]:
    if isinstance(value, str):  # helpfulness:1,verbosity:-0.4
        pairs = [part.rpartition(":") for part in value.split(",") if part.strip()]
        value = {key.strip(): number for key, _, number in pairs}
    if not isinstance(value, Mapping):
        raise OptionsError(name, _("an object of numbers by attribute is needed"))
    return {_storable(name, str(key)): _number(f"{name}.{key}", number) for key, number in value.items()}


def read_moment(name: str, value: str) -> str:
    """Return a time in UTC, as PostgreSQL reads it; a date is its first moment; raises OptionsError."""
    try:
        moment = parse_datetime(value)
        if moment is None and (day := parse_date(value)):
            moment = datetime(day.year, day.month, day.day, tzinfo=UTC)
        if moment is not None:
            moment = (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).astimezone(UTC)
    except (ValueError, OverflowError):  # the year 10000, by way of another zone
        moment = None
    if moment is None:
        raise OptionsError(name, _("an ISO 8601 date or time is needed"))
    return moment.isoformat()


_READERS: dict[str, Callable[[str, Any], Any]] = {
    "<class 'str'>": _text,
    "<class 'int'>": _whole,
    "<class 'bool'>": read_flag,
    "<class 'float'>": _number,
    "tuple[str, ...]": _texts,
    "dict[str, float]": _weights,
}
