"""What every backend must be able to do, and what it answers in."""

import json
from abc import ABC, abstractmethod
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
from huggingface_hub import InferenceClient
from huggingface_hub.errors import HfHubHTTPError, InferenceTimeoutError

from feedback_app.serving.models import Endpoint, PolicyVersion
from training.records import Canary, CanaryPrompt, Messages

GENERATION_TIMEOUT_S = 180.0
ADMIN_TIMEOUT_S = 300.0
# A local server that answers these many at once is busy; more would only wait there instead of here.
CONCURRENT_REQUESTS = 8
# An explicit token: without one the client would send the one that this machine happens to have saved for a hub.
NO_TOKEN = "none"


class BackendError(RuntimeError):
    """The endpoint did not do what was asked; the message says which one and what it answered."""


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


class Backend(ABC):
    """Stages policy versions on one endpoint and asks them for answers."""

    def __init__(self, endpoint: Endpoint) -> None:
        self.endpoint = endpoint
        self.url = endpoint.url.rstrip("/")

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
            return list(pool.map(lambda seed: self._generate_one(policy, messages, sampling, seed), seeds))

    def _generate_one(
        self, policy: PolicyVersion, messages: Messages, sampling: SamplingParameters, seed: int
    ) -> Generated:
        client = InferenceClient(
            base_url=self.address_of(policy), timeout=GENERATION_TIMEOUT_S, api_key=self._token() or NO_TOKEN
        )
        try:
            answer = client.chat_completion(
                [dict(message) for message in messages],
                model=self.model_name(policy),
                max_tokens=sampling.max_new_tokens,
                temperature=sampling.temperature,
                top_p=sampling.top_p if sampling.top_p < 1 else None,  # 1.0 is outside of TGI's open interval
                seed=seed,
            )
        except (HfHubHTTPError, InferenceTimeoutError, httpx.HTTPError) as error:
            raise BackendError(f"endpoint {self.endpoint.name}: {str(error).splitlines()[0]}") from error
        if answer.model != self.model_name(policy):
            raise BackendError(f"endpoint {self.endpoint.name}: {answer.model!r} answered in place of {policy.name!r}")
        choice = answer.choices[0]
        return Generated(
            text=choice.message.content or "",
            policy_name=policy.name,
            seed=seed,
            token_count=answer.usage.completion_tokens,
            finish_reason=choice.finish_reason,
        )

    def _token(self) -> str:
        return str(self.endpoint.settings.get("token", ""))

    def request(self, method: str, path: str, *, base: str | None = None, **options: Any) -> httpx.Response:
        """Send a request to the server's own API; raises BackendError with what it answered."""
        headers = {"Authorization": f"Bearer {self._token()}"} if self._token() else {}
        try:
            answer = httpx.request(
                method, (base or self.url) + path, headers=headers, timeout=ADMIN_TIMEOUT_S, **options
            )
        except httpx.HTTPError as error:
            reason = str(error) or type(error).__name__
            raise BackendError(f"endpoint {self.endpoint.name}: {method} {path}: {reason}") from error
        if answer.is_error:
            raise BackendError(
                f"endpoint {self.endpoint.name}: {method} {path}: {answer.status_code} {answer.text[:300]}"
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


def read_canary(policy: PolicyVersion) -> Canary | None:
    """Return what the trainer measured of a version; a base model from elsewhere has none."""
    try:
        canary: Canary = json.loads((Path(policy.directory) / "canary.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    return canary


def from_details(prompt: CanaryPrompt, details: dict[str, Any]) -> CanaryPrompt:
    """Return the tokens of TGI's details as a canary prompt."""
    tokens = details["tokens"]
    return {
        "inputs": prompt["inputs"],
        "tokens": [token["id"] for token in tokens],
        "logprobs": [token["logprob"] for token in tokens],
    }
