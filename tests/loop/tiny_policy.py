"""A language model so small that PPO changes its taste within seconds, and the taste that is asked of it."""

import random
from pathlib import Path

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from tokenizers.decoders import ByteLevel
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from tests.training.tiny import END, TEMPLATE

# What a byte-level tokenizer calls the printable bytes, the space (Ġ) and the line's end (Ċ); nothing else is known to
# it, so that any sample is valid text and reads back as the very tokens that were drawn.
LETTERS = [chr(code) for code in range(ord("!"), ord("~") + 1)] + ["Ġ", "Ċ"]


def make_tiny_policy(path: Path, *, seed: int) -> Path:
    """Write a random Llama of two layers that draws printable characters about evenly; return its directory."""
    torch.manual_seed(seed)
    tokenizer = _make_tokenizer()
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=256,
        tie_word_embeddings=False,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=0,
    )
    LlamaForCausalLM(config).save_pretrained(path)
    tokenizer.save_pretrained(path)
    return path


def _make_tokenizer() -> PreTrainedTokenizerFast:
    vocabulary = {"<|im_start|>": 0, END: 1} | {letter: index + 2 for index, letter in enumerate(LETTERS)}
    inner = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = ByteLevel()
    tokenizer = PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=inner, eos_token=END, pad_token=END, additional_special_tokens=["<|im_start|>"]
    )
    tokenizer.chat_template = TEMPLATE
    return tokenizer


def make_prompts(number: int) -> list[str]:
    """Return so many short prompts, each another."""
    chance = random.Random("prompts")
    words = ["sea", "tea", "bee", "oak", "sun", "fog", "elm", "ink"]
    return [f"{index} " + " ".join(chance.choices(words, k=3)) + "?" for index in range(number)]
