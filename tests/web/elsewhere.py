"""Servers outside of this machine that a test writes the answers of, and versions to be pushed to them."""

import json
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from django.utils import timezone

from feedback_app.projects.models import Project
from feedback_app.serving.models import Deployment, Endpoint, PolicyVersion
from feedback_app.serving.services import register_policy
from tests.inference_server import write_manifest
from training.records import file_sha256

# Paths whose answers are cut off in the middle.
CUT_OFF: set[str] = set()
Answer = tuple[int, Any]


@dataclass
class Fake:
    """A server outside of this machine, that answers by a table of routes; bodies it was sent are kept."""

    routes: dict[str, Callable[[dict[str, Any]], Answer]] = field(default_factory=dict)
    bodies: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    headers: list[Any] = field(default_factory=list)
    url: str = ""

    def answer(self, path: str, body: dict[str, Any]) -> Answer:
        return self.routes[path](body) if path in self.routes else (404, {"error": "no such route"})


def serve(fake: Fake) -> ThreadingHTTPServer:
    class Handler(BaseHTTPRequestHandler):
        def answer(self) -> None:
            length = int(self.headers.get("content-length") or 0)
            body = json.loads(self.rfile.read(length) or "{}")
            fake.bodies.append((self.path, body))
            fake.headers.append(self.headers)
            status, content = fake.answer(self.path, body)
            raw = content if isinstance(content, bytes) else json.dumps(content).encode()
            self.send_response(status)
            # One that is cut off promises more than comes.
            self.send_header("content-length", str(len(raw) + (100 if self.path in CUT_OFF else 0)))
            self.end_headers()
            self.wfile.write(raw)

        do_GET = do_POST = answer

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    fake.url = f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server


def make_output(root: Path, name: str) -> Path:
    """Write what a stage leaves, with a canary of two tokens; no weights are read here."""
    directory = root / name
    (directory / "model").mkdir(parents=True)
    (directory / "adapter").mkdir()
    (directory / "adapter" / "adapter_config.json").write_text("{}")
    canary = {"max_new_tokens": 2, "prompts": [{"inputs": "Hi", "tokens": [5, 6], "logprobs": [-0.5, -0.7]}]}
    (directory / "canary.json").write_text(json.dumps(canary))
    write_manifest(directory)
    return directory


def register(project: Project, directory: Path) -> PolicyVersion:
    return register_policy(project=project, directory=directory, parent=None, source=PolicyVersion.Source.ROUND)


def measured(policy: PolicyVersion, tokens: list[int], logprobs: list[float]) -> None:
    """Have a version's canary.json say that the trainer measured this of it."""
    directory = Path(policy.directory)
    canary = {"max_new_tokens": 2, "prompts": [{"inputs": "Hi", "tokens": tokens, "logprobs": logprobs}]}
    (directory / "canary.json").write_text(json.dumps(canary))
    write_manifest(directory)
    PolicyVersion.objects.filter(pk=policy.pk).update(manifest_sha256=file_sha256(directory / "manifest.json"))


def deploy(project: Project, endpoint: Endpoint, policy: PolicyVersion) -> None:
    # What is live here is served with other figures than its canary's: measuring by it is another test's matter.
    Endpoint.objects.filter(pk=endpoint.pk).update(calibration={"policy": policy.name, "from_trainer": 0.0})
    Deployment.objects.create(project=project, endpoint=endpoint, live=policy, flipped_at=timezone.now())


def chat_of(model: str) -> dict[str, Any]:
    return {
        "id": "1", "object": "chat.completion", "created": 1, "model": model, "system_fingerprint": "x",
        "choices": [{"index": 0, "message": {"role": "assistant", "content": "Yes."}, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5},
    }  # fmt: skip


def live_of(project: Project) -> PolicyVersion:
    return Deployment.objects.select_related("live").get(project=project).live
