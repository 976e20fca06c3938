"""Answers to one prompt in one row: what their texts begin with is computed once, and no answer sees another."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from training.attention import PLAIN_FAMILIES
from training.devices import device_of
from training.models import hidden_states, inner_model
from training.rewards import score_tokens

# Attention costs and holds the square of a row's length: a packed row may have so many times a plain batch's cells.
MOST_ATTENTION = 1.5
SHARED, PADDING = 0, -1

Texts = Sequence[Sequence[int]]


@dataclass(frozen=True)
class Packed:
    """One row a group: its shared prefix, then each text's own rest; segments tell them apart."""

    tokens_BS: Tensor
    positions_BS: Tensor
    segments_BS: Tensor  # SHARED, then 1, 2, ... for each text's rest, then PADDING
    rows_N: Tensor
    ends_N: Tensor  # where each text's last token stands in its row

    @property
    def visible_BSS(self) -> Tensor:
        """True where a token (second index) may look at another (third): those before it, shared or its own."""
        own_BSS = self.segments_BS[:, :, None] == self.segments_BS[:, None, :]
        shared_B1S = (self.segments_BS == SHARED)[:, None, :]
        size = self.tokens_BS.shape[1]
        before_SS = torch.ones(size, size, dtype=torch.bool, device=self.tokens_BS.device).tril()
        return before_SS & (own_BSS | shared_B1S)


def shared_length(texts: Texts) -> int:
    """Return how many tokens all texts begin with alike, less where a text would have none of its own."""
    # Between the first and the last in dictionary order lie all others: what these two share, all share.
    first, last = min(map(list, texts)), max(map(list, texts))
    most = min(map(len, texts)) - 1
    return next((place for place in range(most) if first[place] != last[place]), most)


def packed_length(texts: Texts) -> int:
    """Return the tokens of a group's row."""
    shared = shared_length(texts)
    return shared + sum(len(text) - shared for text in texts)


def pack(groups: Sequence[Texts], pad: int) -> Packed:
    """Return each group of texts (token ids) as one row."""
    size = max(map(packed_length, groups))
    tokens = torch.full((len(groups), size), pad, dtype=torch.long)
    positions = torch.zeros(len(groups), size, dtype=torch.long)
    segments = torch.full((len(groups), size), PADDING, dtype=torch.long)
    rows, ends = [], []
    for row, texts in enumerate(groups):
        place = shared = shared_length(texts)
        tokens[row, :shared] = torch.tensor(list(texts[0][:shared]), dtype=torch.long)
        positions[row, :shared] = torch.arange(shared)
        segments[row, :shared] = SHARED
        for number, text in enumerate(texts, start=1):
            stop = place + len(text) - shared
            tokens[row, place:stop] = torch.tensor(list(text[shared:]))
            positions[row, place:stop] = torch.arange(shared, len(text))
            segments[row, place:stop] = number
            rows.append(row)
            ends.append(stop - 1)
            place = stop
    device = device_of()
    parts = (tokens, positions, segments, torch.tensor(rows), torch.tensor(ends))
    return Packed(*(part.to(device) for part in parts))


def worth_packing(groups: Sequence[Texts]) -> bool:
    """Say whether rows of groups have fewer cells than rows of texts, at no great cost in attention."""
    texts = [text for group in groups for text in group]
    longest, packed = max(map(len, texts)), max(map(packed_length, groups))
    fewer = len(groups) * packed < len(texts) * longest
    return fewer and len(groups) * packed**2 <= MOST_ATTENTION * len(texts) * longest**2


def can_pack(model: Any) -> bool:
    """Say whether a model's family reads packed rows as it reads plain ones (tests hold it for each)."""
    config = inner_model(model).config
    # Only Mistral's window has no switch beside its size.
    window = getattr(config, "use_sliding_window", config.model_type == "mistral" and config.sliding_window is not None)
    return config.model_type in PLAIN_FAMILIES and not window


def score_groups(model: Any, groups: Sequence[Texts], pad: int) -> list[Tensor]:
    """Return each group's scores, in its texts' order, from one forward pass over all."""
    sizes = [len(group) for group in groups]
    if can_pack(model) and worth_packing(groups):
        scores_N = _score_packed(model, pack(groups, pad))
    else:
        scores_N = score_tokens(model, [text for group in groups for text in group], pad)
    return list(torch.split(scores_N, sizes))


def _score_packed(model: Any, packed: Packed) -> Tensor:
    hidden_BSH = hidden_states(model, packed.tokens_BS, packed.positions_BS, packed.visible_BSS)
    scores_N: Tensor = inner_model(model).score(hidden_BSH[packed.rows_N, packed.ends_N]).squeeze(-1)
    return scores_N if scores_N.dtype == torch.float64 else scores_N.float()
