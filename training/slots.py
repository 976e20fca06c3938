"""Attention over a fixed set of cache slots, so that a row's numbers never depend on the rows beside it.

A matrix product may sum in another sequence when its number of rows changes: in bf16 on AMX the same row came out
different in products of 32, 48 and 64 rows, yet equal at every place of products of one size. So the linear layers
only ever see two shapes: DECODE rows, one a slot, and PREFILL rows, whole chunks of prompts packed together. Attention
runs over each request's own keys, in lengths that follow from its own position.
"""

import threading
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

ATTENTION = "slots"
PREFILL_ROWS = 128
# Keys are read in whole blocks, the part behind a row's own position masked: rows of one block share one call.
KEY_BLOCK = 64


@dataclass(frozen=True)
class Chunk:
    """A part of one prompt inside a prefill step: count tokens from position start, packed from row on."""

    slot: int
    start: int
    count: int
    row: int


class SlotCache:
    """Keys and values of every layer: slots x heads x length x width, laid out for slices without copies."""

    def __init__(self, config: Any, *, slots: int, length: int, dtype: torch.dtype, device: torch.device) -> None:
        heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
        width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        self.heads, self.dtype = heads, dtype
        self.length = -(-length // KEY_BLOCK) * KEY_BLOCK
        shape = (slots, heads, self.length, width)
        self.keys = [_zeros(shape, dtype, device) for _ in range(config.num_hidden_layers)]
        self.values = [_zeros(shape, dtype, device) for _ in range(config.num_hidden_layers)]

    def clear(self, slot: int) -> None:
        """Forget what a slot holds: after a prompt that broke the model, NaN there would break the next one too."""
        for cached in (*self.keys, *self.values):
            cached[slot].zero_()


def _zeros(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """Return zeros whose memory is only taken once it is written; stale bytes could be NaN, which no mask removes."""
    if device.type != "cpu":
        return torch.zeros(shape, dtype=dtype, device=device)
    blank = np.zeros(int(np.prod(shape)) * dtype.itemsize, dtype=np.uint8)
    return torch.from_numpy(blank).view(dtype).view(shape)


class DecodeStep:
    """One new token for each busy slot: row i of the batch is slot i."""

    def __init__(self, cache: SlotCache, positions: dict[int, int], device: torch.device) -> None:
        self.cache = cache
        slots = sorted(positions)
        self.slots = torch.tensor(slots, device=device)
        own = torch.tensor([positions[slot] for slot in slots], device=device)
        heads = torch.arange(cache.heads, device=device)
        # Where the new keys go, among all of the cache's rows: worked out once for all layers.
        self.rows = ((self.slots[:, None] * cache.heads + heads) * cache.length + own[:, None]).flatten()
        self.runs = [self._run(positions, *span, cache.dtype, device) for span in _runs(slots, positions)]

    @staticmethod
    def _run(
        positions: dict[int, int], first: int, last: int, keys: int, dtype: torch.dtype, device: torch.device
    ) -> tuple[slice, int, Tensor]:
        own = torch.tensor([positions[slot] for slot in range(first, last + 1)], device=device)
        hidden = torch.arange(keys, device=device)[None, :] > own[:, None]
        # Added to the scores: a mask of booleans would be made into this one in every layer.
        mask = torch.zeros(hidden.shape, dtype=dtype, device=device).masked_fill(hidden, float("-inf"))
        return slice(first, last + 1), keys, mask[:, None, None, :]

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
        """Return 1 x rows x heads x width; rows of free slots are zeros."""
        keys, values = self.cache.keys[layer], self.cache.values[layer]
        _, heads, rows, width = query.shape
        kv_heads = self.cache.heads
        for cached, new in ((keys, key), (values, value)):
            # index_copy_ over rows, for assigning by two index tensors takes ten times as long.
            fresh = new[0].transpose(0, 1).index_select(0, self.slots).reshape(-1, width)
            cached.view(-1, width).index_copy_(0, self.rows, fresh)
        # The query heads that share a key head stand in one call as its queries: no key is ever repeated.
        grouped = query[0].transpose(0, 1).reshape(rows, kv_heads, heads // kv_heads, width)
        output = torch.zeros_like(grouped)
        for span, length, mask in self.runs:
            output[span] = torch.nn.functional.scaled_dot_product_attention(
                grouped[span], keys[span, :, :length], values[span, :, :length], attn_mask=mask, scale=scale
            )
        return output.view(1, rows, heads, width)


def _runs(slots: list[int], positions: dict[int, int]) -> list[tuple[int, int, int]]:
    """Return (first slot, last slot, keys read) of neighbouring slots that read equally many blocks of keys."""
    runs: list[tuple[int, int, int]] = []
    for slot in slots:
        keys = (positions[slot] // KEY_BLOCK + 1) * KEY_BLOCK
        if runs and runs[-1][1] == slot - 1 and runs[-1][2] == keys:
            runs[-1] = (runs[-1][0], slot, keys)
        else:
            runs.append((slot, slot, keys))
    return runs


class PrefillStep:
    """Chunks of prompts packed into one row of tokens; each attends to its own slot's keys."""

    def __init__(self, cache: SlotCache, chunks: list[Chunk], device: torch.device) -> None:
        self.cache = cache
        self.chunks = chunks
        self.masks = [
            torch.arange(chunk.start + chunk.count, device=device)[None, :]
            <= torch.arange(chunk.start, chunk.start + chunk.count, device=device)[:, None]
            for chunk in chunks
        ]

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
        """Return 1 x rows x heads x width; rows that pad the step are zeros."""
        keys, values = self.cache.keys[layer], self.cache.values[layer]
        output = torch.zeros_like(query)
        for chunk, mask in zip(self.chunks, self.masks, strict=True):
            rows, end = slice(chunk.row, chunk.row + chunk.count), chunk.start + chunk.count
            keys[chunk.slot, :, chunk.start : end] = key[0, :, rows]
            values[chunk.slot, :, chunk.start : end] = value[0, :, rows]
            output[:, :, rows] = torch.nn.functional.scaled_dot_product_attention(
                query[:, :, rows],
                keys[chunk.slot : chunk.slot + 1, :, :end],
                values[chunk.slot : chunk.slot + 1, :, :end],
                attn_mask=mask,
                scale=scale,
                enable_gqa=query.shape[1] != keys.shape[1],
            )
        return output.transpose(1, 2)


# The step that runs now, by thread: what transformers' layers call knows only its layer and tensors.
_running = threading.local()


@torch.inference_mode()
def run_step(model: Any, step: DecodeStep | PrefillStep, tokens_R: Tensor, positions_R: Tensor, keep: Tensor) -> Tensor:
    """Return float32 logits on the CPU, one row for each entry of keep (indexes into the step's rows).

    Args:
        tokens_R, positions_R: the step's rows, padding included.
    """
    _running.step = step
    try:
        output = model(
            input_ids=tokens_R[None],
            position_ids=positions_R[None],
            use_cache=False,
            logits_to_keep=keep,
        )
    finally:
        del _running.step
    logits: Tensor = output.logits[0].float().cpu()
    return logits


def _attend(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    **options: Any,
) -> tuple[Tensor, None]:
    step: DecodeStep | PrefillStep = _running.step
    window = options.get("sliding_window")
    if window is not None and window < step.cache.length:
        raise NotImplementedError(f"a sliding window of {window} tokens, shorter than --max-total-tokens")
    for name in ("softcap", "s_aux"):
        if options.get(name) is not None:
            raise NotImplementedError(f"attention with {name}")
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    return step.attend(int(module.layer_idx), query, key, value, scale), None  # type: ignore[arg-type]


ALL_ATTENTION_FUNCTIONS.register(ATTENTION, _attend)
