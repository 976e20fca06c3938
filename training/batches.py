"""Rows of tokens that a model is run over: which of them are the response's, and which nothing at all.

Rows are left-aligned (prompt, response, padding at the end), so that causal attention never lets a token see padding:
no mask is needed, positions are explicit, and neither the padding's side nor its token (which may equal the
end-of-sequence token) can change a number.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from training.devices import device_of


@dataclass(frozen=True)
class Batch:
    """Left-aligned rows: tokens_BS is prompt + response + padding; lengths count tokens."""

    tokens_BS: Tensor
    prompt_lengths_B: Tensor
    response_lengths_B: Tensor

    @property
    def responses(self) -> int:
        """Return T, the longest response's length."""
        return int(self.response_lengths_B.max())

    @property
    def lengths_B(self) -> Tensor:
        """Return how many tokens each row has, padding not counted."""
        return self.prompt_lengths_B + self.response_lengths_B

    @property
    def mask_BT(self) -> Tensor:
        """True over each row's response tokens."""
        return torch.arange(self.responses, device=self.tokens_BS.device)[None, :] < self.response_lengths_B[:, None]

    @property
    def response_positions_BT(self) -> Tensor:
        """Where each response token stands in tokens_BS; padding cells point at the row's last token."""
        last_B = self.lengths_B - 1
        positions_T = torch.arange(self.responses, device=self.tokens_BS.device)
        positions_BT = self.prompt_lengths_B[:, None] + positions_T[None, :]
        return torch.minimum(positions_BT, last_B[:, None])

    @property
    def response_tokens_BT(self) -> Tensor:
        return self.tokens_BS.gather(1, self.response_positions_BT)

    def select(self, rows: Sequence[int] | Tensor) -> "Batch":
        """Return some rows, padding cut to the longest of them."""
        index = torch.as_tensor(rows, device=self.tokens_BS.device)
        prompts_B, responses_B = self.prompt_lengths_B[index], self.response_lengths_B[index]
        longest = int((prompts_B + responses_B).max())
        return Batch(self.tokens_BS[index, :longest], prompts_B, responses_B)


def make_batch(prompts: Sequence[Sequence[int]], responses: Sequence[Sequence[int]], pad: int) -> Batch:
    """Return prompts and responses (token ids) as one left-aligned batch on the device of this process.

    Every response has a token at least.
    """
    longest = max(len(p) + len(r) for p, r in zip(prompts, responses, strict=True))
    # Filled row by row where that is cheap, moved once.
    tokens_BS = torch.full((len(prompts), longest), pad, dtype=torch.long)
    for row, (prompt, response) in enumerate(zip(prompts, responses, strict=True)):
        tokens_BS[row, : len(prompt) + len(response)] = torch.tensor([*prompt, *response])
    lengths = [torch.tensor([len(part) for part in parts], device=device_of()) for parts in (prompts, responses)]
    return Batch(tokens_BS.to(device_of()), lengths[0], lengths[1])
