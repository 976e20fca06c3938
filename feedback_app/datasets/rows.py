"""One judged row, read once at the boundary: everything after it may trust what it holds."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

from django.utils.dateparse import parse_datetime
from django.utils.translation import gettext as _

from feedback_app.annotation.errors import VerdictInvalid
from feedback_app.annotation.splits import (
    ConversationError,
    hash_both,
    parse_conversation,
    split_of,
)
from feedback_app.annotation.verdicts import FIELDS, LONGEST_TEXT, Verdict, hash_body, parse_verdict
from feedback_app.datasets.formats.base import RowRefused, as_object, json_type
from feedback_app.datasets.json_values import parse_json
from feedback_app.projects.protocols import Protocol, tell_wrong_count

LONGEST_NAME = 100
LONGEST_ID = 200
BY_RESPONSE = ("ratings", "flags", "rewrites")
# What an exported judgment says beside its verdict; read back where it means something, passed over where not.
BESIDE_VERDICT = frozenset({"annotator", "created_at", "simulated", "id", "revision", "protocol", "guidelines"})


@dataclass(frozen=True, slots=True, kw_only=True)
class RowJudgment:
    """A verdict that came with a row; body_sha256 tells a repeat from a contradiction."""

    annotator: str
    verdict: Verdict
    body_sha256: str
    simulated: bool = False
    created_at: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """A row that can be stored: a prompt, and unless it is a prompt alone a task with its judgments."""

    line: int
    messages: list[dict[str, str]]
    content_sha256: str
    root_sha256: str
    split: str
    responses: tuple[tuple[str, str], ...] = ()
    judgments: tuple[RowJudgment, ...] = ()
    external_id: str = ""
    # What makes it the same row again: its external_id, or else its prompt and ordered (text, model) pairs.
    identity_sha256: str
    language: str = ""
    source: str = ""

    @property
    def content(self) -> tuple[str, tuple[tuple[str, str], ...]]:
        """The prompt's hash and the ordered (text, model) pairs."""
        return self.content_sha256, self.responses


def imported_protocol(protocol: Protocol) -> Protocol:
    """Return a project's protocol as it holds for imported verdicts: what is there must fit, but nobody can be asked
    for what is not, save a ranking or ratings (parse_judgment sees to that)."""
    if protocol.ranking == "off":
        return replace(protocol, rationale=_eased(protocol.rationale))
    return replace(
        protocol,
        ranking="optional",
        strength=_eased(protocol.strength),
        rationale=_eased(protocol.rationale),
        attributes=tuple(replace(attribute, required=False) for attribute in protocol.attributes),
    )


def _eased(need: Any) -> Any:
    return "optional" if need == "required" else need


def parse_row(line: int, value: Any, *, protocol: Protocol) -> Row:
    """Read a judged row; protocol is the project's, as imported_protocol eases it.

    Raises:
        RowRefused: names the field that cannot be used.
    """
    row = as_object(value)
    if "prompt" not in row:
        raise RowRefused(_("prompt: is required"))
    try:
        messages = parse_conversation(row["prompt"])
    except ConversationError as error:
        raise RowRefused(str(error)) from error
    root, content = hash_both(messages)
    responses = _parse_responses(row, protocol)
    external_id = _short_text(row, "external_id", LONGEST_ID)
    return Row(
        line=line,
        messages=messages,
        content_sha256=content,
        root_sha256=root,
        split=split_of(root),
        responses=responses,
        judgments=_parse_judgments(row, len(responses), protocol),
        external_id=external_id,
        identity_sha256=_identity(external_id, content, responses),
        language=_short_text(row, "language", 16),
        source=_short_text(row, "source", 100),
    )


def _identity(external_id: str, content: str, responses: tuple[tuple[str, str], ...]) -> str:
    if external_id:
        known_by = f'["external_id", {_ascii(external_id)}]'
    else:
        pairs = ", ".join(f"[{_ascii(text)}, {_ascii(model)}]" for text, model in responses)
        known_by = f'["content", "{content}", [{pairs}]]'
    return hashlib.sha256(known_by.encode()).hexdigest()


# What json.dumps writes of a text, without the call that makes an encoder: stored identities were hashed so.
_ascii = json.encoder.encode_basestring_ascii


def _parse_responses(row: Mapping[str, Any], protocol: Protocol) -> tuple[tuple[str, str], ...]:
    given = row.get("responses")
    if given is None:
        if row.get("judgments"):
            raise RowRefused(_("responses: are needed where there are judgments"))
        return ()
    if not isinstance(given, list):
        raise RowRefused(_("responses: a list is needed, not %(given)s") % {"given": json_type(given)})
    if wrong := tell_wrong_count(protocol.min_responses, protocol.max_responses, len(given)):
        raise RowRefused(f"responses: {wrong}")
    return tuple(_parse_response(index, response) for index, response in enumerate(given))


def _parse_response(index: int, response: Any) -> tuple[str, str]:
    if not isinstance(response, dict):
        raise RowRefused(
            _('responses[%(index)s]: an object {"text", "model"} is needed, not %(given)s')
            % {"index": index, "given": json_type(response)}
        )
    text = response.get("text")
    if not isinstance(text, str):
        raise RowRefused(
            _("responses[%(index)s].text: a text is needed, not %(given)s") % {"index": index, "given": json_type(text)}
        )
    _check_storable(f"responses[{index}].text", text)
    if len(text) > LONGEST_TEXT:
        raise RowRefused(
            _("responses[%(index)s].text: longer than %(longest)s characters")
            % {"index": index, "longest": LONGEST_TEXT}
        )
    return text, _short_text(response, "model", LONGEST_ID, f"responses[{index}].")


def _parse_judgments(row: Mapping[str, Any], count: int, protocol: Protocol) -> tuple[RowJudgment, ...]:
    given = row.get("judgments")
    if given is None:
        return ()
    if not isinstance(given, list):
        raise RowRefused(_("judgments: a list is needed, not %(given)s") % {"given": json_type(given)})
    judgments: dict[str, RowJudgment] = {}
    for index, item in enumerate(given):
        judgment = _parse_judgment(f"judgments[{index}]", item, count, protocol)
        first = judgments.setdefault(judgment.annotator, judgment)
        if first.body_sha256 != judgment.body_sha256:
            raise RowRefused(
                _("judgments[%(index)s].annotator: %(annotator)r has judged this row already")
                % {"index": index, "annotator": judgment.annotator}
            )
    return tuple(judgments.values())


def _parse_judgment(where: str, item: Any, count: int, protocol: Protocol) -> RowJudgment:
    if not isinstance(item, dict):
        raise RowRefused(
            _("%(where)s: an object is needed, not %(given)s") % {"where": where, "given": json_type(item)}
        )
    annotator = _short_text(item, "annotator", LONGEST_NAME, f"{where}.").strip()
    if not annotator:
        raise RowRefused(_("%(where)s.annotator: is required") % {"where": where})
    simulated = item.get("simulated", False)
    if not isinstance(simulated, bool):
        raise RowRefused(
            _("%(where)s.simulated: true or false is needed, not %(given)s")
            % {"where": where, "given": json_type(simulated)}
        )
    body = {name: _unpacked(name, part) for name, part in item.items() if name not in BESIDE_VERDICT}
    verdict = _parse_verdict(where, body, count, protocol)
    return RowJudgment(
        annotator=annotator,
        verdict=verdict,
        body_sha256=hash_body({name: getattr(verdict, "ranks" if name == "ranking" else name) for name in FIELDS}),
        simulated=simulated,
        created_at=_parse_time(where, item.get("created_at")),
    )


def _parse_verdict(where: str, body: dict[str, Any], count: int, protocol: Protocol) -> Verdict:
    """Read a verdict whose responses are named by index, by the very rules of a submitted one."""
    places = {index: str(index) for index in range(count)}
    if isinstance(ranking := body.get("ranking"), list):
        body["ranking"] = [
            [places.get(index, index) if _is_index(index) else _not_an_index(where, index) for index in tier]
            if isinstance(tier, list)
            else tier
            for tier in ranking
        ]
    try:
        verdict = parse_verdict(body, protocol=protocol, responses=list(places.values()))
    except VerdictInvalid as error:
        reasons = "; ".join(f"{where}.{name}: {' '.join(reasons)}" for name, reasons in error.errors.items())
        raise RowRefused(reasons) from error
    if not (verdict.ranks or verdict.ratings or verdict.all_bad):
        raise RowRefused(_("%(where)s.ranking: is required where there are no ratings") % {"where": where})
    return verdict


def _unpacked(name: str, part: Any) -> Any:
    """Return a part of a verdict that a Parquet file carries as JSON text as what it holds."""
    if name not in BY_RESPONSE or not isinstance(part, str):
        return part
    try:
        return parse_json(part)
    except ValueError:
        return part  # a text where an object belongs: the verdict's own rules refuse it, by name


def _is_index(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _not_an_index(where: str, value: Any) -> str:
    raise RowRefused(
        _("%(where)s.ranking: an index into responses is needed, not %(given)s")
        % {"where": where, "given": json_type(value)}
    )


def _parse_time(where: str, value: Any) -> datetime | None:
    if value is None:
        return None
    try:
        moment = value if isinstance(value, datetime) else parse_datetime(value)
    except (TypeError, ValueError):
        moment = None
    if moment is None:
        raise RowRefused(_("%(where)s.created_at: an ISO 8601 time is needed") % {"where": where})
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def _short_text(row: Mapping[str, Any], name: str, longest: int, where: str = "") -> str:
    value = row.get(name)
    if value is None:
        return ""
    if isinstance(value, int) and not isinstance(value, bool):
        value = str(value)  # ids are numbers in many a file
    if not isinstance(value, str):
        raise RowRefused(
            _("%(where)s%(name)s: a text is needed, not %(given)s")
            % {"where": where, "name": name, "given": json_type(value)}
        )
    if len(value) > longest:
        raise RowRefused(
            _("%(where)s%(name)s: longer than %(longest)s characters")
            % {"where": where, "name": name, "longest": longest}
        )
    _check_storable(f"{where}{name}", value)
    return value


def _check_storable(where: str, text: str) -> None:
    if "\x00" in text:
        raise RowRefused(_("%(where)s: holds a NUL character") % {"where": where})
    try:
        text.encode()
    except UnicodeEncodeError:
        raise RowRefused(_("%(where)s: holds half a surrogate pair") % {"where": where}) from None
