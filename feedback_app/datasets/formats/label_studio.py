"""Label Studio's JSON export: pairwise choices, rankings and ratings of the texts in a task's data.

The file does not hold the labelling configuration, so which data are the prompt and which the responses goes by their
names; a mapping (data.question=data.prompt) says so where they have others.
"""

import re
from collections.abc import Mapping
from typing import Any

from django.utils.translation import gettext as _

from feedback_app.datasets.formats.base import RowRefused, as_object, convert_each

PROMPTS = (
    "prompt", "messages", "question", "instruction", "query", "conversation", "dialogue", "dialog", "input", "text",
)  # fmt: skip
LISTS = ("responses", "answers", "items", "completions", "candidates", "options")
_NUMBERED = re.compile(
    r"(?:answer|response|text|completion|output|option|candidate|summary|reply)[ _-]?([1-9a-iA-I])|(left|right)"
)
# A number ends a name by itself, a letter only after a mark: "coherence" is no fifth of anything.
_ENDING = re.compile(r"(?:[ _-]?([1-9])|[ _-]([a-iA-I]))$")
ROLES = {"human": "user", "prompter": "user", "bot": "assistant", "ai": "assistant", "gpt": "assistant"}
# Buckets have no order in the file (PostgreSQL's JSON keeps none): their names must say it.
BUCKETS = (
    "best", "good", "positive", "relevant", "accept", "neutral", "ok", "bad", "negative", "biased", "reject", "worst",
)  # fmt: skip
UNRANKED = "_"


def convert_row(row: dict[str, Any]) -> dict[str, Any]:
    """Return the judged row of an exported task; annotations that were cancelled are left out."""
    data = as_object(row.get("data"))
    responses = _responses(data)
    annotations = row.get("annotations", row.get("completions")) or []
    if not isinstance(annotations, list) or not all(isinstance(annotation, dict) for annotation in annotations):
        raise RowRefused(_("annotations: a list of objects is needed"))
    judgments: dict[str, dict[str, Any]] = {}
    for annotation in sorted(annotations, key=lambda annotation: str(annotation.get("created_at"))):
        if not annotation.get("was_cancelled"):
            judgment = _judgment(annotation, responses)
            judgments[judgment["annotator"]] = judgment  # who judged twice meant the later
    return {
        "prompt": _prompt(data, [response["key"] for response in responses]),
        "responses": [{"text": response["text"], "model": response["model"]} for response in responses],
        "judgments": list(judgments.values()),
        "external_id": f"label-studio-{row['id']}" if row.get("id") is not None else None,
        "language": data.get("language"),
    }


def _prompt(data: Mapping[str, Any], taken: list[str]) -> Any:
    name = next((name for name in PROMPTS if name not in taken and data.get(name) is not None), None)
    if name is None:
        raise RowRefused(
            _("data: a prompt is needed, under one of the names %(names)s, or mapped to one")
            % {"names": ", ".join(PROMPTS)}
        )
    prompt = data[name]
    if isinstance(prompt, list):
        return [_message(message) for message in prompt]
    return prompt


def _message(message: Any) -> Any:
    """Return a turn of a dialogue as Label Studio's Paragraphs show it, author and text, as a message."""
    if not isinstance(message, dict) or "role" in message:
        return message
    author = str(message.get("author", "")).lower()
    return {"role": ROLES.get(author, author), "content": message.get("text")}


def _responses(data: Mapping[str, Any]) -> list[dict[str, Any]]:
    for name in LISTS:
        if isinstance(items := data.get(name), list):
            return [_item(index, item) for index, item in enumerate(items)]
    keys = sorted(key for key in data if _NUMBERED.fullmatch(key))
    if not keys:
        raise RowRefused(_("data: responses are needed: a list, or answer1 and answer2, or what is mapped to one"))
    return [{"key": key, "id": key, "text": data[key], "model": _model(data, key)} for key in keys]


def _item(index: int, item: Any) -> dict[str, Any]:
    if isinstance(item, str):
        item = {"body": item}
    item = as_object(item)
    parts = [item.get(name) for name in ("text", "content", "body", "html")]
    text = next((part for part in parts if part is not None), item.get("title"))
    return {"key": "", "id": str(item.get("id", index)), "text": text, "model": item.get("model")}


def _model(data: Mapping[str, Any], key: str) -> Any:
    ending = _place_name(key)
    names = (f"{key}_model", f"model_{key}", f"model{ending}", f"model_{ending}")
    return next((data[name] for name in names if data.get(name) is not None), None)


def _place_name(name: str) -> str:
    found = _NUMBERED.fullmatch(name) or _ENDING.search(name)
    return next((part for part in found.groups() if part), "").lower() if found else ""


def _judgment(annotation: Mapping[str, Any], responses: list[dict[str, Any]]) -> dict[str, Any]:
    judgment: dict[str, Any] = {
        "annotator": _annotator(annotation.get("completed_by")),
        "lead_time": annotation.get("lead_time"),
        "created_at": annotation.get("created_at"),
    }
    notes = []
    for result in annotation.get("result") or []:
        kind, value = str(as_object(result).get("type")), as_object(result.get("value"))
        if kind == "pairwise":
            judgment["ranking"] = _pairwise(value)
        elif kind == "ranker":
            judgment["ranking"] = _ranker(value.get("ranker"), [response["id"] for response in responses])
        elif kind in ("rating", "number"):
            place, attribute = _rated(result, responses)
            judgment.setdefault("ratings", {}).setdefault(str(place), {})[attribute] = value.get(kind)
        elif kind in ("textarea", "choices"):
            notes.append(_note(result, kind, value.get("text" if kind == "textarea" else "choices")))
        else:
            raise RowRefused(
                _("annotations: a result of type %(kind)r is neither pairwise, ranker nor rating") % {"kind": kind}
            )
    if notes:
        judgment["rationale"] = "\n".join(notes)
    return judgment


def _annotator(completed_by: Any) -> str:
    if isinstance(completed_by, dict):
        completed_by = completed_by.get("email") or completed_by.get("username") or completed_by.get("id")
    if completed_by in (None, ""):
        return "label-studio"
    return completed_by if isinstance(completed_by, str) else f"label-studio-{completed_by}"


def _pairwise(value: Mapping[str, Any]) -> list[list[int]]:
    rankings = {"left": [[0], [1]], "right": [[1], [0]]}
    if (selected := value.get("selected")) not in rankings:
        raise RowRefused(
            _("annotations: the selected side is left or right, not %(selected)r") % {"selected": selected}
        )
    return rankings[selected]


def _ranker(ranker: Any, ids: list[str]) -> list[list[int]]:
    if isinstance(ranker, dict) and len(ranker) == 1:
        ranker = next(iter(ranker.values()))  # without buckets: the tag's name, and the items in order
    tiers: list[Any] = [[item] for item in ranker] if isinstance(ranker, list) else []
    if isinstance(ranker, dict):
        tiers = [ranker[name] for name in sorted((name for name in ranker if name != UNRANKED), key=_bucket_order)]
    if not all(isinstance(tier, list) for tier in tiers) or not tiers:
        raise RowRefused(_("annotations: a ranker's value is a list of ids, or such a list for each bucket"))
    places = {name: index for index, name in enumerate(ids)}
    if unknown := [str(item) for tier in tiers for item in tier if str(item) not in places]:
        raise RowRefused(
            _("annotations: the ranker names %(name)r, which is no response of the task") % {"name": unknown[0]}
        )
    return [[places[str(item)] for item in tier] for tier in tiers if tier]


def _bucket_order(name: str) -> tuple[int, int]:
    if digits := re.search(r"\d+", name):
        return 0, int(digits.group())
    words = re.split(r"[^a-z]+", name.lower())
    order = [place for place, known in enumerate(BUCKETS) for word in words if word.startswith(known)]
    if not order:
        raise RowRefused(
            _("annotations: the bucket %(name)r says by its name neither a number nor how good it is") % {"name": name}
        )
    return 1, order[0]


def _rated(result: Mapping[str, Any], responses: list[dict[str, Any]]) -> tuple[int, str]:
    """Return which response a rating is of, and of what: Label Studio names a control and the text it stands by."""
    control, of = str(result.get("from_name")), str(result.get("to_name"))
    if isinstance(index := result.get("item_index"), int) and 0 <= index < len(responses):
        return index, control
    endings = [_place_name(response["key"]) or str(index + 1) for index, response in enumerate(responses)]
    by_key = [index for index, response in enumerate(responses) if response["key"] and response["key"] in (of, control)]
    by_ending = [endings.index(name) for name in (_place_name(of), _place_name(control)) if name in endings]
    if not (found := by_key or by_ending):
        raise RowRefused(
            _("annotations: of which response the rating %(control)r on %(of)r is, its names do not say")
            % {"control": control, "of": of}
        )
    ending = _ENDING.search(control)
    attribute = control[: ending.start()] if ending and _place_name(control) in endings else control
    for response in responses:
        attribute = attribute.removesuffix(response["key"]) if response["key"] else attribute
    return found[0], attribute.strip("_- ") or "rating"


def _note(result: Mapping[str, Any], kind: str, given: Any) -> str:
    text = ", ".join(map(str, given)) if isinstance(given, list) else str(given)
    return text if kind == "textarea" else f"{result.get('from_name')}: {text}"


convert = convert_each(convert_row)
