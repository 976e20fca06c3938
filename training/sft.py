"""Supervised fine-tuning: the model learns to write the completions, and nothing of their prompts."""

from training.checkpoint import OutputDirectory, prepare_process
from training.config import SFTConfig
from training.data import render_completions
from training.language import LanguageTraining, train_language
from training.models import (
    add_lora,
    check_plain_head,
    checkpoint_activations,
    load_causal,
    load_tokenizer,
    resolve_dtype,
)
from training.records import read_completions


def prepare_training(config: SFTConfig) -> LanguageTraining:
    """Return a run ready to begin: rows rendered by the model's chat template, the model with its adapters."""
    tokenizer = load_tokenizer(config.model)
    train = render_completions(tokenizer, read_completions(config.train), config.max_length)
    held = []
    if config.validation:
        held = render_completions(tokenizer, read_completions(config.validation), config.max_length)
    model = load_causal(config.model, resolve_dtype(config.dtype))
    check_plain_head(model)
    if config.gradient_checkpointing:
        checkpoint_activations(model)
    return LanguageTraining(config, add_lora(model, config) if config.lora_rank else model, tokenizer, train, held)


def run(config: SFTConfig, output: OutputDirectory) -> None:
    """Fine-tune a model on prompts and completions.

    Raises:
        ConfigError, DataError: something named in the config cannot be used.
        Stopped: a signal came; the checkpoint is written.
    """
    prepare_process(config)
    metrics = train_language(prepare_training(config), output)
    files = [config.train, *filter(None, [config.validation])]
    output.finish(metrics, data=files, parents=[config.model, *config.parents])
