"""What a project asks of an annotator, read from JSON once and trusted from there on."""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, TypeVar, cast

from django.utils.translation import gettext as _

Need = Literal["required", "optional", "off"]
Part = TypeVar("Part", bound="Attribute | Flag")
Words = TypeVar("Words")
NEEDS: tuple[Need, ...] = ("required", "optional", "off")
# Keys of the judging page that no protocol may take for itself.
RESERVED_LETTERS = frozenset("sdfgxz")


class ProtocolError(ValueError):
    """A protocol that cannot be used; the message names the field."""

    def __init__(self, field_name: str, reason: str) -> None:
        self.field_name, self.reason = field_name, reason
        super().__init__(f"{field_name}: {reason}")


@dataclass(frozen=True)
class Attribute:
    """A property of one response scored on whole steps; anchors say what each step means."""

    key: str
    label: str
    minimum: int = 0
    maximum: int = 4
    required: bool = True
    anchors: dict[str, str] = field(default_factory=dict)
    letter: str = ""
    labels: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        _check_name(f"attributes.{self.key}", self.key)
        if not 0 <= self.minimum < self.maximum <= 10:
            raise ProtocolError(f"attributes.{self.key}", _("needs 0 <= minimum < maximum <= 10"))
        steps = {str(step) for step in range(self.minimum, self.maximum + 1)}
        if unknown := sorted(set(self.anchors) - steps):
            raise ProtocolError(
                f"attributes.{self.key}.anchors", _("no such step: %(steps)s") % {"steps": ", ".join(unknown)}
            )


@dataclass(frozen=True)
class Flag:
    """A yes-or-no mark on one response."""

    name: str
    label: str
    description: str = ""
    letter: str = ""
    labels: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        _check_name(f"flags.{self.name}", self.name)


@dataclass(frozen=True)
class Protocol:
    """The parts of a judgment and which of them are required.

    two_sided: ranking and strength are one scale, from the one response much better to the other, equal in the middle
    where ties are allowed. A verdict says the same either way.
    translations: by language, the protocol's own words (labels, descriptions, what steps mean) and what they are there.
    """

    name: str
    min_responses: int = 2
    max_responses: int = 9
    ranking: Need = "required"
    ties: bool = True
    partial: bool = False
    all_bad: bool = True
    strength: Need = "off"
    strength_levels: int = 3
    strength_labels: tuple[str, ...] = ()
    two_sided: bool = False
    attributes: tuple[Attribute, ...] = ()
    flags: tuple[Flag, ...] = ()
    rationale: Need = "optional"
    rewrites: bool = False
    translations: dict[str, dict[str, str]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not 2 <= self.min_responses <= self.max_responses <= 9:
            raise ProtocolError("min_responses", _("needs 2 <= min_responses <= max_responses <= 9"))
        for name in ("ranking", "strength", "rationale"):
            if getattr(self, name) not in NEEDS:
                raise ProtocolError(name, _("one of %(names)s") % {"names": ", ".join(NEEDS)})
        if self.ranking == "off" and not any(attribute.required for attribute in self.attributes):
            raise ProtocolError("ranking", _("off leaves nothing required: make an attribute required"))
        if self.strength != "off" and self.max_responses != 2:
            raise ProtocolError("strength", _("is for two responses: set max_responses to 2"))
        if self.two_sided and (self.strength == "off" or self.ranking == "off"):
            raise ProtocolError("two_sided", _("needs a ranking and its strength"))
        if not 1 <= self.strength_levels <= 3:
            raise ProtocolError("strength_levels", _("from 1 to 3"))
        if self.strength_labels and len(self.strength_labels) != self.strength_levels + 1:
            raise ProtocolError("strength_labels", _("one for each step from 0 to strength_levels"))
        self._check_unique()

    def _check_unique(self) -> None:
        keys = [attribute.key for attribute in self.attributes]
        names = [flag.name for flag in self.flags]
        for where, values in (("attributes", keys), ("flags", names)):
            if len(set(values)) != len(values):
                raise ProtocolError(where, _("a name stands twice"))
        parts: list[Attribute | Flag] = [*self.attributes, *self.flags]
        letters = [part.letter for part in parts if part.letter]
        for letter in letters:
            if len(letter) != 1 or not ("a" <= letter <= "z"):
                raise ProtocolError("letter", _("one letter from a to z, not %(letter)s") % {"letter": letter})
            if letter in RESERVED_LETTERS:
                raise ProtocolError("letter", _("%(letter)s belongs to the page") % {"letter": letter})
            if letters.count(letter) > 1:
                raise ProtocolError("letter", _("%(letter)s is taken twice") % {"letter": letter})

    def words(self) -> list[str]:
        """Return every text of the protocol that an annotator reads."""
        labels = [attribute.label for attribute in self.attributes] + [flag.label for flag in self.flags]
        steps = [text for attribute in self.attributes for text in attribute.anchors.values()]
        return [*self.strength_labels, *labels, *steps, *(flag.description for flag in self.flags if flag.description)]

    def translated(self, text: str, language: str | None) -> str:
        """Return one of the protocol's texts in a language, as it is where the protocol has no translation."""
        return next((words[text] for words in _in_language(self.translations, language) if words.get(text)), text)

    def label_of(self, part: Attribute | Flag, language: str | None) -> str:
        """Return a label in a language: the part's own translation first."""
        own = (label for label in _in_language(part.labels, language) if label)
        return next(own, None) or self.translated(part.label, language)

    def strength_steps(self, language: str | None) -> list[str]:
        """Return what the steps of strength are called, from 0 up; their numbers where they have no names."""
        labels = self.strength_labels or tuple(str(step) for step in range(self.strength_levels + 1))
        return [self.translated(label, language) for label in labels]

    def sides(self) -> list[int]:
        """Return the steps of a two-sided scale: below 0 the first response shown is better, above 0 the second."""
        steps = range(-self.strength_levels, self.strength_levels + 1)
        return [step for step in steps if step or self.ties]

    def as_json(self) -> dict[str, Any]:
        """Return the form that the API's task carries and parse_protocol reads."""
        spec = asdict(self)
        for name in ("strength_labels", "attributes", "flags"):
            spec[name] = list(spec[name])
        return spec


def tell_wrong_count(fewest: int, most: int, given: int) -> str:
    """Return why a protocol takes no task of so many responses, or nothing where it does."""
    if fewest <= given <= most:
        return ""
    if fewest == most:
        words = _("the project's protocol takes exactly %(most)d responses, not %(given)d")
        return words % {"most": most, "given": given}
    words = _("the project's protocol takes %(fewest)d to %(most)d responses, not %(given)d")
    return words % {"fewest": fewest, "most": most, "given": given}


def _in_language(by_language: Mapping[str, Words], language: str | None) -> list[Words]:
    """Return what there is for a language, then for the same without its region or script."""
    wanted = (language or "").lower()
    known = {name.lower(): words for name, words in by_language.items()}
    return [known[name] for name in (wanted, wanted.partition("-")[0]) if name in known]


def parse_protocol(spec: Mapping[str, Any]) -> Protocol:
    """Read a protocol from JSON.

    Raises:
        ProtocolError: names the first field that is unknown, of the wrong type or out of bounds.
    """
    values: dict[str, Any] = {}
    for name, value in _known_fields(spec, Protocol, "protocol").items():
        if name == "attributes":
            values[name] = tuple(_parse_part(item, Attribute, f"attributes[{i}]") for i, item in _items(name, value))
        elif name == "flags":
            values[name] = tuple(_parse_part(item, Flag, f"flags[{i}]") for i, item in _items(name, value))
        elif name == "strength_labels":
            values[name] = tuple(_typed(f"{name}[{i}]", item, str) for i, item in _items(name, value))
        elif name == "translations":
            values[name] = {code: _texts(f"{name}.{code}", words) for code, words in _object(name, value).items()}
        else:
            values[name] = _typed(name, value, _FIELD_TYPES[name])
    if "name" not in values:
        raise ProtocolError("name", _("is required"))
    return Protocol(**values)


_FIELD_TYPES: dict[str, type] = {
    "name": str, "min_responses": int, "max_responses": int, "ranking": str, "ties": bool, "partial": bool,
    "all_bad": bool, "two_sided": bool, "strength": str, "strength_levels": int, "rationale": str, "rewrites": bool,
    "key": str, "label": str, "minimum": int, "maximum": int, "required": bool, "letter": str, "description": str,
}  # fmt: skip


def _known_fields(spec: object, cls: type, where: str) -> dict[str, Any]:
    if not isinstance(spec, Mapping):
        raise ProtocolError(where, _("an object is needed"))
    for name in spec:
        if name not in cls.__dataclass_fields__:  # type: ignore[attr-defined]  # both callers pass dataclasses
            raise ProtocolError(f"{where}.{name}", _("unknown field"))
    return dict(spec)


def _items(name: str, value: object) -> list[tuple[int, Any]]:
    if not isinstance(value, list | tuple):
        raise ProtocolError(name, _("a list is needed"))
    return list(enumerate(value))


def _typed(name: str, value: Any, kind: type) -> Any:
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise ProtocolError(
            name, _("%(wanted)s is needed, not %(given)s") % {"wanted": kind.__name__, "given": type(value).__name__}
        )
    return value


def _object(where: str, value: object) -> dict[str, Any]:
    if not isinstance(value, Mapping):
        raise ProtocolError(where, _("an object is needed"))
    return {str(key): item for key, item in value.items()}


def _texts(where: str, value: object) -> dict[str, str]:
    if not isinstance(value, Mapping) or not all(isinstance(text, str) for text in value.values()):
        raise ProtocolError(where, _("an object of texts is needed"))
    return {str(key): text for key, text in value.items()}


def _parse_part(item: object, cls: Callable[..., Part], where: str) -> Part:
    fields = _known_fields(item, cast(type, cls), where)
    for name, value in fields.items():
        if name in ("anchors", "labels"):
            fields[name] = _texts(f"{where}.{name}", value)
        else:
            _typed(f"{where}.{name}", value, _FIELD_TYPES[name])
    name_field = "key" if cls is Attribute else "name"
    if name_field not in fields:
        raise ProtocolError(f"{where}.{name_field}", _("is required"))
    fields.setdefault("label", fields[name_field])
    return cls(**fields)


def _check_name(where: str, name: str) -> None:
    if not name.isidentifier() or len(name) > 40:
        raise ProtocolError(where, _("letters, digits and underscores, at most 40"))
