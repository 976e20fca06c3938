"""Which side of train, validation and test a prompt stands on: decided by its words alone, and so for ever."""

import hashlib
import json
import unicodedata
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from django.utils.translation import gettext as _

Message = Mapping[str, Any]
Conversation = str | Sequence[Message]
Split = Literal["train", "validation", "test"]

# By the hash modulo ten: 80 % train, 10 % validation, 10 % test.
_SIDES: tuple[Split, ...] = ("train",) * 8 + ("validation", "test")
ROLES = ("system", "user", "assistant", "tool")


class ConversationError(ValueError):
    """A prompt that is no conversation waiting for an answer; the message names the place."""


def parse_conversation(prompt: object) -> list[dict[str, str]]:
    """Return a prompt as a list of {"role", "content"}; plain text is a list of one user message.

    Raises:
        ConversationError: names the message that cannot be used.
    """
    if isinstance(prompt, str) and storable(prompt):
        return [{"role": "user", "content": prompt}]
    if isinstance(prompt, str):
        prompt = [{"role": "user", "content": prompt}]
    if not isinstance(prompt, Sequence) or isinstance(prompt, bytes) or not prompt:
        raise ConversationError(_("prompt: a text, or a list of at least one message, is needed"))
    messages = [_parse_message(index, message) for index, message in enumerate(prompt)]
    if messages[-1]["role"] == "assistant":
        raise ConversationError(
            _("prompt[%(index)s]: the last message is the assistant's already") % {"index": len(messages) - 1}
        )
    return messages


def _parse_message(index: int, message: object) -> dict[str, str]:
    if not isinstance(message, Mapping):
        raise ConversationError(_('prompt[%(index)s]: an object {"role", "content"} is needed') % {"index": index})
    if unknown := sorted(set(message) - {"role", "content"}):
        raise ConversationError(_("prompt[%(index)s].%(name)s: unknown field") % {"index": index, "name": unknown[0]})
    role, content = message.get("role"), message.get("content")
    if role not in ROLES:
        raise ConversationError(
            _("prompt[%(index)s].role: one of %(names)s") % {"index": index, "names": ", ".join(ROLES)}
        )
    if not isinstance(content, str) or not storable(content):
        raise ConversationError(
            _("prompt[%(index)s].content: a text without NUL or lone surrogates is needed") % {"index": index}
        )
    return {"role": str(role), "content": content}


def storable(text: str) -> bool:
    """Say whether PostgreSQL can keep a text: it knows no NUL, and UTF-8 no half of a surrogate pair."""
    if "\x00" in text:
        return False
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def storable_json(value: object) -> bool:
    """Say the same of everything inside a JSON value, keys too."""
    if isinstance(value, str):
        return storable(value)
    if isinstance(value, Mapping):
        return all(storable_json(key) and storable_json(item) for key, item in value.items())
    if isinstance(value, list):
        return all(storable_json(item) for item in value)
    return True


def normalise(text: str) -> str:
    """Return a text as the hashes see it: NFKC, every run of white space one space, none at the ends."""
    return " ".join(unicodedata.normalize("NFKC", text).split())


def hash_root(conversation: Conversation) -> str:
    """Return the SHA-256 (hex) of the conversation's root: its first message that is no system message.

    A system prompt is shared by thousands of conversations, which would all fall on one side; what the user said first
    is what makes two conversations one. A plain text equals a list of that one message.
    """
    if isinstance(conversation, str):
        return _sha256(normalise(conversation))
    return hash_both(conversation)[0]


def hash_conversation(messages: Sequence[Message]) -> str:
    """Return the SHA-256 (hex) of the whole conversation, normalised: what makes it the same prompt."""
    return hash_both(messages)[1]


def hash_both(messages: Sequence[Message]) -> tuple[str, str]:
    """Return hash_root and hash_conversation of at least one message, each text normalised once."""
    turns = [(str(message["role"]), normalise(str(message["content"]))) for message in messages]
    root = next((content for role, content in turns if role != "system"), turns[0][1])
    # The JSON of a list of pairs, as json.dumps writes it: an encoder's call takes longer than the rest.
    whole = ", ".join(f"[{_text(role)}, {_text(content)}]" for role, content in turns)
    return _sha256(root), _sha256(f"[{whole}]")


_text = json.encoder.encode_basestring


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def split_of(root_sha256: str) -> Split:
    """Return the side that a root's hash stands on: its last decimal digit, 0-7, 8 or 9."""
    return _SIDES[int(root_sha256, 16) % 10]
