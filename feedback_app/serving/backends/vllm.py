"""vLLM takes LoRA adapters while it runs; each version is a new name, never a reload under an old one.

Reloading under one name can answer from a stale prefix cache; a name that is never reused cannot.
"""

from pathlib import Path
from typing import Any

from feedback_app.serving.backends.base import Backend, BackendError
from feedback_app.serving.models import PolicyVersion
from training.records import CanaryPrompt

LORA, DISK = "lora", "disk"
OPTIONS = {"weights", "token", "models_root", "mounted_at"}


def completion_of(policy: PolicyVersion, prompt: CanaryPrompt, max_new_tokens: int) -> dict[str, Any]:
    """Return the request for a greedy completion of rendered inputs, with token ids and log-probabilities."""
    return {
        "model": policy.name, "prompt": prompt["inputs"], "max_tokens": max_new_tokens, "temperature": 0,
        "logprobs": 1, "return_tokens_as_token_ids": True, "add_special_tokens": False,
    }  # fmt: skip


def from_completion(prompt: CanaryPrompt, answer: dict[str, Any]) -> CanaryPrompt:
    """Return the tokens of a completion as a canary prompt; raises KeyError and its like where it has none."""
    logprobs = answer["choices"][0]["logprobs"]
    return {
        "inputs": prompt["inputs"],
        "tokens": [int(token.removeprefix("token_id:")) for token in logprobs["tokens"]],
        "logprobs": [float(logprob) for logprob in logprobs["token_logprobs"]],
    }


class VLLMBackend(Backend):
    """A server started with --enable-lora and VLLM_ALLOW_RUNTIME_LORA_UPDATING=True, on a private network."""

    def check_settings(self) -> None:
        if (weights := self.endpoint.settings.get("weights", LORA)) != LORA:
            raise BackendError(f"endpoint {self.endpoint.name}: options: weights: {weights!r} is not {LORA} or {DISK}")

    def _adapter(self, policy: PolicyVersion) -> Path | None:
        adapter = Path(policy.directory) / "adapter"
        return adapter if adapter.is_dir() else None

    def _loaded(self) -> dict[str, dict[str, Any]]:
        models = self.ask_json("GET", "/v1/models")
        with self.reading("/v1/models"):
            return {str(model["id"]): dict(model) for model in models["data"]}

    def stage(self, policy: PolicyVersion) -> None:
        if policy.name in self._loaded():
            return
        adapter = self._adapter(policy)
        if adapter is None:
            raise BackendError(
                f"{policy.name}: has no adapter/; this endpoint takes LoRA rounds alone (set lora_rank, or give it the"
                f' option {{"weights": "{DISK}"}})'
            )
        self.request("POST", "/v1/load_lora_adapter", json={"lora_name": policy.name, "lora_path": str(adapter)})

    def identify(self, policy: PolicyVersion) -> None:
        model = self._loaded().get(policy.name)
        if model is None:
            raise BackendError(f"endpoint {self.endpoint.name}: does not list {policy.name}")
        adapter = self._adapter(policy)
        if adapter is not None and model.get("root") != str(adapter):
            raise BackendError(f"endpoint {self.endpoint.name}: {policy.name} is {model.get('root')}, not {adapter}")

    def unstage(self, policy: PolicyVersion) -> None:
        if policy.name in self._loaded():
            self.request("POST", "/v1/unload_lora_adapter", json={"lora_name": policy.name})

    def greedy(self, policy: PolicyVersion, prompt: CanaryPrompt, max_new_tokens: int) -> CanaryPrompt:
        body = completion_of(policy, prompt, max_new_tokens)
        answer = self.ask_json("POST", "/v1/completions", json=body)
        with self.reading("/v1/completions"):
            return from_completion(prompt, answer)
