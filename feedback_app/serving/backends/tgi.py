"""text-generation-inference takes no new weights while it runs: of two, one serves while the other is restarted.

Each colour's container watches a CURRENT file on the model volume and starts the launcher with the directory it names;
/info.model_id, that directory, is the only word on which version answers.
"""

import time
from pathlib import Path
from typing import Any

from feedback_app.serving.backends.base import Backend, BackendError, from_details, path_there
from feedback_app.serving.models import Deployment, PolicyVersion
from training.records import CanaryPrompt

COLOURS = ("blue", "green")
RESTART_TIMEOUT_S = 900.0
POLL_S = 2.0


class TGIBackend(Backend):
    """Two servers: endpoint.settings has for each colour {"url", "current_file"}, and optionally a token.

    "mounted_at" is where the servers see what "models_root" is here, where the two differ.
    """

    def _colours(self) -> dict[str, dict[str, Any]]:
        try:
            return {colour: self.endpoint.settings[colour] for colour in COLOURS}
        except KeyError as error:
            raise BackendError(f"endpoint {self.endpoint.name}: settings lack {error}") from error

    def model_name(self, policy: PolicyVersion) -> str:
        """Return the path by which the servers know a version."""
        return path_there(self.endpoint, policy)

    def _serving(self, colour: str) -> str | None:
        url = self._colours()[colour]["url"]
        try:
            info = self.ask_json("GET", "/info", base=url)
            with self.reading("/info"):
                return str(info["model_id"])
        except BackendError:
            return None  # restarting, or down: it serves nothing

    def address_of(self, policy: PolicyVersion) -> str:
        for colour, settings in self._colours().items():
            if self._serving(colour) == self.model_name(policy):
                return str(settings["url"])
        raise BackendError(f"endpoint {self.endpoint.name}: no colour serves {policy.name}")

    def stage(self, policy: PolicyVersion) -> None:
        wanted = self.model_name(policy)
        if any(self._serving(colour) == wanted for colour in COLOURS):
            return
        colour = self._idle_colour()
        current = Path(self._colours()[colour]["current_file"])
        fresh = current.with_name(f"{current.name}.new")
        try:
            current.parent.mkdir(parents=True, exist_ok=True)
            fresh.write_text(wanted)
            fresh.replace(current)
        except OSError as error:
            raise BackendError(f"endpoint {self.endpoint.name}: {current}: {error.strerror}") from error
        deadline = time.monotonic() + float(self.endpoint.settings.get("restart_timeout_s", RESTART_TIMEOUT_S))
        while self._serving(colour) != wanted:
            if time.monotonic() > deadline:
                raise BackendError(f"endpoint {self.endpoint.name}: {colour} did not come up with {wanted}")
            time.sleep(float(self.endpoint.settings.get("poll_s", POLL_S)))

    def _idle_colour(self) -> str:
        """Return the colour that no project's live version answers from."""
        live = {
            self.model_name(deployment.live)
            for deployment in Deployment.objects.filter(endpoint=self.endpoint).select_related("live")
        }
        for colour in COLOURS:
            if self._serving(colour) not in live:
                return colour
        raise BackendError(f"endpoint {self.endpoint.name}: both colours serve live versions; it is for one project")

    def identify(self, policy: PolicyVersion) -> None:
        self.address_of(policy)

    def unstage(self, policy: PolicyVersion) -> None:
        """Leave the colour as it is: it is overwritten by the next version staged, and is the rollback until then."""

    def greedy(self, policy: PolicyVersion, prompt: CanaryPrompt, max_new_tokens: int) -> CanaryPrompt:
        parameters = {"details": True, "do_sample": False, "max_new_tokens": max_new_tokens}
        answer = self.ask_json(
            "POST",
            "/generate",
            base=self.address_of(policy),
            json={"inputs": prompt["inputs"], "parameters": parameters},
        )
        with self.reading("/generate"):
            return from_details(prompt, answer)
