"""An inference server of the embedded one's protocol, whose answers a test chooses."""

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class FakeEndpoint:
    """Remembers which versions were staged and what was asked; answers with a test's function of (prompt, seed)."""

    def __init__(self) -> None:
        self.staged: dict[str, str] = {}
        self.asked: list[dict[str, Any]] = []
        self.answer: Callable[[str, int], str] = lambda prompt, seed: f"answer {seed}"
        self.url = ""
        # Called before each completion is answered: a test may change the world in the middle of a sampling.
        self.before: Callable[[int], None] = lambda number: None
        # By version: what is answered in its place, and the seconds that it takes to answer.
        self.broken: dict[str, tuple[int, dict[str, Any]]] = {}
        self.slow: dict[str, float] = {}

    def complete(self, body: dict[str, Any]) -> dict[str, Any]:
        """Return a chat completion, by the version that was named."""
        self.asked.append(body)
        self.before(len(self.asked))
        text = self.answer(body["messages"][-1]["content"], body["seed"])
        message = {"role": "assistant", "content": text}
        return {
            "id": "", "object": "chat.completion", "created": 0, "system_fingerprint": "", "model": body["model"],
            "choices": [{"index": 0, "finish_reason": "stop", "message": message, "logprobs": None}],
            "usage": {"prompt_tokens": 1, "completion_tokens": len(text.split()), "total_tokens": 2},
        }  # fmt: skip

    def greedy(self, body: dict[str, Any]) -> dict[str, Any]:
        """Return a greedy generation: the base says 5, and every version that was trained 7."""
        token = 5 if body["parameters"]["adapter_id"].endswith("-v0") else 7
        details: dict[str, Any] = {
            "tokens": [{"id": token, "text": "x", "logprob": -0.1, "special": False}],
            "seed": None,
        }
        details |= {
            "finish_reason": "length",
            "generated_tokens": 1,
            "policy_version": body["parameters"]["adapter_id"],
        }
        return {"generated_text": "x", "details": details}

    def info(self) -> dict[str, Any]:
        """Return what is staged, as the embedded server's /info says it."""
        return {"policies": [{"name": name, "path": path, "state": "ready"} for name, path in self.staged.items()]}


@contextmanager
def run_endpoint() -> Iterator[FakeEndpoint]:
    """Serve a FakeEndpoint on a free port for the time of the block."""
    fake = FakeEndpoint()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._send(fake.info())

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            name = body.get("model") or body.get("parameters", {}).get("adapter_id", "")
            time.sleep(fake.slow.get(name, 0.0))
            if name in fake.broken:
                status, answer = fake.broken[name]
                self._send(answer, status)
            elif self.path == "/admin/policies":
                fake.staged[body["name"]] = body["path"]
                self._send({})
            elif self.path == "/generate":
                self._send(fake.greedy(body))
            elif self.path == "/v1/chat/completions":
                self._send(fake.complete(body))
            else:
                self._send({})

        def _send(self, body: dict[str, Any], status: int = 200) -> None:
            content = json.dumps(body).encode()
            self.send_response(status)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    fake.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield fake
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
