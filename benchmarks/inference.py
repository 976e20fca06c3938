"""Tokens a second of the embedded inference server, beside transformers' continuous batching and padded generate.

    python benchmarks/inference.py [--model var/models/base]

Sixteen concurrent chats of 48 new tokens over HTTP, each with its own temperature, top-p and seed; the two peers run
greedily in a process of their own, without HTTP. The three take turns and the medians count, so that a busy machine
slows all of them alike. Prints one JSON line.
"""

import argparse
import asyncio
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import httpx

# As the server does for itself, before torch is loaded: threads that wait by spinning are slow beside busy ones.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

SUBJECTS = (
    "dog", "cat", "ship", "king", "fish", "tree", "road", "town",
    "star", "book", "song", "rain", "hill", "door", "lamp", "boat",
)  # fmt: skip
NEW_TOKENS = 48
START_TIMEOUT_S = 120.0


def messages_of(subject: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": f"Write a short story about a {subject}."}]


@contextmanager
def serving(model: str, port: int) -> Iterator[str]:
    """Run the server for the time of the block; yields its address."""
    command = [sys.executable, "-W", "ignore", "-m", "training", "serve", "--model", model, "--port", str(port)]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    try:
        for line in process.stderr:
            if " on http" in line:
                break
        else:
            raise RuntimeError("the server did not start")
        # Its log goes on into the pipe: it is taken from there until the end, lest the server wait for room.
        drain = subprocess.Popen(["cat"], stdin=process.stderr, stdout=subprocess.DEVNULL)
        yield line.strip().rpartition(" on ")[2]
    finally:
        process.terminate()
        process.wait()
        drain.wait()


async def chat_at_once(url: str) -> tuple[int, float]:
    """Return (tokens, seconds) of sixteen chats that start together."""
    async with httpx.AsyncClient(timeout=300) as client:

        async def chat(index: int, subject: str) -> int:
            body = {
                "messages": messages_of(subject), "max_tokens": NEW_TOKENS, "seed": index,
                "temperature": 0.5 + 0.05 * index, "top_p": 0.8 + 0.01 * index,
            }  # fmt: skip
            answer = await client.post(f"{url}/v1/chat/completions", json=body)
            return int(answer.raise_for_status().json()["usage"]["completion_tokens"])

        started = time.perf_counter()
        counts = await asyncio.gather(*(chat(index, subject) for index, subject in enumerate(SUBJECTS)))
        return sum(counts), time.perf_counter() - started


class Peers:
    """transformers' own two ways to answer many prompts at once, in bfloat16 and greedily."""

    def __init__(self, model: str) -> None:
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer

        self.torch = torch
        self.tokenizer: Any = AutoTokenizer.from_pretrained(model, padding_side="left")
        # Two, for the manager changes how its model attends.
        loaded: Any = [AutoModelForCausalLM.from_pretrained(model, dtype=torch.bfloat16) for _ in range(2)]
        self.padded_model, self.paged_model = (each.eval() for each in loaded)
        self.prompts = [
            cast("Any", self.tokenizer.apply_chat_template(messages_of(subject), add_generation_prompt=True))[
                "input_ids"
            ]
            for subject in SUBJECTS
        ]

    def padded(self) -> tuple[int, float]:
        """Return (tokens, seconds) of generate() over one padded batch."""
        started = time.perf_counter()
        batch = self.tokenizer.pad({"input_ids": self.prompts}, return_tensors="pt")
        with self.torch.inference_mode():
            tokens = self.padded_model.generate(**batch, do_sample=False, max_new_tokens=NEW_TOKENS)
        new = tokens[:, batch["input_ids"].shape[1] :]
        ends = (new == self.tokenizer.eos_token_id).cumsum(1)
        # What stands behind a row's first end is padding.
        return int(((ends == 0) | ((ends == 1) & (new == self.tokenizer.eos_token_id))).sum()), (
            time.perf_counter() - started
        )

    def continuous(self) -> tuple[int, float]:
        """Return (tokens, seconds) of the continuous batching manager."""
        from transformers import GenerationConfig

        make_config: Any = GenerationConfig
        config = make_config(
            do_sample=False,
            max_new_tokens=NEW_TOKENS,
            eos_token_id=self.tokenizer.eos_token_id,
            pad_token_id=self.tokenizer.pad_token_id,
        )
        # Only the answering is timed: the manager is up before it and gone after it, so that its thread slows nobody.
        with self.paged_model.continuous_batching_context_manager(generation_config=config, timeout=5) as manager:
            started = time.perf_counter()
            manager.add_requests(inputs=self.prompts, max_new_tokens=NEW_TOKENS)
            tokens = done = 0
            while done < len(self.prompts):
                answer = manager.get_result(timeout=60)
                if answer is None:
                    raise RuntimeError("the continuous batching manager gave nothing for a minute")
                if answer.is_finished():
                    tokens, done = tokens + len(answer.generated_tokens), done + 1
            return tokens, time.perf_counter() - started


def rate(run: Callable[[], tuple[int, float]]) -> float:
    tokens, seconds = run()
    return tokens / seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=str(Path(os.environ.get("DATA_DIR", "var")) / "models" / "base"))
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    peers = Peers(options.model)
    with serving(options.model, options.port) as url:
        runs: dict[str, Callable[[], tuple[int, float]]] = {
            "server": lambda: asyncio.run(chat_at_once(url)),
            "continuous_batching": peers.continuous,
            "padded_generate": peers.padded,
        }
        for run in runs.values():  # the first pass of each compiles and warms
            run()
        rates: dict[str, list[float]] = {name: [] for name in runs}
        for _ in range(options.repeats):
            for name, run in runs.items():
                rates[name].append(rate(run))
    medians = {name: statistics.median(values) for name, values in rates.items()}
    result = {
        "benchmark": "inference", "chats": len(SUBJECTS), "new_tokens": NEW_TOKENS, "cpus": os.cpu_count(),
        "tokens_per_s": {name: round(value, 1) for name, value in medians.items()},
        "ratio_to_continuous_batching": round(medians["server"] / medians["continuous_batching"], 2),
        "ratio_to_padded_generate": round(medians["server"] / medians["padded_generate"], 2),
    }  # fmt: skip
    print(json.dumps(result))


if __name__ == "__main__":
    main()
