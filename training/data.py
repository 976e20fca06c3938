"""From rows to tokens: one way for every stage."""

from collections.abc import Iterator, Sequence
from typing import Any

from torch import Tensor

from training import processes
from training.advantages import masked_mean
from training.batches import Batch, make_batch
from training.config import OptimiserConfig
from training.head import state_logprobs
from training.microbatches import microbatches
from training.models import encode, output_weight, render_dialogue, render_prompt, response_states
from training.records import CompletionRow, DataError


def render_completions(
    tokenizer: Any, rows: Sequence[CompletionRow], max_length: int
) -> list[tuple[list[int], list[int]]]:
    """Return (prompt tokens, completion tokens) of each row, cut to max_length: the prompt's beginning goes first.

    The completion is what the chat template writes after the prompt, its end-of-turn token included.
    """
    return [_split(tokenizer, row, max_length) for row in rows]


def _split(tokenizer: Any, row: CompletionRow, max_length: int) -> tuple[list[int], list[int]]:
    prompt = render_prompt(tokenizer, row.prompt)
    whole = render_dialogue(tokenizer, [*row.prompt, *row.completion])
    if not whole.startswith(prompt):
        raise DataError(
            "chat template: it writes an answered prompt differently from an open one: no completion can be cut out"
        )
    # Tokenised apart: a token across the border could not be generated from the prompt alone.
    completion = encode(tokenizer, whole[len(prompt) :])[: max_length - 1]
    kept = max_length - len(completion)
    return encode(tokenizer, prompt)[-kept:], completion


def completion_passes(
    config: OptimiserConfig, rows: Sequence[tuple[list[int], list[int]]], pad: int
) -> Iterator[tuple[Batch, float]]:
    """Give this process's share of (prompt tokens, completion tokens) a pass at a time.

    Each weighs by its completions' tokens, so that gradients add up to those of the mean over all rows.
    """
    total = sum(len(completion) for _, completion in rows)
    share = processes.share(rows)
    for places in microbatches(config, [len(prompt) + len(completion) for prompt, completion in share]):
        batch = make_batch([share[place][0] for place in places], [share[place][1] for place in places], pad)
        yield batch, int(batch.response_lengths_B.sum()) / total


def completion_loss(model: Any, batch: Batch) -> Tensor:
    """Return the mean negative log-likelihood of a batch's completions, its prompts not counted."""
    states_BTH = response_states(model, batch)
    logprobs_BT = state_logprobs(states_BTH, output_weight(model), batch.response_tokens_BT, batch.mask_BT)
    return -masked_mean(logprobs_BT, batch.mask_BT)
