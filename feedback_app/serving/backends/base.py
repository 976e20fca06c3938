"""What every backend must be able to do, and what it answers in."""

import json
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
from huggingface_hub import InferenceClient
from huggingface_hub.errors import HTTPError, InferenceTimeoutError  # type: ignore[attr-defined]

from feedback_app.serving.models import Endpoint, PolicyVersion
from training.records import Canary, CanaryPrompt, DataError, Messages

GENERATION_TIMEOUT_S = 180.0
ADMIN_TIMEOUT_S = 300.0
# A local server that answers these many at once is busy; more would only wait there instead of here.
CONCURRENT_REQUESTS = 8
# An explicit token: without one the client would send the one that this machine happens to have saved for a hub.
NO_TOKEN = "none"
OVERLOADED = 429
# Pauses before a request is sent again to a server that says that it is full.
OVERLOAD_PAUSES_S = (0.5, 1.0, 2.0, 4.0)
# What a client's call may end with: the hub's own HTTP library is not ours (httpx2 from 2.0 on) and its base class is
# all they share; a body that is no JSON is a ValueError of the parser's.
CLIENT_ERRORS: tuple[type[Exception], ...] = (HTTPError, InferenceTimeoutError, ValueError, KeyError, TypeError)


# What a proxy answers for a server that is not there: it restarts, as a deploy lets it.
AWAY = (502, 503, 504)


class BackendError(RuntimeError):
    """The endpoint did not do what was asked; the message says which one and what it answered.

    status is the HTTP status of its answer, 0 where there was none; away says that nobody answers there now.
    """

    def __init__(self, message: str, *, status: int = 0, away: bool = False) -> None:
        super().__init__(message)
        self.status, self.away = status, away or status in AWAY


@dataclass(frozen=True)
class SamplingParameters:
    """How a response is drawn; the seed comes with each request."""

    temperature: float
    top_p: float
    max_new_tokens: int

    def as_json(self) -> dict[str, Any]:
        return {"temperature": self.temperature, "top_p": self.top_p, "max_new_tokens": self.max_new_tokens}


@dataclass(frozen=True)
class Generated:
    """A response, with what the server said of it."""

    text: str
    policy_name: str
    seed: int
    token_count: int
    finish_reason: str


@dataclass(frozen=True)
class Seen:
    """How one request for an answer went; error is empty where it came."""

    policy: PolicyVersion
    seconds: float
    tokens: int = 0
    empty: bool = False
    error: str = ""


class Backend(ABC):
    """Stages policy versions on one endpoint and asks them for answers.

    seen: how each request of generate went, for whoever counts them; threads only ever append.
    """

    timeout_s = ADMIN_TIMEOUT_S
    # Whether staging a version may end the one before it: then that is asked what it says beforehand.
    replaces = False

    def __init__(self, endpoint: Endpoint) -> None:
        self.endpoint = endpoint
        self.url = endpoint.url.rstrip("/")
        self.seen: list[Seen] = []

    def check_settings(self) -> None:  # noqa: B027  # most need none that could be wrong
        """Raise BackendError where the endpoint's options are not what the backend needs; asks no server."""

    @abstractmethod
    def stage(self, policy: PolicyVersion) -> None:
        """Load a version beside what is being served; doing it again changes nothing."""

    @abstractmethod
    def identify(self, policy: PolicyVersion) -> None:
        """Raise BackendError unless the endpoint itself says that it can answer with this version."""

    @abstractmethod
    def unstage(self, policy: PolicyVersion) -> None:
        """Unload a version that is no longer needed; one that is not there is no error."""

    @abstractmethod
    def greedy(self, policy: PolicyVersion, prompt: CanaryPrompt, max_new_tokens: int) -> CanaryPrompt:
        """Return what the version answers greedily to rendered inputs, with log-probabilities."""

    def make_current(self, policy: PolicyVersion) -> None:  # noqa: B027  # most backends are asked by name each time
        """Make a version the one that answers a request that names none."""

    def address_of(self, policy: PolicyVersion) -> str:
        """Return where the version answers: a backend of two colours has two."""
        return self.url

    def model_name(self, policy: PolicyVersion) -> str:
        """Return what the server calls the version."""
        return policy.name

    def generate(
        self, policy: PolicyVersion, messages: Messages, sampling: SamplingParameters, seeds: Sequence[int]
    ) -> list[Generated]:
        """Sample one response a seed; every one carries the version that the server says answered.

        Raises:
            BackendError: the server could not be asked, or another version answered.
        """
        with ThreadPoolExecutor(max_workers=CONCURRENT_REQUESTS) as pool:
            return list(pool.map(lambda seed: self._generate_seen(policy, messages, sampling, seed), seeds))

    def _generate_seen(
        self, policy: PolicyVersion, messages: Messages, sampling: SamplingParameters, seed: int
    ) -> Generated:
        began = time.monotonic()
        try:
            generated = self._generate_one(policy, messages, sampling, seed)
        except BackendError as error:
            self.seen.append(Seen(policy, time.monotonic() - began, error=str(error)))
            raise
        empty = not generated.text.strip()
        self.seen.append(Seen(policy, time.monotonic() - began, tokens=generated.token_count, empty=empty))
        return generated

    def _generate_one(
        self, policy: PolicyVersion, messages: Messages, sampling: SamplingParameters, seed: int
    ) -> Generated:
        client = InferenceClient(
            base_url=self.address_of(policy), timeout=GENERATION_TIMEOUT_S, api_key=self._token() or NO_TOKEN
        )
        for pause in (*OVERLOAD_PAUSES_S, None):
            try:
                answer: Any = client.chat_completion(
                    [dict(message) for message in messages],
                    model=self.model_name(policy),
                    max_tokens=sampling.max_new_tokens,
                    temperature=sampling.temperature,
                    top_p=sampling.top_p if sampling.top_p < 1 else None,  # 1.0 is outside of TGI's open interval
                    seed=seed,
                )
            except CLIENT_ERRORS as error:
                if pause is not None and status_of(error) == OVERLOADED:
                    time.sleep(pause)
                    continue
                reason = f"{type(error).__name__}: {error}".splitlines()[0]
                raise BackendError(f"endpoint {self.endpoint.name}: {reason}", status=status_of(error)) from error
            return self._read_answer(policy, answer, seed)
        raise AssertionError("the last pause is None")

    def _read_answer(self, policy: PolicyVersion, answer: Any, seed: int) -> Generated:
        """Return a chat answer that is one, by the version that was asked.

        The client makes an object of whatever JSON came with a 200, an error's too.
        """
        with self.reading("/v1/chat/completions"):
            name, choice, count = answer.model, answer.choices[0], answer.usage.completion_tokens
            text, reason = choice.message.content or "", choice.finish_reason
            if not (isinstance(text, str) and isinstance(count, int) and isinstance(reason, str)):
                raise TypeError("text, count or finish_reason")
        if name != self.model_name(policy):
            raise BackendError(f"endpoint {self.endpoint.name}: {name!r} answered in place of {policy.name!r}")
        return Generated(text=text, policy_name=policy.name, seed=seed, token_count=count, finish_reason=reason)

    @contextmanager
    def reading(self, what: str) -> Iterator[None]:
        """Turn a missing or mistyped field of an answer, read inside the block, into a BackendError."""
        try:
            yield
        except (AttributeError, KeyError, IndexError, TypeError, ValueError) as error:
            raise BackendError(
                f"endpoint {self.endpoint.name}: {what}: the answer is not what such a server says"
                f" ({type(error).__name__}: {error})"
            ) from error

    def _token(self) -> str:
        return str(self.endpoint.settings.get("token", ""))

    def request(self, method: str, path: str, *, base: str | None = None, **options: Any) -> httpx.Response:
        """Send a request to the server's own API; raises BackendError with what it answered."""
        headers = {"Authorization": f"Bearer {self._token()}"} if self._token() else {}
        options.setdefault("timeout", self.timeout_s)
        try:
            answer = httpx.request(method, (base or self.url) + path, headers=headers, **options)
        except httpx.HTTPError as error:
            reason = str(error) or type(error).__name__
            gone = isinstance(error, httpx.NetworkError | httpx.ConnectTimeout | httpx.RemoteProtocolError)
            raise BackendError(f"endpoint {self.endpoint.name}: {method} {path}: {reason}", away=gone) from error
        if answer.is_error:
            raise BackendError(
                f"endpoint {self.endpoint.name}: {method} {path}: {answer.status_code} {answer.text[:300]}",
                status=answer.status_code,
            )
        return answer

    def ask_json(self, method: str, path: str, **options: Any) -> dict[str, Any]:
        """Send a request and return the object it answers."""
        answer = self.request(method, path, **options)
        try:
            body = answer.json()
        except ValueError as error:
            raise BackendError(f"endpoint {self.endpoint.name}: {method} {path}: no JSON") from error
        if not isinstance(body, dict):
            raise BackendError(f"endpoint {self.endpoint.name}: {method} {path}: no JSON object")
        return body


def model_directory(policy: PolicyVersion) -> Path:
    """Return where a version's weights are: a stage's output keeps them in model/."""
    directory = Path(policy.directory)
    return directory / "model" if (directory / "model").is_dir() else directory


def path_there(endpoint: Endpoint, policy: PolicyVersion) -> str:
    """Return where the endpoint's server sees a version's weights: below "mounted_at" what is here "models_root"."""
    directory = model_directory(policy)
    root, mounted = endpoint.settings.get("models_root"), endpoint.settings.get("mounted_at")
    if root and mounted and directory.is_relative_to(root):
        return str(Path(mounted) / directory.relative_to(root))
    return str(directory)


def read_canary(policy: PolicyVersion) -> Canary | None:
    """Return what the trainer measured of a version; a base model from elsewhere has none."""
    try:
        canary: Canary = json.loads((Path(policy.directory) / "canary.json").read_text(encoding="utf-8"))
        for prompt in canary["prompts"]:
            if len(prompt["tokens"]) != len(prompt["logprobs"]) or not prompt["tokens"]:
                raise DataError(f"{policy.directory}/canary.json: tokens and logprobs do not belong together")
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{policy.directory}/canary.json: {error}") from error
    if not canary["prompts"]:
        raise DataError(f"{policy.directory}/canary.json: holds no prompts")
    return canary


def from_details(prompt: CanaryPrompt, answer: dict[str, Any]) -> CanaryPrompt:
    """Return the tokens of a TGI answer's details as a canary prompt."""
    tokens = answer["details"]["tokens"]
    return {
        "inputs": prompt["inputs"],
        "tokens": [int(token["id"]) for token in tokens],
        "logprobs": [float(token["logprob"]) for token in tokens],
    }


def status_of(error: Exception) -> int:
    """Return the HTTP status that a client's error carries, 0 where it carries none."""
    return int(getattr(getattr(error, "response", None), "status_code", 0))
