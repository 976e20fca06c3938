"""Open Assistant's message trees: a conversation's turns one below another, the answers at the end with their ranks."""

import json
import uuid
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import pyarrow
from django.utils.translation import gettext as _

from feedback_app.datasets.exporting.pairs import PairRules
from feedback_app.datasets.exporting.source import ExportResponse, ExportTask
from feedback_app.datasets.formats.base import RowRefused, SourceRow, as_object

# Trees have no fixed depth: typed files carry the whole tree as JSON text.
SCHEMA = pyarrow.schema(
    [("message_tree_id", pyarrow.string()), ("tree_state", pyarrow.string()), ("prompt", pyarrow.string())]
)
AS_TEXT = ("prompt",)
ROLES = {"user": "prompter", "assistant": "assistant", "system": "system", "tool": "tool"}
OUR_ROLES = {theirs: ours for ours, theirs in ROLES.items()}


def lines(tasks: Sequence[ExportTask], rules: PairRules) -> Iterator[str]:
    """Yield one tree a task: one task's answers are ranked among themselves, not among another's."""
    for task in tasks:
        for ranking in rules.combined_rankings_of(task):
            replies = [
                _answer(task.responses[place], rank, task)
                for place, rank in zip(ranking.places, ranking.ranks, strict=True)
            ]
            messages = json.loads(task.messages_json)
            for depth in reversed(range(len(messages))):
                node = _node(_id_of(task, depth), messages[depth]["role"], messages[depth]["content"], task)
                node["replies"] = replies
                for reply in replies:
                    reply["parent_id"] = node["message_id"]
                replies = [node]
            tree = {"message_tree_id": replies[0]["message_id"], "tree_state": "ready_for_export", "prompt": replies[0]}
            yield json.dumps(tree, ensure_ascii=False)


def _id_of(task: ExportTask, depth: int) -> str:
    return str(uuid.uuid5(uuid.UUID(task.id), str(depth)))


def _answer(response: ExportResponse, rank: int, task: ExportTask) -> dict[str, Any]:
    """Return an answer's node; its finish reason is no field of theirs, and readers pass over it."""
    return _node(response.id, "assistant", json.loads(response.text_json), task) | {
        "rank": rank, "synthetic": True, "model_name": response.answered_by or None,
        "finish_reason": response.finish_reason,
    }  # fmt: skip


def _node(message_id: str, role: str, text: str, task: ExportTask) -> dict[str, Any]:
    return {"message_id": message_id, "parent_id": None, "text": text, "role": ROLES[role], "lang": task.language,
            "deleted": False, "synthetic": False, "replies": []}  # fmt: skip


def convert(rows: Iterable[SourceRow]) -> Iterator[SourceRow]:
    """Yield a judged row for each message of a tree that has two or more ranked answers."""
    for row in rows:
        if row.problem:
            yield row
            continue
        try:
            root = as_object(as_object(row.value).get("prompt"))
            found = list(_ranked(root, []))
            if not found:
                raise RowRefused(_("prompt: no message of this tree has two or more ranked replies"))
            yield from (SourceRow(row.line, value) for value in found)
        except RowRefused as error:
            yield SourceRow(row.line, problem=str(error))


def _ranked(node: dict[str, Any], above: list[dict[str, str]]) -> Iterator[dict[str, Any]]:
    if node.get("deleted"):
        return
    role, text = OUR_ROLES.get(str(node.get("role"))), node.get("text")
    if role is None or not isinstance(text, str):
        raise RowRefused(_("prompt: each message needs a text, and the role prompter or assistant"))
    chain = [*above, {"role": role, "content": text}]
    replies = node.get("replies") or []
    if not isinstance(replies, list) or not all(isinstance(reply, dict) for reply in replies):
        raise RowRefused(_("replies: a list of messages is needed"))
    ranked = [
        reply
        for reply in replies
        if reply.get("role") == "assistant" and isinstance(reply.get("rank"), int) and not reply.get("deleted")
    ]
    if len(ranked) >= 2:
        tiers = sorted({reply["rank"] for reply in ranked})
        yield {
            "prompt": chain,
            "responses": [{"text": reply.get("text"), "model": reply.get("model_name")} for reply in ranked],
            "judgments": [
                {
                    "annotator": "oasst",
                    "ranking": [[n for n, reply in enumerate(ranked) if reply["rank"] == tier] for tier in tiers],
                }
            ],
            "language": node.get("lang"),
        }
    for reply in replies:
        yield from _ranked(reply, chain)
