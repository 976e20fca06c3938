"""Causal language modelling on raw text: where a policy comes from when there is none, or learns a new domain."""

import math
from collections.abc import Sequence
from typing import Any

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from training.checkpoint import OutputDirectory, prepare_process
from training.config import PretrainConfig
from training.devices import device_of
from training.language import LanguageTraining, Row, train_language
from training.models import (
    add_lora,
    check_plain_head,
    checkpoint_activations,
    encode,
    load_causal,
    load_tokenizer,
    resolve_dtype,
)
from training.records import DataError
from training.text import clean_texts, read_texts

# ChatML, so that what was pretrained here can be fine-tuned on conversations next.
TURN_BEGINS, TURN_ENDS, DOCUMENT_ENDS = "<|im_start|>", "<|im_end|>", "<|endoftext|>"
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def pack(documents: Sequence[Sequence[int]], separator: int, length: int) -> list[Row]:
    """Return documents joined by the separator and cut into rows of `length` tokens, none of them padding.

    Neighbouring rows share a token, given in one and learned in the other: every token but the first is learned once.
    """
    stream = [token for document in documents for token in (*document, separator)]
    rows = [stream[start : start + length] for start in range(0, len(stream) - 1, length - 1)]
    return [(row[:1], row[1:]) for row in rows]


def train_tokenizer(texts: Sequence[str], vocabulary: int) -> PreTrainedTokenizerFast:
    """Return a byte-level BPE tokenizer (Sennrich et al. 2016) of at most `vocabulary` tokens, with a chat template."""
    inner = Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    special = [DOCUMENT_ENDS, TURN_BEGINS, TURN_ENDS]
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    inner.train_from_iterator(texts, trainer)
    tokenizer = PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=inner,
        eos_token=TURN_ENDS,
        pad_token=DOCUMENT_ENDS,
        additional_special_tokens=[TURN_BEGINS],
    )
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def make_model(config: PretrainConfig, tokenizer: PreTrainedTokenizerFast) -> Any:
    """Return a Llama (arXiv:2302.13971) of the config's size with random weights."""
    begins, *ends = (tokenizer.get_vocab()[token] for token in (TURN_BEGINS, TURN_ENDS, DOCUMENT_ENDS))
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=config.hidden_size,
            intermediate_size=4 * config.hidden_size,
            num_hidden_layers=config.layers,
            num_attention_heads=config.heads,
            max_position_embeddings=max(2048, config.max_length),
            tie_word_embeddings=True,
            bos_token_id=begins,
            eos_token_id=ends[0],
            pad_token_id=tokenizer.pad_token_id,
        )
    )
    assert model.generation_config is not None
    model.generation_config.eos_token_id = ends
    return model.to(dtype=resolve_dtype(config.dtype), device=device_of()).eval()  # type: ignore[call-arg]


def prepare_training(config: PretrainConfig) -> LanguageTraining:
    """Return a run ready to begin: texts cleaned and packed, the model loaded or made."""
    texts = clean_texts(read_texts(config.train), near_duplicates=config.near_duplicates)
    if not texts:
        raise DataError(f"{config.train}: nothing is left of it once it is cleaned")
    if config.model:
        tokenizer = load_tokenizer(config.model)
        tokenizer.chat_template = tokenizer.chat_template or CHAT_TEMPLATE
        model = load_causal(config.model, resolve_dtype(config.dtype))
        check_plain_head(model)
    else:
        tokenizer = train_tokenizer(texts, config.vocabulary)
        model = make_model(config, tokenizer)
    if config.gradient_checkpointing:
        checkpoint_activations(model)
    if config.lora_rank:
        model = add_lora(model, config)
    held = clean_texts(read_texts(config.validation), near_duplicates=0) if config.validation else []
    rows = [_packed(tokenizer, part, config.max_length) for part in (texts, held)]
    return LanguageTraining(config, model, tokenizer, *rows)


def _packed(tokenizer: Any, texts: Sequence[str], length: int) -> list[Row]:
    ends = tokenizer.convert_tokens_to_ids(DOCUMENT_ENDS)
    known = ends is not None and ends != tokenizer.unk_token_id
    return pack([encode(tokenizer, text) for text in texts], ends if known else tokenizer.eos_token_id, length)


def run(config: PretrainConfig, output: OutputDirectory) -> None:
    """Pretrain a model on raw text.

    Raises:
        ConfigError, DataError: something named in the config cannot be used.
        Stopped: a signal came; the checkpoint is written.
    """
    prepare_process(config)
    metrics = train_language(prepare_training(config), output)
    if "loss/validation" in metrics:
        metrics["perplexity/validation"] = math.exp(min(metrics["loss/validation"], 700.0))
    files = [config.train, *filter(None, [config.validation])]
    output.finish(metrics, data=files, parents=[*filter(None, [config.model]), *config.parents])
