"""Policies, critics and reward models: loaded, adapted, run over prompts and responses, saved."""

import copy
import json
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, cast

import torch
from jinja2 import TemplateError
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

from training.attention import NAME as LEAN
from training.attention import choose_attention
from training.batches import Batch
from training.config import ConfigError, Dtype, OptimiserConfig
from training.devices import device_of
from training.lean_layers import make_lean
from training.records import DataError, Messages


def resolve_dtype(dtype: Dtype) -> torch.dtype:
    """Return the dtype to compute in: auto is bfloat16, whose range needs no loss scaling."""
    return {"auto": torch.bfloat16, "bfloat16": torch.bfloat16, "float32": torch.float32, "float64": torch.float64}[
        dtype
    ]


def model_directory(path: str) -> str:
    """Return where a model's weights are: a stage's output directory keeps them in model/; a hub name stays."""
    inside = Path(path) / "model"
    return str(inside) if (inside / "config.json").is_file() else path


def load_tokenizer(path: str, key: str = "model") -> Any:
    """Return a model's tokenizer, with a padding token (the end-of-sequence one where it has none of its own).

    Raises:
        ConfigError: names the config's key for the path.
    """
    try:
        tokenizer = AutoTokenizer.from_pretrained(model_directory(path))
    except (OSError, ValueError) as error:
        raise ConfigError(f"{key}: {path}: no tokenizer can be loaded: {str(error).splitlines()[0]}") from error
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def load_causal(path: str, dtype: torch.dtype, key: str = "model") -> Any:
    """Return a language model ready for training: no dropout, attention as measured best for the device.

    Raises:
        ConfigError: names the config's key for the path.
    """
    return _load(AutoModelForCausalLM, path, dtype, key)


def load_scorer(path: str, dtype: torch.dtype, key: str = "model") -> Any:
    """Return a reward model with one label; a language model's new score layer is random until reset.

    Raises:
        ConfigError: names the config's key for the path.
    """
    return _load(AutoModelForSequenceClassification, path, dtype, key, num_labels=1)


def _load(kind: Any, path: str, dtype: torch.dtype, key: str, **options: Any) -> Any:
    try:
        family = AutoConfig.from_pretrained(model_directory(path)).model_type
        attention = choose_attention(family, dtype, device_of())
        model = kind.from_pretrained(model_directory(path), dtype=dtype, attn_implementation=attention, **options)
    except (OSError, ValueError) as error:
        raise ConfigError(f"{key}: {path}: no model can be loaded: {str(error).splitlines()[0]}") from error
    if attention == LEAN:
        make_lean(model)
    # eval() for good: dropout would make the first ratio of PPO differ from 1, and the stages need none.
    return model.to(device_of()).eval()


def end_tokens(model: Any, tokenizer: Any) -> frozenset[int]:
    """Return the tokens that end a response, as the model's generation config and tokenizer name them."""
    named = getattr(model, "generation_config", None) and model.generation_config.eos_token_id
    ids = named if isinstance(named, list) else [named]
    return frozenset(int(i) for i in [*ids, tokenizer.eos_token_id] if i is not None)


def render_prompt(tokenizer: Any, messages: Messages) -> str:
    """Return a conversation as the model reads it, up to where its answer begins."""
    return _render(tokenizer, messages, add_generation_prompt=True)


def render_dialogue(tokenizer: Any, messages: Messages) -> str:
    """Return a whole conversation as the chat template writes it: what a reward model scores, nothing added."""
    return _render(tokenizer, messages, add_generation_prompt=False)


def _render(tokenizer: Any, messages: Messages, *, add_generation_prompt: bool) -> str:
    if tokenizer.chat_template is None:
        raise ConfigError("chat template: the model's tokenizer has none")
    try:
        return str(tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=add_generation_prompt))
    except TemplateError as error:  # a template may refuse roles, or their order
        raise DataError(f"chat template: {error}: {json.dumps(messages, ensure_ascii=False)[:200]}") from error


def encode(tokenizer: Any, text: str) -> list[int]:
    """Return a rendered text's tokens: the template has written every special token already."""
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])


def inner_model(model: Any) -> Any:
    """Return the transformers model inside a PEFT one, its adapters still in place."""
    return model.get_base_model() if hasattr(model, "peft_config") else model


def checkpoint_activations(model: Any) -> None:
    """Keep no activations inside layers: they are computed again when a backward pass needs them."""
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    for layer in _checkpointed(model):
        if isinstance(getattr(layer, "dropout", None), float):
            setattr(layer, "dropout", 0.0)  # noqa: B010 - a module's attribute is a Tensor or Module to mypy


def _checkpointed(model: Any) -> list[nn.Module]:
    return [module for module in model.modules() if getattr(module, "gradient_checkpointing", False)]


@contextmanager
def _recomputing(model: Any) -> Iterator[None]:
    """Let layers that keep no activations know that a backward pass follows: transformers asks their `training` flag.

    Only the layers' own flag is set, for one pass: what lies inside them keeps its dropout off, and rollouts their
    cache.
    """
    layers = _checkpointed(model) if torch.is_grad_enabled() else []
    for layer in layers:
        layer.training = True
    try:
        yield
    finally:
        for layer in layers:
            layer.training = False


def hidden_states(
    model: Any, tokens_BS: Tensor, positions_BS: Tensor | None = None, visible_BSS: Tensor | None = None
) -> Tensor:
    """Return the last hidden states (B, S, H) of left-aligned rows.

    Rows that hold more than one text name their positions, and which token may look at which.
    """
    inner = inner_model(model)
    if positions_BS is None:
        positions_BS = torch.arange(tokens_BS.shape[1], device=tokens_BS.device)[None, :].expand(tokens_BS.shape)
    mask = {}
    if visible_BSS is not None:
        # Added to attention's scores, so in its dtype; the smallest number, for -inf less -inf would be NaN.
        hidden_B1SS = (~visible_BSS)[:, None].to(model.dtype)
        mask["attention_mask"] = hidden_B1SS * torch.finfo(model.dtype).min
    with _recomputing(inner):
        output = inner.get_decoder()(input_ids=tokens_BS, position_ids=positions_BS, use_cache=False, **mask)
    return cast(Tensor, output.last_hidden_state)


def response_states(model: Any, batch: Batch) -> Tensor:
    """Return the hidden states (B, T, H) from which each response token is predicted: one position before it."""
    hidden_BSH = hidden_states(model, batch.tokens_BS)
    index_BT = batch.response_positions_BT - 1
    return hidden_BSH.gather(1, index_BT.unsqueeze(-1).expand(-1, -1, hidden_BSH.shape[-1]))


def response_logits(model: Any, states_BTH: Tensor) -> Tensor:
    """Return logits (B, T, V) for response states alone: over prompts they would cost as much and serve nothing."""
    return cast(Tensor, inner_model(model).get_output_embeddings()(states_BTH))


def output_weight(model: Any) -> Tensor:
    """Return the output embeddings (V, H)."""
    return cast(Tensor, inner_model(model).get_output_embeddings().weight)


@torch.no_grad()
def check_plain_head(model: Any) -> None:
    """Raise ConfigError where a model's logits are not its output embeddings of the last hidden states.

    Some families scale or cap their logits; response_logits would then differ from what the model serves.
    """
    tokens_BS = torch.tensor([[1, 2, 3]], device=device_of())
    ours = response_logits(model, hidden_states(model, tokens_BS))
    theirs = inner_model(model)(input_ids=tokens_BS, use_cache=False).logits
    if not torch.allclose(ours.float(), theirs.float(), atol=1e-2, rtol=1e-2):
        raise ConfigError(f"policy: {type(inner_model(model)).__name__} changes its logits after the head")
    if getattr(inner_model(model).get_output_embeddings(), "bias", None) is not None:
        raise ConfigError(f"policy: {type(inner_model(model)).__name__} has a bias on its head")


def add_lora(model: Any, config: OptimiserConfig) -> Any:
    """Return the model with LoRA adapters (arXiv:2106.09685) on every linear layer of its trunk."""
    from peft import LoraConfig, get_peft_model  # a heavy import, for those who ask for it

    kind = "SEQ_CLS" if hasattr(model, "score") else "CAUSAL_LM"
    lora = LoraConfig(
        r=config.lora_rank,
        lora_alpha=config.lora_alpha or 2 * config.lora_rank,
        target_modules="all-linear",
        task_type=kind,
        modules_to_save=["score"] if kind == "SEQ_CLS" else None,
    )
    return get_peft_model(model, lora, autocast_adapter_dtype=False)


class Reference:
    """The policy that KL is measured from: adapters switched off where there are some, else a frozen copy."""

    def __init__(self, policy: Any, other: Any | None) -> None:
        self.adapted = other is None and hasattr(policy, "peft_config")
        self.model = policy if self.adapted else other if other is not None else copy.deepcopy(policy)
        if not self.adapted:
            self.model.requires_grad_(False)

    @contextmanager
    def active(self) -> Iterator[Any]:
        """Give the reference model for the time of the block."""
        with self.model.disable_adapter() if self.adapted else nullcontext():
            yield self.model


def save_model(model: Any, tokenizer: Any, output: Path, name: str = "model") -> None:
    """Write output/name (adapters merged into a copy's weights, safetensors only).

    Adapters stand beside it: adapter/ beside model/, adapter-0/ beside model-0/.
    """
    if hasattr(model, "peft_config"):
        for adapter in model.peft_config.values():
            # A set, written in an order that Python shuffles anew in every process: one run must give one file.
            adapter.target_modules = sorted(adapter.target_modules)
        model.save_pretrained(output / name.replace("model", "adapter"))
        model = copy.deepcopy(model).merge_and_unload()
    target = output / name
    model.save_pretrained(target, safe_serialization=True)
    tokenizer.save_pretrained(target)
