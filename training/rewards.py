"""Where rewards come from: a reward-model directory, an HTTP service, or a Python function of the operator's."""

import importlib
import math
import traceback
from collections.abc import Callable, Sequence
from numbers import Real
from typing import Any

import httpx
import torch

from training import processes
from training.batches import make_batch
from training.config import ConfigError, Dtype, is_directory_reward
from training.models import (
    encode,
    hidden_states,
    inner_model,
    load_scorer,
    load_tokenizer,
    render_dialogue,
    resolve_dtype,
)
from training.records import Messages, RewardError

# (conversations, responses as text) -> one score each
Reward = Callable[[Sequence[Messages], Sequence[str]], list[float]]
HTTP_TIMEOUT_S = 120.0
MEAN_KEY = "scores_mean"  # in a reward model's config.json


def load_reward(source: str, dtype: Dtype, batch: int = 16) -> Reward:
    """Return the reward that a config names.

    Raises:
        ConfigError: there is nothing of that name.
    """
    if source.startswith(("http://", "https://")):
        return HttpReward(source)
    if is_directory_reward(source):
        return ModelReward(source, dtype, batch)
    return FunctionReward(source)


class FunctionReward:
    """module:function(messages_list, responses) -> list of floats."""

    def __init__(self, source: str) -> None:
        module, _, name = source.partition(":")
        try:
            self.function: Reward = getattr(importlib.import_module(module), name)
        except Exception as error:  # a module of somebody's may raise anything as it is read
            raise ConfigError(f"reward: {source}: {error}") from error
        if not callable(self.function):
            raise ConfigError(f"reward: {source}: is not a function")
        self.source = source

    def __call__(self, prompts: Sequence[Messages], responses: Sequence[str]) -> list[float]:
        try:
            scores: object = self.function(prompts, responses)
        except Exception as error:  # it is not ours: it may raise anything
            last = traceback.extract_tb(error.__traceback__)[-1]
            place = f"{last.filename}:{last.lineno}"
            raise RewardError(f"{self.source}: {type(error).__name__}: {error} ({place})") from error
        return checked_scores(scores, len(responses), self.source)


class HttpReward:
    """POST {"prompts": [messages], "responses": [text]} -> {"rewards": [number]}."""

    def __init__(self, url: str) -> None:
        self.url = url

    def __call__(self, prompts: Sequence[Messages], responses: Sequence[str]) -> list[float]:
        try:
            body = {"prompts": list(prompts), "responses": list(responses)}
            answer = httpx.post(self.url, json=body, timeout=HTTP_TIMEOUT_S).raise_for_status().json()
            rewards = answer["rewards"]
        except (httpx.HTTPError, ValueError, KeyError, TypeError) as error:
            raise RewardError(f"{self.url}: {type(error).__name__}: {error}") from error
        return checked_scores(rewards, len(responses), self.url)


class ModelReward:
    """A reward model: it scores apply_chat_template(prompt + response), nothing added, with its own tokenizer."""

    def __init__(self, path: str, dtype: Dtype, batch: int) -> None:
        self.model = load_scorer(path, resolve_dtype(dtype), "reward").requires_grad_(False)
        self.tokenizer = load_tokenizer(path, "reward")
        self.mean = scores_mean(self.model)
        self.batch = batch

    def __call__(self, prompts: Sequence[Messages], responses: Sequence[str]) -> list[float]:
        dialogues = [
            [*prompt, {"role": "assistant", "content": response}]
            for prompt, response in zip(prompts, responses, strict=True)
        ]
        tokens = [encode(self.tokenizer, render_dialogue(self.tokenizer, d)) for d in dialogues]  # type: ignore[arg-type]
        scores = [0.0] * len(tokens)
        # Rows of like length together: the least padding. Each score is the same in any company.
        order = sorted(range(len(tokens)), key=lambda row: len(tokens[row]))
        for start in range(0, len(order), self.batch):
            rows = order[start : start + self.batch]
            for row, score in zip(rows, self._score([tokens[row] for row in rows]), strict=True):
                scores[row] = score
        return scores

    @torch.no_grad()
    def _score(self, tokens: list[list[int]]) -> list[float]:
        values = score_tokens(self.model, tokens, self.tokenizer.pad_token_id)
        return [float(value) - self.mean for value in values.tolist()]


class EnsembleReward:
    """The mean of several rewards, and how far they differ: where they do, none of them knows (arXiv:2310.02743)."""

    def __init__(self, members: Sequence[Reward]) -> None:
        self.members = members

    def judge(self, prompts: Sequence[Messages], responses: Sequence[str]) -> tuple[torch.Tensor, torch.Tensor]:
        """Return (mean, standard deviation) over the members of each response's score (B), in float64; one has 0."""
        scores_MB = torch.tensor([member(prompts, responses) for member in self.members], dtype=torch.float64)
        return scores_MB.mean(0), scores_MB.std(0, unbiased=False)


def judged_together(
    judge: Callable[[Sequence[Messages], Sequence[str]], tuple[torch.Tensor, ...]],
    prompts: Sequence[Messages],
    responses: Sequence[str],
) -> tuple[torch.Tensor, ...]:
    """Return all that a judge says of each response (B), of which each process scores its share.

    Raises:
        RewardError: in every process, where one of them had no reward.
    """
    if processes.count() == 1:
        return judge(prompts, responses)
    try:
        outcome: Any = judge(processes.share(prompts), processes.share(responses))
    except RewardError as error:
        outcome = error
    outcomes = processes.gather(outcome)
    for each in outcomes:
        if isinstance(each, RewardError):
            raise each
    return tuple(torch.cat(parts) for parts in zip(*outcomes, strict=True))


def scores_mean(model: Any) -> float:
    """Return what is taken off a reward model's scores to centre them: its head has no bias to hold it."""
    return float(getattr(inner_model(model).config, MEAN_KEY, 0.0))


def score_tokens(model: object, tokens: Sequence[Sequence[int]], pad: int) -> torch.Tensor:
    """Return a reward model's scores (B) at each row's last token: by its length, never by looking for padding."""
    batch = make_batch([[] for _ in tokens], tokens, pad)
    hidden_BSH = hidden_states(model, batch.tokens_BS)
    last_B = batch.response_lengths_B - 1
    states_BH = hidden_BSH[torch.arange(len(tokens), device=last_B.device), last_B]
    scores_B: torch.Tensor = inner_model(model).score(states_BH).squeeze(-1)
    return scores_B if scores_B.dtype == torch.float64 else scores_B.float()


def checked_scores(scores: object, expected: int, source: str) -> list[float]:
    """Return scores as floats; raises RewardError where they are not `expected` finite numbers."""
    if not isinstance(scores, list | tuple) or len(scores) != expected:
        raise RewardError(f"{source}: {expected} numbers are needed")
    values = []
    for index, score in enumerate(scores):
        if isinstance(score, bool) or not isinstance(score, Real) or not math.isfinite(score):
            raise RewardError(f"{source}: score {index} is not a finite number: {score!r}")
        values.append(float(score))
    return values
