"""A verdict read from JSON against the protocol it was asked under: only what the protocol knows gets through."""

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from django.utils.translation import gettext as _

from feedback_app.annotation.errors import VerdictInvalid
from feedback_app.annotation.splits import storable
from feedback_app.projects.protocols import Attribute, Protocol, parse_protocol

FIELDS = ("ranking", "all_bad", "strength", "ratings", "flags", "rewrites", "rationale", "lead_time")
LONGEST_TEXT = 100_000
# A week; a page that claims more has lost its clock.
LONGEST_LEAD_TIME = 7 * 86400.0
_canonical = json.JSONEncoder(sort_keys=True, separators=(",", ":")).encode


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """A judgment's content; ranks by canonical position: 0 is the best tier, None is unranked, empty: not asked."""

    ranks: list[int | None] = field(default_factory=list)
    all_bad: bool = False
    strength: int | None = None
    ratings: dict[str, dict[str, int]] = field(default_factory=dict)
    flags: dict[str, list[str]] = field(default_factory=dict)
    rewrites: dict[str, str] = field(default_factory=dict)
    rationale: str = ""
    lead_time: float | None = None


@lru_cache(maxsize=1024)
def read_protocol(spec: str) -> Protocol:
    """Return the protocol of a stored version's JSON text; reading the same text twice costs a look-up."""
    return parse_protocol(json.loads(spec))


def hash_body(data: object) -> str:
    """Return the SHA-256 (hex) of a JSON value, whatever the order of its keys."""
    return hashlib.sha256(_canonical(data).encode()).hexdigest()


def parse_verdict(data: object, *, protocol: Protocol, responses: Sequence[str]) -> Verdict:
    """Read a verdict on the responses, given by id in their canonical order.

    Raises:
        VerdictInvalid: names every field that is unknown, missing, malformed or not the protocol's.
    """
    if not isinstance(data, Mapping):
        raise VerdictInvalid({"non_field_errors": [_("a JSON object is needed")]})
    errors = {str(name): [_("unknown field")] for name in data if name not in FIELDS}
    values: dict[str, Any] = {}
    reader = _Reader(protocol, responses)
    for name in FIELDS:
        try:
            values[name] = getattr(reader, f"read_{name}")(data.get(name))
        except _Refused as refused:
            errors[refused.field or name] = [refused.reason]
    if not errors:
        try:
            _check_strength(protocol, values)
        except _Refused as refused:
            errors["strength"] = [refused.reason]
    if errors:
        raise VerdictInvalid(errors)
    return Verdict(ranks=values.pop("ranking"), **values)


class _Refused(Exception):
    def __init__(self, reason: str, field: str = "") -> None:
        self.reason, self.field = reason, field
        super().__init__(reason)


class _Reader:
    """Reads one field at a time; None stands for a field left out, as JSON's null does."""

    def __init__(self, protocol: Protocol, responses: Sequence[str]) -> None:
        self.protocol = protocol
        self.responses = responses
        self.places = {response: position for position, response in enumerate(responses)}

    def read_ranking(self, value: object) -> list[int | None]:
        if value is None:
            if self.protocol.ranking == "required":
                raise _Refused(_("is required"))
            return []
        if self.protocol.ranking == "off":
            raise _Refused(_("this protocol asks for no ranking"))
        ranks: list[int | None] = [None] * len(self.responses)
        if not isinstance(value, list):
            raise _Refused(_("a list of tiers, each a list of response ids, is needed"))
        for rank, tier in enumerate(value):
            if not isinstance(tier, list):
                raise _Refused(_("each tier is a list of response ids"))
            if not tier:
                raise _Refused(_("a tier is empty"))
            if len(tier) > 1 and not self.protocol.ties:
                raise _Refused(_("this protocol allows no ties"))
            for response in tier:
                place = self._place(response)
                if ranks[place] is not None:
                    raise _Refused(_("%(id)s stands in it twice") % {"id": response})
                ranks[place] = rank
        return self._whole(ranks)

    def _whole(self, ranks: list[int | None]) -> list[int | None]:
        placed = sum(rank is not None for rank in ranks)
        if placed < len(ranks) and not self.protocol.partial:
            raise _Refused(_("this protocol wants every response ranked"))
        if placed == 0:
            if self.protocol.ranking == "required":
                raise _Refused(_("ranks nothing"))
            return []
        return ranks

    def _place(self, response: object) -> int:
        if not isinstance(response, str) or response not in self.places:
            raise _Refused(_("%(id)s is no response of this task") % {"id": str(response)[:80]})
        return self.places[response]

    def read_all_bad(self, value: object) -> bool:
        if value is None:
            return False
        if not isinstance(value, bool):
            raise _Refused(_("true or false is needed"))
        if value and not self.protocol.all_bad:
            raise _Refused(_("this protocol does not ask for it"))
        return value

    def read_strength(self, value: object) -> int | None:
        if value is None:
            return None
        if self.protocol.strength == "off":
            raise _Refused(_("this protocol asks for no strength"))
        return _whole_number(value, 0, self.protocol.strength_levels)

    def read_ratings(self, value: object) -> dict[str, dict[str, int]]:
        known = {attribute.key: attribute for attribute in self.protocol.attributes}
        given = self._by_response(value)
        if given and not known:
            raise _Refused(_("this protocol asks for no ratings"))
        ratings = {response: _read_scores(response, scores, known) for response, scores in given.items()}
        for response in self.responses:
            for attribute in known.values():
                if attribute.required and attribute.key not in ratings.get(response, {}):
                    raise _Refused(_("%(key)s of %(id)s is required") % {"key": attribute.key, "id": response})
        return {response: scores for response, scores in ratings.items() if scores}

    def read_flags(self, value: object) -> dict[str, list[str]]:
        known = [flag.name for flag in self.protocol.flags]
        flags: dict[str, list[str]] = {}
        for response, names in self._by_response(value).items():
            if not isinstance(names, list):
                raise _Refused(_("a list of flags is needed for each response"))
            for name in names:
                if name not in known:
                    raise _Refused(_("no such flag: %(name)s") % {"name": str(name)[:80]})
            if names:
                flags[response] = [name for name in known if name in names]
        return flags

    def read_rewrites(self, value: object) -> dict[str, str]:
        given = self._by_response(value)
        if given and not self.protocol.rewrites:
            raise _Refused(_("this protocol asks for no rewrites"))
        return {response: _text(text) for response, text in given.items()}

    def read_rationale(self, value: object) -> str:
        text = "" if value is None else _text(value)
        if text and self.protocol.rationale == "off":
            raise _Refused(_("this protocol asks for no rationale"))
        if not text.strip() and self.protocol.rationale == "required":
            raise _Refused(_("is required"))
        return text

    def read_lead_time(self, value: object) -> float | None:
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise _Refused(_("a number of seconds is needed"))
        if not 0 <= value <= LONGEST_LEAD_TIME:
            raise _Refused(_("from 0 to a week, in seconds"))
        return float(value)

    def _by_response(self, value: object) -> dict[str, Any]:
        if value is None:
            return {}
        if not isinstance(value, Mapping):
            raise _Refused(_("an object by response id is needed"))
        for response in value:
            self._place(response)
        return dict(value)


def _check_strength(protocol: Protocol, values: Mapping[str, Any]) -> None:
    ranks, strength = values["ranking"], values["strength"]
    ranked = [rank for rank in ranks if rank is not None]
    if strength is None:
        if protocol.strength == "required" and ranked:
            raise _Refused(_("is required"))
        return
    if len(ranked) != 2:
        raise _Refused(_("is for two ranked responses"))
    if ranked[0] == ranked[1] and strength != 0:
        raise _Refused(_("is 0 on a tie"))


def _read_scores(response: str, scores: object, known: Mapping[str, Attribute]) -> dict[str, int]:
    if not isinstance(scores, Mapping):
        raise _Refused(_("an object by attribute is needed for each response"))
    for key in scores:
        if key not in known:
            raise _Refused(_("no such attribute: %(key)s") % {"key": str(key)[:80]})
    return {
        key: _whole_number(score, known[key].minimum, known[key].maximum, (key, response))
        for key, score in scores.items()
        if score is not None
    }


def _whole_number(value: object, minimum: int, maximum: int, of: tuple[str, str] | None = None) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not minimum <= value <= maximum:
        reason = _("a whole number from %(least)d to %(most)d is needed") % {"least": minimum, "most": maximum}
        where = _("%(key)s of %(id)s") % {"key": of[0], "id": of[1]} if of else ""
        raise _Refused(f"{where}: {reason}" if of else reason)
    return value


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise _Refused(_("a text is needed"))
    if len(value) > LONGEST_TEXT:
        raise _Refused(_("longer than %(most)d characters") % {"most": LONGEST_TEXT})
    if not storable(value):
        raise _Refused(_("holds a NUL or half a surrogate pair"))
    return value


def letters_of(ranks: Sequence[int | None], shown_order: Sequence[int]) -> str:
    """Return a ranking by the letters that its annotator saw: "B > A = C"; unranked ones are left out."""
    tiers: dict[int, list[str]] = {}
    for letter, position in zip("ABCDEFGHI", shown_order, strict=False):
        rank = ranks[position] if position < len(ranks) else None
        if rank is not None:
            tiers.setdefault(rank, []).append(letter)
    return " > ".join(" = ".join(tiers[rank]) for rank in sorted(tiers))
