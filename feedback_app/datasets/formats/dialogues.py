"""Conversations as one text each: hh-rlhf's way of writing them, and HelpSteer2's."""

import re
from collections.abc import Mapping, Sequence

MARKS = {"user": "\n\nHuman: ", "assistant": "\n\nAssistant: "}
_TURN = re.compile(r"\n\n(Human|Assistant): ?")
_ROLES = {"Human": "user", "Assistant": "assistant"}
_NAMES = {"user": "User", "assistant": "Assistant", "system": "System", "tool": "Tool"}

Messages = Sequence[Mapping[str, str]]


def write_dialogue(messages: Messages) -> str:
    """Return messages as hh-rlhf writes them; a system message, unknown to it, stands before the first turn."""
    return "".join(MARKS.get(message["role"], "") + message["content"] for message in messages)


def read_dialogue(text: str) -> list[dict[str, str]]:
    """Return the messages of a text that write_dialogue or hh-rlhf wrote."""
    before, *turns = _TURN.split(text)
    messages = [{"role": "system", "content": before}] if before else []
    for name, content in zip(turns[::2], turns[1::2], strict=True):
        messages.append({"role": _ROLES[name], "content": content})
    return messages


def write_prompt(messages: Messages) -> str:
    """Return a prompt as HelpSteer2 writes it: one turn as it is, more with <extra_id_1> and the speaker between."""
    if len(messages) == 1:
        return messages[0]["content"]
    first, *rest = messages
    start = first["content"] if first["role"] == "user" else f"<extra_id_0>{_NAMES[first['role']]}\n{first['content']}"
    return start + "".join(f"\n<extra_id_1>{_NAMES[turn['role']]}\n{turn['content']}" for turn in rest)


_EXTRA = re.compile(r"(?:^|\n)<extra_id_[01]>(User|Assistant|System|Tool)\n")


def read_prompt(text: str) -> list[dict[str, str]]:
    """Return the messages of a prompt that write_prompt or HelpSteer2 wrote."""
    before, *turns = _EXTRA.split(text)
    messages = [{"role": "user", "content": before}] if before or not turns else []
    for name, content in zip(turns[::2], turns[1::2], strict=True):
        messages.append({"role": name.lower(), "content": content})
    return messages
