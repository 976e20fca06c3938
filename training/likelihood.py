"""How likely a model finds words that are not its own: a fixed text, or a good reply to a conversation."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from training.batches import make_batch
from training.fixed_text import FIXED_TEXT
from training.head import state_logprobs
from training.models import encode, output_weight, response_states
from training.records import DataError

PERPLEXITY_WINDOW = 256  # tokens


def read_perplexity_text(path: str) -> str:
    """Return a file's text, ours where none is named; raises DataError."""
    if not path:
        return FIXED_TEXT
    try:
        text = Path(path).read_text(encoding="utf-8")
    except OSError as error:
        raise DataError(f"perplexity_text: {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise DataError(f"perplexity_text: {path}: not UTF-8: {error}") from error
    if not text.strip():
        raise DataError(f"perplexity_text: {path}: is empty")
    return text


def text_perplexity(model: Any, tokenizer: Any, text: str) -> float:
    """Return exp of the mean negative log-likelihood a token, each window's first token given and not counted."""
    tokens = encode(tokenizer, text)
    limit = min(PERPLEXITY_WINDOW, getattr(model.config, "max_position_embeddings", PERPLEXITY_WINDOW))
    windows = [tokens[start : start + limit] for start in range(0, len(tokens), limit)]
    windows = [window for window in windows if len(window) > 1]
    if not windows:
        raise DataError("perplexity_text: two tokens at least are needed")
    total, count = 0.0, 0
    for window in windows:
        [logprob] = reply_logprobs(model, [window[:1]], [window[1:]], tokenizer.pad_token_id)
        total, count = total - logprob, count + len(window) - 1
    return math.exp(total / count)


@torch.no_grad()
def reply_logprobs(
    model: Any, prompts: Sequence[Sequence[int]], replies: Sequence[Sequence[int]], pad: int
) -> list[float]:
    """Return the log-likelihood of each reply after its prompt (token ids), summed over the reply's tokens."""
    batch = make_batch(prompts, replies, pad)
    states_BTH = response_states(model, batch)
    logprobs_BT = state_logprobs(states_BTH, output_weight(model), batch.response_tokens_BT, batch.mask_BT)
    return [float(total) for total in logprobs_BT.cpu().double().sum(1)]
