"""Completions for a file of prompts: what a policy says, with all that is needed to say it again."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from training.checkpoint import OutputDirectory, Stopped, prepare_process, stop_requests
from training.config import GenerateConfig
from training.models import check_plain_head, encode, load_causal, load_tokenizer, render_prompt, resolve_dtype
from training.records import PromptRow, read_prompts
from training.rollout import Sampling, draw_seeds, sample_responses


@dataclass(frozen=True)
class Request:
    """One response to be drawn: a prompt and which of its responses this is."""

    row: PromptRow
    index: int


def plan_batches(rows: Sequence[PromptRow], responses_per_prompt: int, batch: int) -> list[list[Request]]:
    """Return every response to be drawn, in batches, a prompt's own beside each other."""
    requests = [Request(row, index) for row in rows for index in range(responses_per_prompt)]
    return [requests[start : start + batch] for start in range(0, len(requests), batch)]


def batch_seed(seed: int, number: int) -> int:
    """Return the seed a batch is drawn with: batches are independent, so a resume draws the rest as it would have."""
    return (seed * 1_000_003 + number) % 2**63


def complete_batch(
    model: Any, tokenizer: Any, requests: Sequence[Request], config: GenerateConfig, seed: int
) -> Iterator[dict[str, Any]]:
    """Yield one line for each request: prompt, completion, seed, token count and why it ended."""
    prompts = [
        encode(tokenizer, render_prompt(tokenizer, request.row.prompt))[-config.max_prompt_length :]
        for request in requests
    ]
    seeds = draw_seeds(torch.Generator().manual_seed(seed), len(prompts))
    sampling = Sampling(config.response_length, config.temperature, config.top_p)
    rollout = sample_responses(model, tokenizer, prompts, sampling, seeds)
    drawn = zip(requests, rollout.responses(), rollout.ended_B.tolist(), strict=True)
    for own_seed, (request, tokens, ended) in zip(seeds, drawn, strict=True):
        text = str(tokenizer.decode(tokens, skip_special_tokens=True))
        yield {
            "id": request.row.id,
            "prompt": request.row.prompt,
            "completion": [{"role": "assistant", "content": text}],
            "index": request.index,
            "seed": own_seed,  # with it the response can be drawn again, in any company
            "tokens": len(tokens),
            "finish_reason": "stop" if ended else "length",
        }


def run(config: GenerateConfig, output: OutputDirectory) -> None:
    """Write completions.jsonl.

    Raises:
        ConfigError, DataError: something named in the config cannot be used.
        Stopped: a signal came; the checkpoint is written.
    """
    prepare_process(config)
    model, tokenizer = load_causal(config.model, resolve_dtype(config.dtype)), load_tokenizer(config.model)
    check_plain_head(model)
    batches = plan_batches(read_prompts(config.prompts), config.responses_per_prompt, config.batch)
    target = output.path / "completions.jsonl"
    first, written = 0, 0
    if (found := output.load_checkpoint()) is not None:
        first, written = found[0], found[1]["bytes"]
    with target.open("r+b" if first else "wb") as file, stop_requests() as stop:
        file.truncate(written)
        file.seek(written)
        for number in range(first, len(batches)):
            lines = list(complete_batch(model, tokenizer, batches[number], config, batch_seed(config.seed, number)))
            file.write("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines).encode())
            file.flush()
            tokens = sum(line["tokens"] for line in lines)
            stopped = sum(line["finish_reason"] == "stop" for line in lines)
            output.log(
                {
                    "update": number + 1,
                    "updates": len(batches),
                    "response/length": tokens / len(lines),
                    "response/eos_fraction": stopped / len(lines),
                }
            )
            output.save_checkpoint(number + 1, {"bytes": file.tell()})
            if stop.received and number + 1 < len(batches):
                raise Stopped
    output.finish(_metrics(target.read_text(encoding="utf-8")), data=[config.prompts],
                  parents=[config.model, *config.parents])  # fmt: skip


def _metrics(lines: str) -> dict[str, float]:
    rows = [json.loads(line) for line in lines.splitlines()]
    return {
        "n/completions": len(rows),
        "response/length": sum(row["tokens"] for row in rows) / len(rows),
        "response/eos_fraction": sum(row["finish_reason"] == "stop" for row in rows) / len(rows),
    }
