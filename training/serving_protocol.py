"""TGI's request and response fields: what may be asked, with which limits, and how an answer is written down."""

import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from training.inference import FinishedEvent, GenerationRequest, TokenEvent, TokenLogprob
from training.sampling import SamplingParameters

# What a 32-bit float can hold without losing its digits: TGI reads numbers as those, and less is 0 to it.
SMALLEST = 2.0**-126


@dataclass(frozen=True)
class Limits:
    """What one request may ask for; the names are those of TGI's launcher."""

    max_total_tokens: int
    max_input_tokens: int
    max_best_of: int = 2
    max_stop_sequences: int = 4
    max_top_n_tokens: int = 5


class RequestError(Exception):
    """A request that is refused: HTTP status, message and TGI's error_type."""

    def __init__(self, message: str, *, status: int = 422, error_type: str = "validation") -> None:
        super().__init__(message)
        self.status = status
        self.error_type = error_type

    def body(self) -> dict[str, Any]:
        return {"error": str(self), "error_type": self.error_type}


def invalid(message: str) -> RequestError:
    """Return a validation error in TGI's words."""
    return RequestError(f"Input validation error: {message}")


class Fields:
    """Typed reads of a JSON object's fields: absent and null are None, a wrong type is an error that names it."""

    def __init__(self, values: Mapping[str, Any]) -> None:
        self._values = values

    def get(self, name: str) -> Any:
        return self._values.get(name)

    def flag(self, name: str) -> bool | None:
        value = self.get(name)
        if value is not None and not isinstance(value, bool):
            raise invalid(f"`{name}` must be a boolean")
        return value

    def text(self, name: str) -> str | None:
        value = self.get(name)
        if value is not None and not isinstance(value, str):
            raise invalid(f"`{name}` must be a string")
        return value

    def integer(self, name: str, *, least: int, most: int | None = None) -> int | None:
        value = self.get(name)
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int):
            raise invalid(f"`{name}` must be an integer")
        if value < least or (most is not None and value > most):
            bound = f">= {least}" if most is None else f">= {least} and <= {most}"
            raise invalid(f"`{name}` must be {bound}. Given: {value}")
        return value

    def number(self, name: str) -> float | None:
        value = self.get(name)
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int | float) or value != value or abs(value) > 1e30:
            raise invalid(f"`{name}` must be a number")
        return float(value)

    def positive(self, name: str) -> float | None:
        value = self.number(name)
        if value is not None and value < SMALLEST:
            raise invalid(f"`{name}` must be strictly positive")
        return value

    def share(self, name: str) -> float | None:
        """Read a number of the open interval from 0 to 1."""
        value = self.number(name)
        if value is not None and not 0 < value < 1:
            raise invalid(f"`{name}` must be > 0.0 and < 1.0")
        return value

    def penalty(self, name: str) -> float:
        value = self.number(name)
        if value is not None and not -2 <= value <= 2:
            raise invalid(f"`{name}` must be >= -2.0 and <= 2.0")
        return value or 0.0

    def stops(self, name: str, limits: Limits) -> tuple[str, ...]:
        value = self.get(name)
        values = [] if value is None else [value] if isinstance(value, str) else value
        if not isinstance(values, list) or not all(isinstance(stop, str) and stop for stop in values):
            raise invalid(f"`{name}` must be a list of strings that are not empty")
        if len(values) > limits.max_stop_sequences:
            raise invalid(f"`{name}` supports up to {limits.max_stop_sequences} stop sequences. Given: {len(values)}")
        return tuple(values)


@dataclass(frozen=True)
class GenerateCall:
    """A checked call of /generate, its prompt still text."""

    inputs: str
    sampling: SamplingParameters
    max_new_tokens: int | None
    stop: tuple[str, ...]
    best_of: int
    top_n_tokens: int
    truncate: int | None
    details: bool
    decoder_input_details: bool
    return_full_text: bool
    policy: str | None


def parse_generate(body: Mapping[str, Any], limits: Limits) -> GenerateCall:
    """Check a /generate body.

    Raises:
        RequestError: 422, naming the field.
    """
    inputs = Fields(body).text("inputs")
    if inputs is None:
        raise invalid("`inputs` is required")
    if not inputs:
        raise invalid("`inputs` cannot be empty")
    parameters = body.get("parameters")
    if parameters is not None and not isinstance(parameters, Mapping):
        raise invalid("`parameters` must be an object")
    fields = Fields(parameters or {})
    for name in ("grammar", "watermark"):
        if fields.get(name):
            raise invalid(f"`{name}` is not supported by this server")
    sampling = _sampling(fields, default_do_sample=parameters is None)
    best_of = fields.integer("best_of", least=1) or 1
    if best_of > limits.max_best_of:
        raise invalid(f"`best_of` must be > 0 and <= {limits.max_best_of}. Given: {best_of}")
    if best_of > 1 and not sampling.do_sample:
        raise invalid("you must use sampling when `best_of` is > 1")
    if best_of > 1 and fields.get("seed") is not None:
        raise invalid("`seed` must not be set when `best_of` > 1")
    return GenerateCall(
        inputs=inputs,
        sampling=sampling,
        max_new_tokens=fields.integer("max_new_tokens", least=1),
        stop=fields.stops("stop", limits),
        best_of=best_of,
        top_n_tokens=fields.integer("top_n_tokens", least=0, most=limits.max_top_n_tokens) or 0,
        truncate=fields.integer("truncate", least=1, most=limits.max_input_tokens),
        details=bool(fields.flag("details")),
        decoder_input_details=bool(fields.flag("decoder_input_details")),
        return_full_text=bool(fields.flag("return_full_text")),
        policy=fields.text("adapter_id"),
    )


def _sampling(fields: Fields, *, default_do_sample: bool) -> SamplingParameters:
    """Read how to draw, by TGI's rule: sampling is on if asked for, or if some warper is."""
    do_sample = fields.flag("do_sample")
    temperature, top_k = fields.positive("temperature"), fields.integer("top_k", least=1)
    top_p, typical_p = fields.share("top_p"), fields.share("typical_p")
    repetition = fields.positive("repetition_penalty")
    seed = fields.integer("seed", least=0, most=2**64 - 1)
    warped = (temperature is not None and temperature != 1.0) or any(w is not None for w in (top_k, top_p, typical_p))
    return SamplingParameters(
        do_sample=bool(do_sample) or warped or (do_sample is None and default_do_sample),
        temperature=temperature or 1.0,
        top_k=top_k,
        top_p=top_p,
        typical_p=typical_p,
        repetition_penalty=repetition or 1.0,
        frequency_penalty=fields.penalty("frequency_penalty"),
        seed=new_seed() if seed is None else seed,
    )


def new_seed() -> int:
    """Return a seed for a request that names none; answers report it, so that they can be drawn again."""
    return secrets.randbits(63)


def fit_prompt(
    prompt: list[int], *, truncate: int | None, max_new_tokens: int | None, limits: Limits, length: int
) -> tuple[tuple[int, ...], int]:
    """Return the prompt's tokens, cut from the left to truncate, and how many may be generated.

    Raises:
        RequestError: 422 where the two do not fit the limits or the policy's own length.
    """
    if truncate is not None:
        prompt = prompt[-truncate:]
    if not prompt:
        raise invalid("`inputs` cannot be empty")
    most_input = min(limits.max_input_tokens, length - 1)
    if len(prompt) > most_input:
        raise invalid(f"`inputs` must have less than {most_input} tokens. Given: {len(prompt)}")
    total = min(limits.max_total_tokens, length)
    if max_new_tokens is None:
        max_new_tokens = total - len(prompt)
    if len(prompt) + max_new_tokens > total:
        raise invalid(
            f"`inputs` tokens + `max_new_tokens` must be <= {total}. "
            f"Given: {len(prompt)} `inputs` tokens and {max_new_tokens} `max_new_tokens`"
        )
    return tuple(prompt), max_new_tokens


@dataclass(frozen=True)
class Answer:
    """One finished answer with all its tokens."""

    request: GenerationRequest
    tokens: tuple[TokenEvent, ...]
    end: FinishedEvent

    @property
    def mean_logprob(self) -> float:
        return sum(event.token.logprob or 0.0 for event in self.tokens) / len(self.tokens)

    @property
    def seed(self) -> int | None:
        return self.request.sampling.seed if self.request.sampling.do_sample else None


def token_json(token: TokenLogprob) -> dict[str, Any]:
    return {"id": token.id, "text": token.text, "logprob": token.logprob, "special": token.special}


def generated_text(call: GenerateCall, answer_text: str) -> str:
    return call.inputs + answer_text if call.return_full_text else answer_text


def sequence_json(answer: Answer, *, top: bool) -> dict[str, Any]:
    """Return the fields that details and each of best_of_sequences have in common."""
    fields: dict[str, Any] = {
        "finish_reason": answer.end.reason,
        "generated_tokens": len(answer.tokens),
        "seed": answer.seed,
        "prefill": [{"id": token.id, "text": token.text, "logprob": token.logprob} for token in answer.end.prefill],
        "tokens": [token_json(event.token) for event in answer.tokens],
    }
    if top:
        fields["top_tokens"] = [[token_json(token) for token in event.top] for event in answer.tokens]
    return fields


def generate_json(call: GenerateCall, answers: list[Answer], policy: str) -> dict[str, Any]:
    """Return /generate's answer: of several, the one with the highest mean log-probability, the rest in details."""
    best, *others = sorted(answers, key=lambda answer: -answer.mean_logprob)
    body: dict[str, Any] = {"generated_text": generated_text(call, best.end.text)}
    if not (call.details or call.decoder_input_details):
        return body
    top = call.top_n_tokens > 0
    details = {**sequence_json(best, top=top), "policy_version": policy}
    if others:
        details["best_of_sequences"] = [
            {"generated_text": generated_text(call, answer.end.text), **sequence_json(answer, top=top)}
            for answer in others
        ]
    return {**body, "details": details}


@dataclass(frozen=True)
class StreamWriter:
    """Writes the events of one /generate_stream answer."""

    call: GenerateCall
    request: GenerationRequest
    policy: str

    def frame(self, index: int, event: TokenEvent, end: FinishedEvent | None) -> dict[str, Any]:
        """Return one event, index counted from 1; the last one holds the whole text."""
        frame: dict[str, Any] = {"index": index, "token": token_json(event.token)}
        if self.call.top_n_tokens:
            frame["top_tokens"] = [token_json(token) for token in event.top]
        if end is None:
            return {**frame, "generated_text": None, "details": None}
        sampling = self.request.sampling
        details = {
            "finish_reason": end.reason,
            "generated_tokens": index,
            "seed": sampling.seed if sampling.do_sample else None,
            "input_length": len(self.request.prompt),
            "policy_version": self.policy,
        }
        return {**frame, "generated_text": generated_text(self.call, end.text), "details": details}
