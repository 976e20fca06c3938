"""A server that others deploy to: told by a signed webhook or by a command, then asked until it has the version.

Whether the one before goes on answering meanwhile is up to whoever deploys. Where it does not, what is live is deployed
again once a push is refused.
"""

import json
import subprocess
import time
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from django.conf import settings
from django.utils import timezone

from feedback_app.notifications.sending import EVERYWHERE, Message, NotSent, post_signed
from feedback_app.serving.backends.base import Backend, BackendError, from_details, path_there
from feedback_app.serving.backends.vllm import completion_of, from_completion
from feedback_app.serving.models import PolicyVersion
from training.records import CanaryPrompt

DEADLINE_S = 900.0
POLL_S = 2.0
KIND = "policy_deploy"
# By which protocol the server says what it has, and answers: TGI's /info and /generate, or OpenAI's as vLLM has it.
PROTOCOLS = ("tgi", "openai")
OPTIONS = {
    "speaks", "webhook", "secret", "command", "deadline_s", "poll_s", "models_root", "mounted_at", "token",
}  # fmt: skip


class ExternalBackend(Backend):
    """Options: "speaks" (tgi or openai), and {"webhook", "secret"} or {"command": true}; "deadline_s", "poll_s".

    The command is the operator's DEPLOY_COMMAND of the environment: no row of a table says what is run. "mounted_at" is
    where the server sees what "models_root" is here, where the two differ.
    """

    replaces = True

    @property
    def options(self) -> dict[str, Any]:
        return {"speaks": "tgi", "deadline_s": DEADLINE_S, "poll_s": POLL_S, **self.endpoint.settings}

    def check_settings(self) -> None:
        options = self.options
        if unknown := set(options) - OPTIONS:
            raise self._wrong(f"unknown: {', '.join(sorted(unknown))}; there are {', '.join(sorted(OPTIONS))}")
        if options["speaks"] not in PROTOCOLS:
            raise self._wrong(f"speaks: one of {', '.join(PROTOCOLS)}")
        if bool(options.get("webhook")) == bool(options.get("command")):
            raise self._wrong("how is a version deployed there? either webhook with secret, or command is needed")
        if options.get("webhook") and not options.get("secret"):
            raise self._wrong("secret: is needed, for the webhook is signed with it")
        if options.get("command") and not settings.DEPLOY_COMMAND:
            raise self._wrong("command: DEPLOY_COMMAND is not set")

    def _wrong(self, why: str) -> BackendError:
        return BackendError(f"endpoint {self.endpoint.name}: options: {why}")

    def model_name(self, policy: PolicyVersion) -> str:
        """Return what the server calls a version: its name, or for TGI the path by which it sees it."""
        return policy.name if self.options["speaks"] == "openai" else self._path(policy)

    def _path(self, policy: PolicyVersion) -> str:
        return path_there(self.endpoint, policy)

    def stage(self, policy: PolicyVersion) -> None:
        """Have a version deployed and wait until the server says that it has it; doing it again changes nothing."""
        self.check_settings()
        if self._has(policy):
            return
        if self.options.get("webhook"):
            self._tell(policy)
        else:
            self._run(policy)
        deadline = time.monotonic() + float(self.options["deadline_s"])
        while not self._has(policy):
            if time.monotonic() > deadline:
                raise BackendError(
                    f"endpoint {self.endpoint.name}: {policy.name} was not there within"
                    f" {float(self.options['deadline_s']):.0f} s of being asked for"
                )
            time.sleep(float(self.options["poll_s"]))

    def _has(self, policy: PolicyVersion) -> bool:
        try:
            self.identify(policy)
        except BackendError:
            return False  # restarting with it, it may be
        return True

    def _tell(self, policy: PolicyVersion) -> None:
        event = str(uuid.uuid4())
        body = {
            "id": event, "kind": KIND, "at": timezone.now().isoformat(), "project": policy.project.slug,
            "policy": policy.name, "number": policy.number, "directory": self._path(policy),
            "manifest_sha256": policy.manifest_sha256,
        }  # fmt: skip
        message = Message(
            url=self.options["webhook"], secret=self.options["secret"], body=json.dumps(body).encode(), event=event,
            kind=KIND,
        )  # fmt: skip
        try:
            # The address is an operator's, and such servers stand on private networks.
            post_signed(message, allowed=EVERYWHERE)
        except NotSent as error:
            raise BackendError(
                f"endpoint {self.endpoint.name}: the webhook that deploys: {error}", status=error.status
            ) from error

    def _run(self, policy: PolicyVersion) -> None:
        command: Sequence[str] = [*settings.DEPLOY_COMMAND, policy.name, self._path(policy)]
        try:
            done = subprocess.run(
                command, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace", check=False,
                timeout=float(self.options["deadline_s"]),
            )  # fmt: skip
        except (OSError, subprocess.TimeoutExpired) as error:
            raise BackendError(f"endpoint {self.endpoint.name}: {Path(command[0]).name}: {error}") from error
        if done.returncode:
            words = (done.stderr.strip() or done.stdout.strip() or "it said nothing").splitlines()[-1][:300]
            raise BackendError(
                f"endpoint {self.endpoint.name}: {Path(command[0]).name} ended with code {done.returncode}: {words}"
            )

    def identify(self, policy: PolicyVersion) -> None:
        if self.options["speaks"] == "openai":
            models = self.ask_json("GET", "/v1/models")
            with self.reading("/v1/models"):
                there = [str(model["id"]) for model in models["data"]]
        else:
            info = self.ask_json("GET", "/info")
            with self.reading("/info"):
                there = [str(info["model_id"])]
        if self.model_name(policy) not in there:
            raise BackendError(
                f"endpoint {self.endpoint.name}: has {', '.join(there) or 'nothing'}, not {self.model_name(policy)}"
            )

    def unstage(self, policy: PolicyVersion) -> None:
        """Leave it to whoever deploys: they know what else the server holds."""

    def greedy(self, policy: PolicyVersion, prompt: CanaryPrompt, max_new_tokens: int) -> CanaryPrompt:
        """Return what the version answers; one that is not there is not answered for by what is."""
        self.identify(policy)
        if self.options["speaks"] == "openai":
            answer = self.ask_json("POST", "/v1/completions", json=completion_of(policy, prompt, max_new_tokens))
            with self.reading("/v1/completions"):
                return from_completion(prompt, answer)
        parameters = {"details": True, "do_sample": False, "max_new_tokens": max_new_tokens}
        body = {"inputs": prompt["inputs"], "parameters": parameters}
        answer = self.ask_json("POST", "/generate", json=body)
        with self.reading("/generate"):
            return from_details(prompt, answer)
