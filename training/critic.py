"""Critics: a head on the policy's own trunk, which costs next to nothing, or a model that starts as the reward's."""

from typing import Any, Protocol

import torch
from torch import Tensor, nn

from training.batches import Batch
from training.config import PPOConfig, is_directory_reward
from training.devices import device_of
from training.models import (
    add_lora,
    checkpoint_activations,
    inner_model,
    load_scorer,
    load_tokenizer,
    resolve_dtype,
    response_states,
)

DEFAULT_HEAD_LR = 1e-3
SEPARATE_LR_FACTOR = 2.0


class Critic(Protocol):
    """Estimates the return from each response position on."""

    shares_trunk: bool

    def values(self, batch: Batch, policy_states_BTH: Tensor | None) -> Tensor:
        """Return values (B, T); the policy's states are used by a critic that shares its trunk."""

    def parameters(self) -> list[nn.Parameter]:
        """Return what the critic's optimiser moves."""


class HeadCritic:
    """A linear layer on the policy's last hidden states; it starts at 0, so the first advantages are the returns."""

    shares_trunk = True

    def __init__(self, policy: Any) -> None:
        hidden = inner_model(policy).config.hidden_size
        self.head = nn.Linear(hidden, 1, dtype=torch.float64 if policy.dtype == torch.float64 else torch.float32)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)
        self.head.to(device_of())

    def values(self, batch: Batch, policy_states_BTH: Tensor | None) -> Tensor:
        assert policy_states_BTH is not None
        values_BT1: Tensor = self.head(policy_states_BTH.to(self.head.weight.dtype))
        return values_BT1.squeeze(-1)

    def parameters(self) -> list[nn.Parameter]:
        return list(self.head.parameters())


class SeparateCritic:
    """A model of its own: the reward model's weights where it reads the policy's tokens, else the policy's trunk."""

    shares_trunk = False

    def __init__(self, config: PPOConfig) -> None:
        source = config.policy
        if is_directory_reward(config.reward):
            ours, theirs = load_tokenizer(config.policy, "policy"), load_tokenizer(config.reward, "reward")
            if ours.get_vocab() == theirs.get_vocab():
                source = config.reward
        self.model = load_scorer(source, resolve_dtype(config.dtype), "critic")
        if config.gradient_checkpointing:
            checkpoint_activations(self.model)
        if source == config.policy:
            nn.init.zeros_(inner_model(self.model).score.weight)
        if config.lora_rank:
            self.model = add_lora(self.model, config)

    def values(self, batch: Batch, policy_states_BTH: Tensor | None) -> Tensor:
        states_BTH = response_states(self.model, batch)
        values_BT1: Tensor = inner_model(self.model).score(states_BTH)
        values_BT = values_BT1.squeeze(-1)
        return values_BT if values_BT.dtype == torch.float64 else values_BT.float()

    def parameters(self) -> list[nn.Parameter]:
        return [p for p in self.model.parameters() if p.requires_grad]


def make_critic(config: PPOConfig, policy: Any) -> Critic:
    """Return the critic that a config asks for."""
    return HeadCritic(policy) if config.critic_kind == "head" else SeparateCritic(config)


def critic_lr(config: PPOConfig) -> float:
    """Return the critic's learning rate: the config's, or what learns by default."""
    if config.critic_lr:
        return config.critic_lr
    return DEFAULT_HEAD_LR if config.critic_kind == "head" else SEPARATE_LR_FACTOR * config.lr
