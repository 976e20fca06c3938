"""Responses sampled from a policy on this machine, a batch at a time, with the cache kept and finished rows dropped."""

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from training import processes
from training.batches import Batch, make_batch
from training.devices import device_of
from training.losses import token_logprobs
from training.models import end_tokens, inner_model, output_weight, response_logits
from training.repetition import penalise, seen_in


@dataclass(frozen=True)
class Sampling:
    """How tokens are drawn; greedy takes the likeliest one."""

    max_new_tokens: int
    temperature: float = 1.0
    top_p: float = 1.0
    greedy: bool = False
    repetition_penalty: float = 1.0  # of what stands in prompt and response already; 1: none


@dataclass(frozen=True)
class Rollout:
    """Sampled responses: the batch, each token's log-probability as drawn, and which rows ended by themselves.

    nucleus_BTV is True for the tokens that could be drawn (top_p below 1 only): ratios must be taken inside it.
    """

    batch: Batch
    logprobs_BT: Tensor
    ended_B: Tensor
    nucleus_BTV: Tensor | None

    def responses(self) -> list[list[int]]:
        """Return each row's response tokens, the ending token included."""
        tokens_BT = self.batch.response_tokens_BT
        return [row[:length].tolist() for row, length in zip(tokens_BT, self.batch.response_lengths_B, strict=True)]


@torch.no_grad()
def sample_responses(
    model: Any,
    tokenizer: Any,
    prompts: Sequence[Sequence[int]],
    sampling: Sampling,
    seeds: Sequence[int],
) -> Rollout:
    """Sample one response for each prompt (token ids).

    A response's own seed alone decides its draw: the same one gives it again, in any company.
    """
    state = _State(model, prompts, sampling, end_tokens(model, tokenizer), tokenizer.pad_token_id, seeds)
    for _ in range(sampling.max_new_tokens):
        if not state.step():
            break
    return state.rollout(prompts)


def draw_seeds(generator: torch.Generator, count: int) -> list[int]:
    """Return a seed for each of `count` responses."""
    return torch.randint(2**62, (count,), generator=generator).tolist()


def gather_rollout(rollout: Rollout, prompts: Sequence[Sequence[int]], pad: int) -> Rollout:
    """Return all processes' rollouts as one; prompts are all of theirs, in order."""
    if processes.count() == 1:
        return rollout
    responses = [response for part in processes.gather(rollout.responses()) for response in part]
    return Rollout(
        make_batch(prompts, responses, pad),
        processes.gather_rows(rollout.logprobs_BT),
        processes.gather_rows(rollout.ended_B),
        None if rollout.nucleus_BTV is None else processes.gather_rows(rollout.nucleus_BTV),
    )


def restrict_to_nucleus(logits: Tensor, top_p: float) -> Tensor:
    """Return True for the smallest set of likeliest tokens whose probability reaches top_p (arXiv:1904.09751)."""
    probabilities, order = logits.softmax(-1).sort(dim=-1, descending=True)
    # A token stays while what stands before it has not reached top_p: the first one always does.
    keep = probabilities.cumsum(-1) - probabilities < top_p
    return torch.zeros_like(keep).scatter(-1, order, keep)


class _State:
    """The rows still growing: prompts stand left-padded in the cache, with positions of their own."""

    def __init__(
        self,
        model: Any,
        prompts: Sequence[Sequence[int]],
        sampling: Sampling,
        ends: frozenset[int],
        pad: int,
        seeds: Sequence[int],
    ) -> None:
        self.model, self.sampling, self.pad = model, sampling, pad
        self.generators = [torch.Generator().manual_seed(seed) for _, seed in zip(prompts, seeds, strict=True)]
        self.decoder = inner_model(model).get_decoder()
        # transformers 5 renames past_key_values to cache on its way.
        parameters = inspect.signature(self.decoder.forward).parameters
        self.cache_name = "cache" if "cache" in parameters else "past_key_values"
        self.ends = torch.tensor(sorted(ends), device=device_of())
        longest = max(map(len, prompts))
        tokens = torch.full((len(prompts), longest), pad, dtype=torch.long)
        attention = torch.zeros(len(prompts), longest, dtype=torch.long)
        for row, prompt in enumerate(prompts):
            tokens[row, longest - len(prompt) :] = torch.tensor(prompt)
            attention[row, longest - len(prompt) :] = 1
        self.tokens, self.attention = tokens.to(device_of()), attention.to(device_of())
        self.positions = (self.attention.cumsum(-1) - 1).clamp(min=0)
        self.rows = torch.arange(len(prompts), device=device_of())  # which prompt each growing row belongs to
        self.cache: Any = None
        self.responses: list[list[int]] = [[] for _ in prompts]
        self.logprobs: list[list[float]] = [[] for _ in prompts]
        self.nuclei: list[list[Tensor]] = [[] for _ in prompts]
        self.ended = torch.zeros(len(prompts), dtype=torch.bool, device=device_of())
        self.seen_BV: Tensor | None = None  # which tokens each growing row has, where there is a penalty for them
        if sampling.repetition_penalty != 1:
            self.seen_BV = seen_in(prompts, len(output_weight(model))).to(device_of())

    def step(self) -> bool:
        """Draw one token for every growing row; return whether any row is left."""
        output = self.decoder(
            input_ids=self.tokens,
            attention_mask=self.attention,
            position_ids=self.positions,
            use_cache=True,
            **{self.cache_name: self.cache},
        )
        self.cache = output[self.cache_name]
        logits_BV = response_logits(self.model, output.last_hidden_state[:, -1])
        logits_BV = logits_BV if logits_BV.dtype == torch.float64 else logits_BV.float()
        if self.seen_BV is not None:
            logits_BV = penalise(logits_BV, self.seen_BV, self.sampling.repetition_penalty)
        logits_BV = logits_BV / self.sampling.temperature
        drawn_B, logprobs_B = self._draw(logits_BV)
        for row, token, logprob in zip(self.rows.tolist(), drawn_B.tolist(), logprobs_B.tolist(), strict=True):
            self.responses[row].append(token)
            self.logprobs[row].append(logprob)
        return self._advance(drawn_B)

    def _draw(self, logits_BV: Tensor) -> tuple[Tensor, Tensor]:
        if self.sampling.top_p < 1:
            nucleus_BV = restrict_to_nucleus(logits_BV, self.sampling.top_p)
            logits_BV = logits_BV.masked_fill(~nucleus_BV, float("-inf"))
            for row, nucleus_V in zip(self.rows.tolist(), nucleus_BV, strict=True):
                self.nuclei[row].append(nucleus_V)
        if self.sampling.greedy:
            drawn_B = logits_BV.argmax(-1)
        else:
            # The largest of logit plus Gumbel noise is a draw from the softmax (Gumbel 1954), without normalising.
            # Noise is the CPU's: a seed then means the same on every device.
            noise_BV = torch.empty(logits_BV.shape, dtype=torch.float32)
            for noise_V, row in zip(noise_BV, self.rows.tolist(), strict=True):
                noise_V.exponential_(generator=self.generators[row])
            drawn_B = (logits_BV - noise_BV.log_().to(logits_BV.device)).argmax(-1)
        return drawn_B, token_logprobs(logits_BV, drawn_B)

    def _advance(self, drawn_B: Tensor) -> bool:
        ended_B = torch.isin(drawn_B, self.ends)
        self.ended[self.rows[ended_B]] = True
        going = (~ended_B).nonzero().squeeze(-1)
        if len(going) == 0:
            return False
        positions = self.positions[:, -1:] + 1
        attention = torch.cat([self.attention, torch.ones_like(self.attention[:, :1])], dim=1)
        if len(going) < len(drawn_B):
            self.cache.batch_select_indices(going)
        self.rows, self.tokens = self.rows[going], drawn_B[going, None]
        self.positions, self.attention = positions[going], attention[going]
        if self.seen_BV is not None:
            self.seen_BV = self.seen_BV[going].scatter_(1, self.tokens, True)
        return True

    def rollout(self, prompts: Sequence[Sequence[int]]) -> Rollout:
        batch = make_batch(prompts, self.responses, self.pad)
        logprobs_BT = torch.zeros(len(prompts), batch.responses)
        for row, values in enumerate(self.logprobs):
            logprobs_BT[row, : len(values)] = torch.tensor(values)
        nucleus_BTV = None
        if self.sampling.top_p < 1:
            vocabulary = len(self.nuclei[0][0])
            nucleus_BTV = torch.ones(len(prompts), batch.responses, vocabulary, dtype=torch.bool)
            for row, kept in enumerate(self.nuclei):
                nucleus_BTV[row, : len(kept)] = torch.stack(kept).cpu()
            nucleus_BTV = nucleus_BTV.to(device_of())
        return Rollout(batch, logprobs_BT.to(device_of()), self.ended, nucleus_BTV)
