"""OpenAI's chat fields, as TGI serves them, over the same engine."""

import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from training.inference import FinishedEvent, TokenEvent, TokenLogprob
from training.records import Messages
from training.sampling import SamplingParameters
from training.serving_protocol import Answer, Fields, Limits, invalid, new_seed

_REFUSED = ("tools", "tool_choice", "functions", "function_call", "logit_bias")


@dataclass(frozen=True)
class ChatCall:
    """A checked call of /v1/chat/completions, its messages not yet rendered."""

    messages: Messages
    sampling: SamplingParameters
    max_tokens: int | None
    stop: tuple[str, ...]
    logprobs: bool
    top_logprobs: int
    stream: bool
    include_usage: bool
    policy: str | None


def parse_chat(body: Mapping[str, Any], limits: Limits) -> ChatCall:
    """Check a chat body; what this server cannot do is refused, never passed over.

    Raises:
        RequestError: 422, naming the field.
    """
    fields = Fields(body)
    for name in _REFUSED:
        if fields.get(name) not in (None, [], {}, "none", "auto"):
            raise invalid(f"`{name}` is not supported by this server")
    response_format = fields.get("response_format")
    if response_format is not None and response_format != {"type": "text"}:
        raise invalid("`response_format` other than text is not supported by this server")
    if (fields.integer("n", least=1) or 1) > 1:
        raise invalid("`n` must be 1: send one request for each answer, each with its own seed")
    top_logprobs = fields.integer("top_logprobs", least=0, most=limits.max_top_n_tokens) or 0
    logprobs = bool(fields.flag("logprobs"))
    if top_logprobs and not logprobs:
        raise invalid("`top_logprobs` needs `logprobs`")
    options = fields.get("stream_options")
    if options is not None and not isinstance(options, Mapping):
        raise invalid("`stream_options` must be an object")
    return ChatCall(
        messages=_messages(fields.get("messages")),
        sampling=_sampling(fields),
        max_tokens=fields.integer("max_completion_tokens", least=1) or fields.integer("max_tokens", least=1),
        stop=fields.stops("stop", limits),
        logprobs=logprobs,
        top_logprobs=top_logprobs,
        stream=bool(fields.flag("stream")),
        include_usage=bool(Fields(options or {}).flag("include_usage")),
        policy=fields.text("model"),
    )


def _sampling(fields: Fields) -> SamplingParameters:
    temperature, top_p = fields.number("temperature"), fields.number("top_p")
    if temperature is not None and temperature < 0:
        raise invalid("`temperature` must not be negative")
    if top_p is not None and not 0 < top_p <= 1:
        raise invalid("`top_p` must be > 0.0 and <= 1.0")
    seed = fields.integer("seed", least=0, most=2**64 - 1)
    return SamplingParameters(
        do_sample=temperature != 0,
        temperature=temperature or 1.0,
        top_p=top_p,
        frequency_penalty=fields.penalty("frequency_penalty"),
        presence_penalty=fields.penalty("presence_penalty"),
        seed=new_seed() if seed is None else seed,
    )


def _messages(value: Any) -> Messages:
    if not isinstance(value, list) or not value:
        raise invalid("`messages` must be a list that is not empty")
    messages: Messages = []
    for index, message in enumerate(value):
        if not isinstance(message, Mapping) or not isinstance(message.get("role"), str):
            raise invalid(f"`messages[{index}]` must be an object with a role")
        messages.append({"role": message["role"], "content": _content(message.get("content"), index)})
    return messages


def _content(content: Any, index: int) -> str:
    """Return a message's text; a list of text parts is joined."""
    if isinstance(content, str):
        return content
    if isinstance(content, list) and all(_is_text(part) for part in content):
        return "".join(part["text"] for part in content)
    raise invalid(f"`messages[{index}].content` must be text")


def _is_text(part: Any) -> bool:
    return isinstance(part, Mapping) and part.get("type") == "text" and isinstance(part.get("text"), str)


def completion_id() -> str:
    return f"chatcmpl-{uuid.uuid4().hex}"


def usage_json(prompt: int, completion: int) -> dict[str, int]:
    return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}


def finish_reason(end: FinishedEvent) -> str:
    return "length" if end.reason == "length" else "stop"


def chat_json(call: ChatCall, answer: Answer, policy: str) -> dict[str, Any]:
    """Return a chat answer; a stop sequence is no part of its text."""
    text = answer.end.text.removesuffix(answer.end.stop) if answer.end.stop else answer.end.text
    choice = {
        "index": 0,
        "message": {"role": "assistant", "content": text},
        "logprobs": {"content": [_logprob(e) for e in answer.tokens]} if call.logprobs else None,
        "finish_reason": finish_reason(answer.end),
    }
    return {
        "id": completion_id(),
        "object": "chat.completion",
        "created": int(time.time()),
        "model": policy,
        "policy_version": policy,
        "system_fingerprint": policy,
        "choices": [choice],
        "usage": usage_json(len(answer.request.prompt), len(answer.tokens)),
    }


def _logprob(event: TokenEvent) -> dict[str, Any]:
    return {**_plain(event.token), "top_logprobs": [_plain(token) for token in event.top]}


def _plain(token: TokenLogprob) -> dict[str, Any]:
    return {"token": token.text, "logprob": token.logprob, "bytes": list(token.text.encode())}


class ChatStream:
    """Writes the chunks of one streamed answer; text that may be the start of a stop sequence is held back."""

    def __init__(self, call: ChatCall, policy: str) -> None:
        self._call = call
        self._policy = policy
        self._id = completion_id()
        self._created = int(time.time())
        self._held = ""
        self._sent = 0

    def token(self, event: TokenEvent) -> dict[str, Any]:
        """Return a token's chunk."""
        self._held += "" if event.token.special else event.token.text
        keep = _overlap(self._held, self._call.stop)
        shown, self._held = self._held[: len(self._held) - keep], self._held[len(self._held) - keep :]
        return self._content(shown, [event])

    def last(self, event: TokenEvent, end: FinishedEvent) -> dict[str, Any]:
        """Return the last token's chunk: what was held back, up to the stop sequence if one ended the answer."""
        whole = end.text.removesuffix(end.stop) if end.stop else end.text
        return self._content(whole[self._sent :], [event], finish_reason(end))

    def usage(self, prompt: int, completion: int) -> dict[str, Any]:
        return {**self._frame([]), "usage": usage_json(prompt, completion)}

    def _content(self, text: str, events: Sequence[TokenEvent], finish: str | None = None) -> dict[str, Any]:
        self._sent += len(text)
        logprobs = {"content": [_logprob(event) for event in events]} if self._call.logprobs else None
        delta = {"role": "assistant", "content": text}
        return self._frame([{"index": 0, "delta": delta, "logprobs": logprobs, "finish_reason": finish}])

    def _frame(self, choices: list[dict[str, Any]]) -> dict[str, Any]:
        return {
            "id": self._id,
            "object": "chat.completion.chunk",
            "created": self._created,
            "model": self._policy,
            "system_fingerprint": self._policy,
            "choices": choices,
            "usage": None,
        }


def _overlap(text: str, stops: tuple[str, ...]) -> int:
    """Return how many of the text's last characters may be the start of a stop sequence."""
    longest = max((len(stop) - 1 for stop in stops), default=0)
    for count in range(min(longest, len(text)), 0, -1):
        if any(stop.startswith(text[-count:]) for stop in stops):
            return count
    return 0
