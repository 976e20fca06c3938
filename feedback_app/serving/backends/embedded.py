"""Our own inference server: it holds several versions by name and never answers with another than was named."""

from feedback_app.serving.backends.base import Backend, BackendError, from_details, model_directory
from feedback_app.serving.models import PolicyVersion
from training.records import CanaryPrompt


class EmbeddedBackend(Backend):
    """`python -m training serve` under its admin routes."""

    def stage(self, policy: PolicyVersion) -> None:
        self.request("POST", "/admin/policies", json={"name": policy.name, "path": str(model_directory(policy))})

    def identify(self, policy: PolicyVersion) -> None:
        loaded = {entry["name"]: entry["path"] for entry in self.ask_json("GET", "/info")["policies"]}
        if loaded.get(policy.name) != str(model_directory(policy)):
            raise BackendError(
                f"endpoint {self.endpoint.name}: {policy.name} is {loaded.get(policy.name, 'not loaded')} there,"
                f" not {model_directory(policy)}"
            )

    def unstage(self, policy: PolicyVersion) -> None:
        loaded = {entry["name"] for entry in self.ask_json("GET", "/info")["policies"]}
        if policy.name in loaded:
            self.request("DELETE", f"/admin/policies/{policy.name}")

    def make_current(self, policy: PolicyVersion) -> None:
        self.request("POST", "/admin/current", json={"name": policy.name})

    def greedy(self, policy: PolicyVersion, prompt: CanaryPrompt, max_new_tokens: int) -> CanaryPrompt:
        parameters = {
            "details": True, "do_sample": False, "max_new_tokens": max_new_tokens, "adapter_id": policy.name,
        }  # fmt: skip
        answer = self.ask_json("POST", "/generate", json={"inputs": prompt["inputs"], "parameters": parameters})
        return from_details(prompt, answer["details"])
