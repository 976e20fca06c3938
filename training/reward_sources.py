"""What PPO learns from: a reward or the mean of an ensemble, and further sources by weight, each told on its own."""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from training.config import ConfigError, PPOConfig, is_directory_reward
from training.records import Messages
from training.rewards import EnsembleReward, Reward, load_reward


class WeightedRewards:
    """The weighted sum of a config's rewards; the first is the mean over the ensemble where there is one."""

    def __init__(self, config: PPOConfig) -> None:
        members = [_load("reward", config.reward, config)]
        members += [_load("ensemble", source, config) for source in config.ensemble]
        self.first, self.first_weight = EnsembleReward(members), config.reward_weight
        self.others = [(weight, _load("rewards", source, config)) for source, weight in config.weighted_rewards]
        self.names = part_names([config.reward, *(source for source, _ in config.weighted_rewards)])

    def judge(self, prompts: Sequence[Messages], responses: Sequence[str]) -> tuple[Tensor, ...]:
        """Return (score, deviation over the ensemble, each part's score before its weight), all (B) in float64."""
        mean_B, spread_B = self.first.judge(prompts, responses)
        parts = [mean_B, *(torch.tensor(other(prompts, responses), dtype=torch.float64) for _, other in self.others)]
        weights = [self.first_weight, *(weight for weight, _ in self.others)]
        score_B = sum((weight * part_B for weight, part_B in zip(weights, parts, strict=True)), mean_B.new_zeros(()))
        return score_B, abs(self.first_weight) * spread_B, *parts

    def part_metrics(self, parts: Sequence[Tensor]) -> dict[str, float]:
        """Return the mean of each part by name; of a reward alone, which objective/scores tells, none."""
        if not self.others:
            return {}
        return {f"scores/{name}": float(part_B.mean()) for name, part_B in zip(self.names, parts, strict=True)}


def part_names(sources: Sequence[str]) -> list[str]:
    """Return a short name for each source, none of them twice."""
    names: list[str] = []
    for source in sources:
        name = _short(source)
        again = sum(each == name or each.startswith(f"{name}~") for each in names)
        names.append(f"{name}~{again + 1}" if again else name)
    return names


def _short(source: str) -> str:
    if source.startswith(("http://", "https://")):
        return source.split("://", maxsplit=1)[1].split("?", maxsplit=1)[0].split("@")[-1]  # no secrets in a name
    if is_directory_reward(source):
        place = Path(source)
        return place.parent.name or place.name if place.name == "model" else place.name or source
    return source.rpartition(":")[2]


def _load(key: str, source: str, config: PPOConfig) -> Reward:
    try:
        return load_reward(source, config.dtype)
    except ConfigError as error:
        raise ConfigError(f"{key}: {str(error).removeprefix('reward: ')}") from error
