"""Our own inference server: it holds several versions by name and never answers with another than was named."""

from contextlib import suppress

from feedback_app.serving.backends.base import Backend, BackendError, from_details, model_directory
from feedback_app.serving.models import Deployment, PolicyVersion
from training.records import CanaryPrompt

# What the server answers when it holds as many models as it may.
FULL = 507


class EmbeddedBackend(Backend):
    """`python -m training serve` under its admin routes."""

    def stage(self, policy: PolicyVersion) -> None:
        """Load a version; where the server is full, what no project serves from is unloaded first."""
        body = {"name": policy.name, "path": str(model_directory(policy))}
        try:
            self.request("POST", "/admin/policies", json=body)
        except BackendError as error:
            if error.status != FULL or not self._make_room():
                raise
            self.request("POST", "/admin/policies", json=body)

    def _make_room(self) -> bool:
        """Unload every version of ours that is not live for its project; return whether there was one.

        A rollback loads its version again when it is asked for.
        """
        live = set(Deployment.objects.filter(endpoint=self.endpoint).values_list("live__name", flat=True))
        idle = (
            PolicyVersion.objects.filter(name__in=self._loaded()).exclude(name__in=live).values_list("name", flat=True)
        )
        unloaded = False
        for name in idle:
            with suppress(BackendError):  # in use, it goes with its last request
                self.request("DELETE", f"/admin/policies/{name}")
                unloaded = True
        return unloaded

    def _loaded(self) -> dict[str, str]:
        """Return the path of each policy that is ready, by its name."""
        info = self.ask_json("GET", "/info")
        with self.reading("/info"):
            return {str(e["name"]): str(e["path"]) for e in info["policies"] if e["state"] == "ready"}

    def identify(self, policy: PolicyVersion) -> None:
        loaded = self._loaded()
        if loaded.get(policy.name) != str(model_directory(policy)):
            raise BackendError(
                f"endpoint {self.endpoint.name}: {policy.name} is {loaded.get(policy.name, 'not loaded')} there,"
                f" not {model_directory(policy)}"
            )

    def unstage(self, policy: PolicyVersion) -> None:
        if policy.name in self._loaded():
            self.request("DELETE", f"/admin/policies/{policy.name}")

    def make_current(self, policy: PolicyVersion) -> None:
        self.request("POST", "/admin/current", json={"name": policy.name})

    def greedy(self, policy: PolicyVersion, prompt: CanaryPrompt, max_new_tokens: int) -> CanaryPrompt:
        parameters = {
            "details": True, "do_sample": False, "max_new_tokens": max_new_tokens, "adapter_id": policy.name,
        }  # fmt: skip
        answer = self.ask_json("POST", "/generate", json={"inputs": prompt["inputs"], "parameters": parameters})
        with self.reading("/generate"):
            if answer["details"]["policy_version"] != policy.name:
                raise ValueError(f"{answer['details']['policy_version']} answered in place of {policy.name}")
            return from_details(prompt, answer)
