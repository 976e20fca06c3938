"""Loaded policies: a model directory that is refused with a reason unless this engine computes it faithfully."""

import logging
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import AutoModelForCausalLM

from training.config import ConfigError
from training.devices import device_of
from training.models import end_tokens, load_tokenizer, model_directory
from training.slots import ATTENTION, PREFILL_ROWS, Chunk, PrefillStep, SlotCache, run_step

# Nats by which the engine's log-probabilities of the likeliest tokens may leave a plain forward's: in bf16 they differ
# by some hundredths, with a wrong mask or scale by several.
FAITHFUL_WITHIN = 0.5
_CHECK_TOKENS = 48
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Policy:
    """A model ready to generate; length is the most tokens a prompt and its answer may have together."""

    name: str
    path: str
    model: Any
    tokenizer: Any
    ends: frozenset[int]
    special: frozenset[int]
    cache: SlotCache
    slots: int
    length: int
    files: tuple[tuple[str, int, int, int], ...] = ()

    @property
    def device(self) -> torch.device:
        return torch.device(self.model.device)

    def encode(self, text: str) -> list[int]:
        """Return a prompt's tokens with the tokenizer's own beginning, which a rendered template may hold already."""
        ids: list[int] = self.tokenizer(text)["input_ids"]
        first = self.tokenizer.bos_token_id
        return ids[1:] if first is not None and ids[:2] == [first, first] else ids

    def token_text(self, token: int) -> str:
        """Return one token as text by itself."""
        return str(self.tokenizer.decode([token], clean_up_tokenization_spaces=False))


def load_policy(*, name: str, path: str, dtype: torch.dtype, slots: int, length: int) -> Policy:
    """Load a Hugging Face directory (or a stage's output directory) to generate from.

    Raises:
        ConfigError: the directory cannot be served; the message says why.
    """
    files = list_files(path)
    tokenizer = _load_tokenizer(path)
    model = _load_model(path, dtype)
    config = model.config.get_text_config()
    length = min(length, getattr(config, "max_position_embeddings", None) or length)
    cache = SlotCache(config, slots=slots, length=length, dtype=dtype, device=model.device)
    special = frozenset(tokenizer.all_special_ids)
    ends = end_tokens(model, tokenizer)
    policy = Policy(name, path, model, tokenizer, ends, special, cache, slots, length, files)
    _check_faithful(policy)
    return policy


def list_files(path: str) -> tuple[tuple[str, int, int, int], ...]:
    """Return what tells a model directory's files from any other's: name, inode, size, time of the last change."""
    directory = Path(model_directory(path)).resolve()
    found = ((file, file.stat()) for file in sorted(directory.glob("*")) if file.is_file())
    return tuple((str(file), stat.st_ino, stat.st_size, stat.st_mtime_ns) for file, stat in found)


def share_policy(policy: Policy, *, name: str, path: str) -> Policy:
    """Return the same weights under another name, with a batch and a cache of its own."""
    config = policy.model.config.get_text_config()
    cache = SlotCache(config, slots=policy.slots, length=policy.length, dtype=policy.cache.dtype, device=policy.device)
    return replace(policy, name=name, path=path, cache=cache)


def _load_model(path: str, dtype: torch.dtype) -> Any:
    directory = model_directory(path)
    try:
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            directory,
            dtype=dtype,
            attn_implementation=ATTENTION,
            use_safetensors=True,
            output_loading_info=True,
            local_files_only=Path(directory).is_dir(),
        )
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, ImportError, SafetensorError) as error:
        raise ConfigError(f"{path}: no model can be loaded: {_first_line(error)}") from error
    model, report = loaded
    for what in ("missing_keys", "mismatched_keys"):
        if report[what]:
            # transformers would go on with random weights there.
            raise ConfigError(f"{path}: {what.replace('_', ' ')}: {sorted(map(str, report[what]))[:5]}")
    return model.to(device_of()).eval()


def _load_tokenizer(path: str) -> Any:
    try:
        return load_tokenizer(path)
    except ConfigError:
        raise
    except Exception as error:
        # The tokenizers library raises plain Exception for a file that it cannot read.
        log.exception("%s: no tokenizer", path)
        raise ConfigError(f"{path}: no tokenizer can be loaded: {_first_line(error)}") from error


def _first_line(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]


@torch.inference_mode()
def _check_faithful(policy: Policy) -> None:
    """Compare one prefill by slots with the model's own plain forward; leaves zeros in no slot that matters."""
    count = min(_CHECK_TOKENS, policy.length - 1)
    vocabulary = policy.model.get_input_embeddings().num_embeddings
    tokens = torch.arange(count, device=policy.device) * 7919 % vocabulary
    rows = torch.zeros(PREFILL_ROWS, dtype=torch.long, device=policy.device)
    positions = rows.clone()
    rows[:count], positions[:count] = tokens, torch.arange(count, device=policy.device)
    try:
        step = PrefillStep(policy.cache, [Chunk(slot=0, start=0, count=count, row=0)], policy.device)
        keep = torch.tensor([count - 1], device=policy.device)
        ours_V = run_step(policy.model, step, rows, positions, keep)[0].log_softmax(-1)
        policy.model.set_attn_implementation("eager")
        plain_V = policy.model(input_ids=tokens[None], use_cache=False).logits[0, -1].float().cpu().log_softmax(-1)
        policy.model.set_attn_implementation(ATTENTION)
    except (NotImplementedError, AttributeError, TypeError, ValueError, RuntimeError, IndexError) as error:
        raise ConfigError(f"{policy.path}: this engine cannot run {type(policy.model).__name__}: {error}") from error
    best = plain_V.topk(min(8, len(plain_V))).indices
    gap = float((ours_V[best] - plain_V[best]).abs().max())
    if not gap <= FAITHFUL_WITHIN:
        raise ConfigError(
            f"{policy.path}: {type(policy.model).__name__} leaves a plain forward's log-probabilities by {gap:.3g}; "
            "not finite, or of a kind that this engine does not know"
        )
    log.info("policy %s checked against a plain forward: %.3g nats", policy.name, gap)
