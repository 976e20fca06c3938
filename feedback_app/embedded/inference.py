"""An inference server for a command that needs one while `make up` does not run."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
from django.conf import settings

from feedback_app.embedded.base_model import is_complete
from feedback_app.embedded.children import Child, stop_children
from feedback_app.embedded.paths import choose_port, serving_url

START_TIMEOUT_S = 120.0


def answers(url: str) -> bool:
    """Say whether a server is well at an address."""
    try:
        return httpx.get(f"{url}/health", timeout=2).status_code == 200
    except httpx.HTTPError:
        return False


def inference_child(data_dir: Path, python: str) -> Child:
    """Return the embedded inference server as a process to be watched."""
    port = choose_port(data_dir, "inference")
    command = [python, "-W", "ignore", "-m", "training", "serve", "--model", settings.BASE_MODEL, "--name", "base",
               "--port", str(port)]  # fmt: skip
    return Child("inference", command, data_dir / "logs" / "inference.log")


@contextmanager
def hold_inference(python: str) -> Iterator[None]:
    """Have the embedded server answer for the time of the block: the one that runs, or one of our own.

    Raises:
        RuntimeError: there is no base model, or the server does not come up.
    """
    if settings.PRODUCTION or answers(settings.SERVING_URL):
        yield
        return
    if not is_complete(Path(settings.BASE_MODEL)):
        raise RuntimeError(f"there is no model at {settings.BASE_MODEL}: make setup")
    child = inference_child(settings.DATA_DIR, python)
    settings.SERVING_URL = serving_url(settings.DATA_DIR)
    child.start()
    try:
        deadline = time.monotonic() + START_TIMEOUT_S
        while not answers(settings.SERVING_URL):
            ended = child.process is not None and child.process.poll() is not None
            if ended or time.monotonic() > deadline:
                raise RuntimeError(f"the inference server did not come up; its log: {child.log}")
            time.sleep(0.2)
        yield
    finally:
        stop_children([child])
