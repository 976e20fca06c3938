"""A policy beside its parent and base: who wins before a judge that PPO did not train against, and at what price."""

import hashlib
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from training.accuracy import accuracy_metrics, longer_wins
from training.batches import Batch
from training.checkpoint import OutputDirectory, Stopped, prepare_process, stop_requests
from training.config import ConfigError, EvaluateConfig, is_directory_reward
from training.divergence import sequence_kl
from training.length_bias import length_bias
from training.likelihood import read_perplexity_text, text_perplexity
from training.models import (
    check_plain_head,
    encode,
    load_causal,
    load_tokenizer,
    model_directory,
    output_weight,
    render_prompt,
    resolve_dtype,
    response_states,
)
from training.records import PreferenceRow, PromptRow, read_preferences, read_prompts
from training.rewards import Reward, load_reward
from training.rollout import Sampling, draw_seeds, sample_responses
from training.skills import SkillResult, SkillTest
from training.statistics import mean_interval

ROLES = ("policy", "parent", "base")


@dataclass
class PolicyTrace:
    """The policy's samples, batch by batch, with the states they were predicted from: what KL is measured on."""

    weight_VH: Tensor
    steps: list[tuple[Batch, Tensor]] = field(default_factory=list)


@dataclass
class Observation:
    """What one model does: its answers to the prompts, its perplexity on the text, its distance from the policy."""

    texts: list[str] = field(default_factory=list)
    lengths: list[int] = field(default_factory=list)
    ended: list[bool] = field(default_factory=list)
    seeds: list[int] = field(default_factory=list)
    perplexity: float = math.nan
    kl: float = 0.0  # of the policy from it, a sequence; the policy's own is 0
    skills: list[SkillResult] = field(default_factory=list)  # by item


def choose_prompts(rows: Sequence[PromptRow], count: int, seed: int) -> list[PromptRow]:
    """Return at most `count` rows in an order that a hash gives: a longer file keeps most of a shorter one's choice."""

    def place(row: PromptRow) -> bytes:
        return hashlib.sha256(f"{seed}:{json.dumps(row.prompt, sort_keys=True)}".encode()).digest()

    return sorted(rows, key=place)[:count]


class Evaluation:
    """One run: the prompts, and each distinct model observed once, one in memory at a time."""

    def __init__(self, config: EvaluateConfig) -> None:
        self.config = config
        self.prompts = choose_prompts(read_prompts(config.prompts), config.max_prompts, config.seed)
        self.text = read_perplexity_text(config.perplexity_text)
        self.skills = SkillTest(config)
        self.paths = {role: getattr(config, role) for role in ROLES if getattr(config, role)}
        self.trace: PolicyTrace | None = None
        self.observations: dict[str, Observation] = {}

    @property
    def steps(self) -> int:
        """Return how many batches are answered in all."""
        batches = -(-len(self.prompts) // self.config.batch) + self.skills.batches
        return len({_place(path) for path in self.paths.values()}) * batches

    def of(self, role: str) -> Observation:
        return self.observations[_place(self.paths[role])]

    def observe_all(self, done: Callable[[str], None]) -> None:
        """Observe every model, the policy first; `done` is called with the role after each batch."""
        for role, path in self.paths.items():
            if _place(path) not in self.observations:
                self.observations[_place(path)] = self._observe(role, path, done)

    @torch.no_grad()
    def _observe(self, role: str, path: str, done: Callable[[str], None]) -> Observation:
        model, tokenizer = load_causal(path, resolve_dtype(self.config.dtype), role), load_tokenizer(path, role)
        check_plain_head(model)
        first = self.trace is None
        if self.trace is None:
            self.trace = PolicyTrace(output_weight(model))
        elif len(output_weight(model)) != len(self.trace.weight_VH):
            raise ConfigError(f"{role}: {path}: another vocabulary than the policy's; KL between them means nothing")
        seen = Observation()
        for index, start in enumerate(range(0, len(self.prompts), self.config.batch)):
            rows = self.prompts[start : start + self.config.batch]
            batch = self._answer(model, tokenizer, rows, index, seen)
            if first:
                self.trace.steps.append((batch, response_states(model, batch)))
            done(role)
        if not first:
            seen.kl = self._kl_from(model)
        seen.perplexity = text_perplexity(model, tokenizer, self.text)
        seen.skills = self.skills.put_to(model, tokenizer, lambda: done(role))
        return seen

    def _answer(self, model: Any, tokenizer: Any, rows: Sequence[PromptRow], index: int, seen: Observation) -> Batch:
        """Sample one response to each prompt, with the same seed whichever model answers."""
        config = self.config
        generator = torch.Generator().manual_seed((config.seed * 1_000_003 + index) % 2**63)
        tokens = [encode(tokenizer, render_prompt(tokenizer, row.prompt))[-config.max_prompt_length :] for row in rows]
        sampling = Sampling(config.response_length, config.temperature, config.top_p)
        seeds = draw_seeds(generator, len(tokens))
        rollout = sample_responses(model, tokenizer, tokens, sampling, seeds)
        seen.seeds += seeds
        seen.texts += [str(tokenizer.decode(r, skip_special_tokens=True)) for r in rollout.responses()]
        seen.lengths += [int(length) for length in rollout.batch.response_lengths_B]
        seen.ended += [bool(ended) for ended in rollout.ended_B]
        return rollout.batch

    def _kl_from(self, other: Any) -> float:
        assert self.trace is not None
        kl_parts = [
            sequence_kl(
                states_BTH,
                self.trace.weight_VH,
                response_states(other, batch),
                output_weight(other),
                batch.mask_BT,
                self.config.temperature,
            )
            for batch, states_BTH in self.trace.steps
        ]
        return float(torch.cat(kl_parts).mean())

    def metrics(self) -> dict[str, float]:
        """Return what needs no judge."""
        policy = self.of("policy")
        values: dict[str, float] = {
            "n/prompts": len(self.prompts),
            "response/eos_fraction": sum(policy.ended) / len(policy.ended),
        }
        for role in self.paths:
            seen, suffix = self.of(role), _suffix(role)
            values[f"response/length{suffix}"] = sum(seen.lengths) / len(seen.lengths)
            values[f"perplexity/{role}"] = seen.perplexity
            if role != "policy":
                values[f"kl/{role}"] = seen.kl
        others = {role: self.of(role).skills for role in self.paths if role != "policy"}
        return values | self.skills.metrics(policy.skills, others)

    def judge(self, reward: Reward) -> tuple[dict[str, float], dict[str, list[float]]]:
        """Return (metrics, each role's scores): a win is 1, a tie 0.5, and the interval is over prompts.

        Equal answers are scored once, so that rounding cannot make one of them win.
        """
        asked = {
            (index, text): None for role in self.paths for index, text in enumerate(self.of(role).texts)
        }  # fmt: skip
        scores = reward([self.prompts[index].prompt for index, _ in asked], [text for _, text in asked])
        table = dict(zip(asked, scores, strict=True))
        by_role = {role: [table[key] for key in enumerate(self.of(role).texts)] for role in self.paths}
        values = {f"objective/scores{_suffix(role)}": sum(s) / len(s) for role, s in by_role.items()}
        for role in self.paths:
            if role != "policy":
                values |= self._win_rate(role, by_role["policy"], by_role[role])
        return values, by_role

    def _win_rate(self, role: str, ours: Sequence[float], theirs: Sequence[float]) -> dict[str, float]:
        wins = [0.5 if a == b else float(a > b) for a, b in zip(ours, theirs, strict=True)]
        groups = [json.dumps(row.prompt, sort_keys=True) for row in self.prompts]
        mean, low, high = mean_interval(wins, groups, draws=self.config.bootstrap, seed=self.config.seed)
        return {f"win_rate/{role}": mean, f"win_rate/{role}_low": low, f"win_rate/{role}_high": high}

    def write_samples(self, path: Path, scores: dict[str, list[float]]) -> None:
        """Write every prompt with its id, each model's answer and how it ended and, where there is a judge, its score.

        All models answer with the seed.
        """
        with path.open("w", encoding="utf-8") as file:
            for index, row in enumerate(self.prompts):
                line: dict[str, Any] = {"id": row.id, "prompt": row.prompt, "seed": self.of("policy").seeds[index]}
                for role in self.paths:
                    seen = self.of(role)
                    line[role] = seen.texts[index]
                    line |= {f"tokens_{role}": seen.lengths[index], f"ended_{role}": seen.ended[index]}
                line |= {f"score_{role}": values[index] for role, values in scores.items()}
                file.write(json.dumps(line, ensure_ascii=False) + "\n")


def _suffix(role: str) -> str:
    return "" if role == "policy" else f"_{role}"


def _place(path: str) -> str:
    """Return one name for one model, however its directory is written."""
    inside = Path(model_directory(path))
    return str(inside.resolve()) if inside.exists() else path


def pair_scores(reward: Reward, rows: Sequence[PreferenceRow]) -> tuple[Tensor, Tensor]:
    """Return (chosen, rejected) scores of preference rows; a last turn is scored in the light of all before it."""
    sides = [[*row.prompt, *row.chosen] for row in rows] + [[*row.prompt, *row.rejected] for row in rows]
    scores = torch.tensor(reward([side[:-1] for side in sides], [side[-1]["content"] for side in sides]))
    return scores[: len(rows)], scores[len(rows) :]


def judge_accuracy(reward: Reward, rows: Sequence[PreferenceRow]) -> dict[str, float]:
    """Return how often a reward prefers what annotators chose, with its interval over prompts, and its length bias."""
    chosen_N, rejected_N = pair_scores(reward, rows)
    groups = [row.prompt_id for row in rows]
    return accuracy_metrics(chosen_N, rejected_N, groups) | length_bias(rows, chosen_N, rejected_N)


def run(config: EvaluateConfig, output: OutputDirectory) -> None:
    """Evaluate a policy; metrics.json, samples.jsonl and skills.jsonl are what a gate and a reader look at.

    Raises:
        ConfigError, DataError: something named in the config cannot be used.
        Stopped: a signal came; a resume begins anew, for a whole evaluation is short.
    """
    prepare_process(config)
    output.load_checkpoint()  # there is never one: this only empties the progress of a run that was stopped
    evaluation = Evaluation(config)
    pairs = read_preferences(config.preferences) if config.preferences else []
    judged = load_reward(config.reward, config.dtype) if config.reward else None
    steps, step = evaluation.steps + 1, 0
    with stop_requests() as stop:

        def done(role: str) -> None:
            nonlocal step
            step += 1
            output.log({"update": step, "updates": steps, "role": role})
            if stop.received:
                raise Stopped

        evaluation.observe_all(done)
        metrics = evaluation.metrics()
        scores: dict[str, list[float]] = {}
        if judged is not None:
            values, scores = evaluation.judge(judged)
            metrics |= values
        if pairs:
            metrics |= _preference_metrics(config, judged, pairs)
    evaluation.write_samples(output.path / "samples.jsonl", scores)
    results = {role: evaluation.of(role).skills for role in evaluation.paths}
    evaluation.skills.write(output.path / "skills.jsonl", results)
    output.log({"update": steps, "updates": steps, **metrics})
    models = [path for path in (config.policy, config.parent, config.base) if path]
    rewards = [path for path in (config.reward, config.reward_under_test) if path and is_directory_reward(path)]
    named = (config.prompts, config.preferences, config.perplexity_text, config.skills)
    files = [path for path in named if path]
    output.finish(metrics, data=files, parents=list(dict.fromkeys([*models, *rewards, *config.parents])))


def _preference_metrics(
    config: EvaluateConfig, judged: Reward | None, pairs: Sequence[PreferenceRow]
) -> dict[str, float]:
    """Return the judge's accuracy on held-out pairs (reward/...), and of the reward under test beside it."""
    longer = [longer_wins(row) for row in pairs]
    values = {"n/pairs": float(len(pairs)), "reward/length_rule": sum(longer) / len(longer)}
    if judged is not None:
        values |= judge_accuracy(judged, pairs)
    if config.reward_under_test:
        tested = judge_accuracy(load_reward(config.reward_under_test, config.dtype), pairs)
        values |= {name.replace("reward/", "reward_under_test/"): value for name, value in tested.items()}
    return values
