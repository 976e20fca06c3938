"""Language models small enough for a test, made on the spot: a tokenizer with a chat template and a random Llama."""

from collections.abc import Sequence
from pathlib import Path

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from tokenizers.decoders import ByteLevel
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from training.records import Messages

END = "<|im_end|>"
# SmolLM2's template without its default system message.
TEMPLATE = (
    "{% for message in messages %}"
    "{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def make_tiny_tokenizer() -> PreTrainedTokenizerFast:
    """Return a tokenizer of bytes whose padding token is its end-of-sequence token, as SmolLM2's is."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {"<|im_start|>": 0, END: 1} | {letter: index + 2 for index, letter in enumerate(alphabet)}
    inner = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = ByteLevel()
    tokenizer = PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=inner, eos_token=END, pad_token=END, additional_special_tokens=["<|im_start|>"]
    )
    tokenizer.chat_template = TEMPLATE
    return tokenizer


def make_tiny_model(path: Path, *, seed: int = 0, dtype: torch.dtype = torch.float32) -> Path:
    """Write a random Llama of two layers with make_tiny_tokenizer's tokenizer; return its directory."""
    torch.manual_seed(seed)
    tokenizer = make_tiny_tokenizer()
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
        tie_word_embeddings=True,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=0,
    )
    model = LlamaForCausalLM(config)
    model.to(dtype=dtype)  # type: ignore[call-arg]
    model.save_pretrained(path)
    tokenizer.save_pretrained(path)
    return path


def count_vowels(prompts: Sequence[Messages], responses: Sequence[str]) -> list[float]:
    """Score a response by the share of vowels among its characters: a reward that needs no model."""
    return [sum(letter in "aeiou" for letter in text) / max(1, len(text)) for text in responses]


def fail_for_one(prompts: Sequence[Messages], responses: Sequence[str]) -> list[float]:
    """Raise where the ninth prompt of the tests' file is among those asked for."""
    if any(prompt[-1]["content"] == "Say 8" for prompt in prompts):
        raise KeyError("no score\nfor it")
    return [0.0] * len(responses)


def score_too_few(prompts: Sequence[Messages], responses: Sequence[str]) -> list[float]:
    """Score all responses but one."""
    return [0.0] * (len(responses) - 1)


def score_nothing(prompts: Sequence[Messages], responses: Sequence[str]) -> list[float]:
    """Score a response by no number."""
    return [float("nan")] * len(responses)


def sum_codes(prompts: Sequence[Messages], responses: Sequence[str]) -> list[float]:
    """Score a response by its characters' codes modulo 7: any two random responses are likely to differ."""
    return [sum(ord(letter) % 7 for letter in text) / 10 for text in responses]
