"""The same request gives the same answer whatever runs beside it; what it is given follows from the model alone."""

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import torch
from scipy.stats import chisquare
from transformers import AutoModelForCausalLM, AutoTokenizer

from tests.inference_server import Server

# Prompts of one to 300 tokens: inside one block of keys, over several, and over several prefill chunks.
LENGTHS = (1, 3, 17, 40, 63, 64, 65, 100, 127, 128, 129, 150, 200, 255, 256, 300)
TEXT = "A small boat left the harbour at noon, and nobody on the quay looked up from their nets. " * 4


def mixed_requests() -> list[dict[str, Any]]:
    """Return sixteen requests, each with its own way to draw."""
    ways: list[dict[str, Any]] = [
        {},
        {"do_sample": True, "temperature": 0.7},
        {"do_sample": True, "temperature": 1.5, "top_k": 20},
        {"do_sample": True, "top_p": 0.8},
        {"do_sample": True, "top_k": 50, "top_p": 0.9, "temperature": 1.2},
        {"do_sample": True, "typical_p": 0.7},
        {"do_sample": True, "repetition_penalty": 1.3, "frequency_penalty": 0.5},
        {"do_sample": True, "temperature": 5.0},
    ]
    return [
        {
            "inputs": TEXT[:length],
            "parameters": {
                **ways[index % len(ways)], "seed": 100 + index, "max_new_tokens": 8 + 5 * index, "details": True,
                "decoder_input_details": index % 3 == 0, "top_n_tokens": index % 4,
            },
        }
        for index, length in enumerate(LENGTHS)
    ]  # fmt: skip


async def ask_together(url: str, bodies: list[dict[str, Any]], apart_s: float = 0.0) -> list[dict[str, Any]]:
    """Send requests that run at the same time, each apart_s after the one before it."""
    async with httpx.AsyncClient(timeout=120, limits=httpx.Limits(max_connections=None)) as client:

        async def ask(index: int, body: dict[str, Any]) -> dict[str, Any]:
            await asyncio.sleep(apart_s * index)
            answer = await client.post(f"{url}/generate", json=body)
            result: dict[str, Any] = answer.raise_for_status().json()
            return result

        return await asyncio.gather(*(ask(index, body) for index, body in enumerate(bodies)))


def test_an_answer_is_the_same_alone_and_in_any_company(server: Server) -> None:
    bodies = mixed_requests()
    alone = [server.post("/generate", body).json() for body in bodies]
    # Log-probabilities included, to the last bit.
    assert asyncio.run(ask_together(server.url, bodies)) == alone
    # In another order, more of them than slots, and coming in while others are under way.
    backwards = asyncio.run(ask_together(server.url, [*reversed(bodies), *bodies], apart_s=0.007))
    assert backwards == [*reversed(alone), *alone]


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Leave the machine to the server: threads of ours that wait for each other would spin beside it."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("one_thread")
def test_log_probabilities_are_those_of_a_plain_forward_pass(server: Server, models: dict[str, Path]) -> None:
    """As near to a float32 forward pass as transformers' own in bfloat16, the dtype that the server computes in."""
    exact, rounded = (
        AutoModelForCausalLM.from_pretrained(models["base"], dtype=dtype, attn_implementation="eager")
        for dtype in (torch.float32, torch.bfloat16)
    )
    tokenizer = AutoTokenizer.from_pretrained(models["base"])
    ours_apart: list[float] = []
    theirs_apart: list[float] = []
    for body in mixed_requests():
        body["parameters"]["decoder_input_details"] = True
        details = server.post("/generate", body).json()["details"]
        prompt = tokenizer(body["inputs"])["input_ids"]
        assert [token["id"] for token in details["prefill"]] == prompt
        tokens = prompt + [token["id"] for token in details["tokens"]]
        ours = torch.tensor([token["logprob"] for token in [*details["prefill"][1:], *details["tokens"]]])
        wanted, theirs = logprobs_of(exact, tokens), logprobs_of(rounded, tokens)
        ours_apart += (ours - wanted).abs().tolist()
        theirs_apart += (theirs - wanted).abs().tolist()
    # Some 2,500 tokens: means of rounding errors of one size, and extremes that may be luckier on one side.
    assert np.mean(ours_apart) < 1.2 * np.mean(theirs_apart)
    assert max(ours_apart) < 2 * max(theirs_apart)


def logprobs_of(model: Any, tokens: list[int]) -> torch.Tensor:
    """Return the log-probability of each token but the first, given those before it."""
    with torch.inference_mode():
        logprobs: torch.Tensor = model(torch.tensor([tokens])).logits[0].float().log_softmax(-1)
    return logprobs[torch.arange(len(tokens) - 1), torch.tensor(tokens[1:])]


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_what_is_drawn_follows_the_closed_form(server: Server, models: dict[str, Path], temperature: float) -> None:
    """softmax(logits / T) of transformers' own forward pass against 800 seeds, by chi-square."""
    draws = 800
    parameters = {"max_new_tokens": 1, "details": True, "do_sample": True, "temperature": temperature}
    bodies = [{"inputs": "Tell me", "parameters": {**parameters, "seed": seed}} for seed in range(draws)]
    answers = asyncio.run(ask_in_turns(server.url, bodies))
    drawn = [answer["details"]["tokens"][0]["id"] for answer in answers]
    tokenizer = AutoTokenizer.from_pretrained(models["base"])
    model = AutoModelForCausalLM.from_pretrained(models["base"], dtype=torch.bfloat16, attn_implementation="eager")
    with torch.inference_mode():
        logits = model(torch.tensor([tokenizer("Tell me")["input_ids"]])).logits[0, -1].double()
    expected = (logits / temperature).softmax(-1).numpy() * draws
    observed = np.bincount(drawn, minlength=len(expected))
    # Classes of at least five expected draws, the others together in one.
    large = expected >= 5
    assert large.sum() >= 10
    counts, wanted = (np.append(of[large], of[~large].sum()) for of in (observed, expected))
    # The seeds are fixed, so this either holds for good or fails for good.
    assert chisquare(counts, wanted).pvalue > 0.001


async def ask_in_turns(url: str, bodies: list[dict[str, Any]]) -> list[dict[str, Any]]:
    async with httpx.AsyncClient(timeout=120) as client:
        places = asyncio.Semaphore(32)

        async def ask(body: dict[str, Any]) -> dict[str, Any]:
            async with places:
                result: dict[str, Any] = (await client.post(f"{url}/generate", json=body)).raise_for_status().json()
                return result

        return await asyncio.gather(*(ask(body) for body in bodies))
