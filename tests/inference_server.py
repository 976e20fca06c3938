"""The embedded inference server as a real process, on models small enough to answer at once."""

import json
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from tests.training.tiny import make_tiny_tokenizer
from training.records import file_sha256

START_TIMEOUT_S = 90.0
# Room for an answer that is still under way when a busy machine gets round to looking.
LENGTH = 2048


def make_model(path: Path, *, seed: int, layers: int = 2, spread: float = 1.0, nan_token: str = "") -> Path:
    """Write a random Llama whose next tokens are far from equally likely; return its directory.

    Args:
        spread: scales the logits' standard deviation, which is about 2.
        nan_token: a letter at which the model breaks: its embedding is not a number.
    """
    torch.manual_seed(seed)
    tokenizer = make_tiny_tokenizer()
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=192,
        intermediate_size=256,
        num_hidden_layers=layers,
        num_attention_heads=6,
        num_key_value_heads=2,
        max_position_embeddings=LENGTH,
        tie_word_embeddings=False,
        initializer_range=0.15,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=0,
    )
    model = LlamaForCausalLM(config).to(dtype=torch.bfloat16)  # type: ignore[call-arg]
    with torch.no_grad():
        model.lm_head.weight.mul_(spread)
        # A logit of 0 is never the largest: greedy answers take all the tokens they may, drawn ones end now and then.
        model.lm_head.weight[tokenizer.eos_token_id] = 0.0
        if nan_token:
            model.get_input_embeddings().weight[tokenizer.convert_tokens_to_ids(nan_token)] = float("nan")
    model.save_pretrained(path)
    tokenizer.save_pretrained(path)
    return path


def write_manifest(directory: Path) -> None:
    """Write the manifest of a stage's output directory, as the trainer does last."""
    files = {
        str(file.relative_to(directory)): {"size": file.stat().st_size, "sha256": file_sha256(file)}
        for file in sorted(directory.rglob("*"))
        if file.is_file() and file.name != "manifest.json"
    }
    manifest = {"stage": "ppo", "files": files, "parents": {}, "data_sha256": {}, "config_sha256": "", "versions": {}}
    (directory / "manifest.json").write_text(json.dumps(manifest))


@dataclass
class Server:
    """One running server."""

    url: str
    process: subprocess.Popen[bytes]
    log: Path

    def get(self, path: str) -> httpx.Response:
        return httpx.get(self.url + path, timeout=60)

    def post(self, path: str, body: object, **headers: str) -> httpx.Response:
        return httpx.post(self.url + path, json=body, headers=headers, timeout=120)

    def generate(self, inputs: str, **parameters: object) -> httpx.Response:
        return self.post("/generate", {"inputs": inputs, "parameters": parameters})

    def policies(self) -> dict[str, str]:
        """Return the state of each policy by its name."""
        return {entry["name"]: entry["state"] for entry in self.get("/info").json()["policies"]}


@contextmanager
def running_server(
    model: Path, log: Path, *options: str, environment: Mapping[str, str] | None = None
) -> Iterator[Server]:
    """Run `python -m training serve` on a free port for the time of the block."""
    command = [sys.executable, "-W", "ignore", "-m", "training", "serve", "--model", str(model), *options]
    if "--port" not in options:
        command += ["--port", "0"]
    with log.open("wb") as file:
        process = subprocess.Popen(command, stdout=file, stderr=file, env=environment)
    try:
        yield Server(_address(process, log), process, log)
    finally:
        process.kill()
        process.wait()


def _address(process: subprocess.Popen[bytes], log: Path) -> str:
    deadline = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline:
        for line in log.read_text(errors="replace").splitlines():
            if "serving policy" in line:
                return line.rpartition(" on ")[2]
        if process.poll() is not None:
            break
        time.sleep(0.05)
    raise RuntimeError(f"the inference server did not come up: {log.read_text(errors='replace')[-2000:]}")


def wait_until(condition: object, seconds: float = 20.0) -> None:
    """Wait for a callable to return something true; raise AssertionError when it does not in time."""
    assert callable(condition)
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(f"not in {seconds} s")
        time.sleep(0.02)
