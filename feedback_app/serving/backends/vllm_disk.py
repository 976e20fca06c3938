"""vLLM takes whole weights from a directory while it runs: in place, one version at a time, by its weight transfer.

The server is told to forget what it calls its weights before they change, and given the version's name only once all of
them are there: whatever dies in between, GET /weight_info never names weights that are not whole.
"""

import uuid
from collections.abc import Sequence
from contextlib import suppress
from functools import cached_property
from typing import Any

from feedback_app.serving.backends.base import Backend, BackendError, Generated, SamplingParameters, path_there
from feedback_app.serving.backends.vllm import OPTIONS, completion_of, from_completion
from feedback_app.serving.models import Deployment, PolicyVersion
from training.records import CanaryPrompt, Messages

# What the weights are called while they change; no version's name has a colon.
UNFINISHED = "unfinished:"
# A large model's files, read by every worker of the server.
LOAD_TIMEOUT_S = 900.0
NEEDED = (
    'the server must run with VLLM_SERVER_DEV_MODE=1 and --weight-transfer-config \'{"backend": "disk"}\', in a vLLM'
    " that has this backend; LoRA rounds need neither"
)


class VLLMDiskBackend(Backend):
    """A vLLM server with the weight transfer of disk, for one project, on a private network: its API has no passwords.

    "mounted_at" is where the server sees what "models_root" is here, where the two differ.
    """

    replaces = True

    def check_settings(self) -> None:
        if unknown := set(self.endpoint.settings) - OPTIONS:
            raise BackendError(f"endpoint {self.endpoint.name}: options: unknown: {', '.join(sorted(unknown))}")

    @cached_property
    def _served_name(self) -> str:
        """Return by which name the server answers, whatever its weights are: of its models, the one that is no LoRA."""
        models = self.ask_json("GET", "/v1/models")
        with self.reading("/v1/models"):
            return next(str(model["id"]) for model in models["data"] if not model.get("parent"))

    def model_name(self, policy: PolicyVersion) -> str:
        return self._served_name

    def _label(self) -> str:
        """Return what the server calls its weights: a version's name and a word of its own for each load."""
        try:
            info = self.ask_json("GET", "/weight_info")
        except BackendError as error:
            if error.status == 404:
                raise BackendError(f"endpoint {self.endpoint.name}: /weight_info: 404: {NEEDED}", status=404) from error
            raise
        with self.reading("/weight_info"):
            return str(info["weight_version"])

    def _has(self, policy: PolicyVersion) -> str:
        label = self._label()
        if label.rpartition(":")[0] != policy.name:
            raise BackendError(f"endpoint {self.endpoint.name}: has {label!r}, not {policy.name}")
        return label

    def identify(self, policy: PolicyVersion) -> None:
        self._has(policy)

    def stage(self, policy: PolicyVersion) -> None:
        """Load a version in place of what is there, while no request is answered; doing it again changes nothing.

        A load that breaks off leaves the server paused: what is live is loaded again before anybody is answered.
        """
        self._check_alone(policy)
        with suppress(BackendError):
            self._has(policy)
            self.request("POST", "/resume")  # whoever loaded it may have died before this
            return
        self._label()  # says in words that it is no such server, before anything is touched
        self.request("POST", "/pause?mode=wait", timeout=LOAD_TIMEOUT_S)
        try:
            self._load(policy)
        except BackendError as error:
            raise BackendError(
                f"{error}; its weights may be half one version's and half another's, and it stays paused until the live"
                " version is loaded again", status=error.status, away=error.away,
            ) from error  # fmt: skip
        self.request("POST", "/resume")

    def _check_alone(self, policy: PolicyVersion) -> None:
        if others := Deployment.objects.filter(endpoint=self.endpoint).exclude(project=policy.project_id):
            raise BackendError(
                f"endpoint {self.endpoint.name}: holds one version at a time, and project"
                f" {others.select_related('project')[0].project.slug} is answered from there"
            )

    def _load(self, policy: PolicyVersion) -> None:
        self.request("POST", "/update_weight_version", json={"new_version": f"{UNFINISHED}{policy.name}"})
        self.request("POST", "/init_weight_transfer_engine", json={"init_info": {}})
        self._begin()
        path = path_there(self.endpoint, policy)
        self.request("POST", "/update_weights", json={"update_info": {"path": path}}, timeout=LOAD_TIMEOUT_S)
        label = f"{policy.name}:{uuid.uuid4().hex[:8]}"
        self.request("POST", "/finish_weight_update", json={"weight_version": label}, timeout=LOAD_TIMEOUT_S)

    def _begin(self) -> None:
        """Begin an update; one that somebody began and did not live to finish is given up first."""
        try:
            self.request("POST", "/start_weight_update", timeout=LOAD_TIMEOUT_S)
        except BackendError as error:
            if not error.status:
                raise
            with suppress(BackendError):
                self.request("POST", "/finish_weight_update", timeout=LOAD_TIMEOUT_S)
            self.request("POST", "/start_weight_update", timeout=LOAD_TIMEOUT_S)

    def unstage(self, policy: PolicyVersion) -> None:
        """Leave it: the next version takes its place."""

    def greedy(self, policy: PolicyVersion, prompt: CanaryPrompt, max_new_tokens: int) -> CanaryPrompt:
        label = self._has(policy)
        body: dict[str, Any] = {**completion_of(policy, prompt, max_new_tokens), "model": self._served_name}
        answer = self.ask_json("POST", "/v1/completions", json=body)
        self._check_unchanged(label)
        with self.reading("/v1/completions"):
            return from_completion(prompt, answer)

    def generate(
        self, policy: PolicyVersion, messages: Messages, sampling: SamplingParameters, seeds: Sequence[int]
    ) -> list[Generated]:
        """Sample one response a seed; by the version that was there before and after them all."""
        label = self._has(policy)
        answers = super().generate(policy, messages, sampling, seeds)
        self._check_unchanged(label)
        return answers

    def _check_unchanged(self, label: str) -> None:
        if (now := self._label()) != label:
            raise BackendError(f"endpoint {self.endpoint.name}: its weights became {now!r} while it answered")
