"""What the saved model answers to fixed prompts: an endpoint that says otherwise is not serving it."""

import json
from pathlib import Path

import torch

from training.models import encode, load_causal, load_tokenizer, render_prompt
from training.records import Canary, CanaryPrompt, Message
from training.rollout import Sampling, sample_responses

MAX_NEW_TOKENS = 16
QUESTIONS = (
    "What is the capital of France?",
    "Write one sentence about the sea.",
    "How do I boil an egg?",
    "Name three colours.",
)


def write_canary(directory: Path) -> None:
    """Write canary.json: greedy tokens and their log-probabilities, by the model in directory/model as it is saved."""
    model = load_causal(str(directory), torch.bfloat16)
    tokenizer = load_tokenizer(str(directory))
    prompts: list[CanaryPrompt] = []
    for question in QUESTIONS:
        inputs = render_prompt(tokenizer, [Message(role="user", content=question)])
        sampling = Sampling(MAX_NEW_TOKENS, greedy=True)
        rollout = sample_responses(model, tokenizer, [encode(tokenizer, inputs)], sampling, [0])
        prompts.append(
            {"inputs": inputs, "tokens": rollout.responses()[0], "logprobs": rollout.logprobs_BT[0].tolist()}
        )
    canary: Canary = {"max_new_tokens": MAX_NEW_TOKENS, "prompts": prompts}
    (directory / "canary.json").write_text(json.dumps(canary, indent=1), encoding="utf-8")
