"""What each stage is asked to do, read from TOML once, frozen, and written beside what it made."""

import dataclasses
import math
import tomllib
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar

Dtype = Literal["auto", "float32", "bfloat16", "float64"]
Device = Literal["auto", "cpu", "cuda", "mps"]
Config = TypeVar("Config", bound="StageConfig")
# Names the pipe that a trainer holds to its supervisor: see lifeline.py.
LIFELINE_VARIABLE = "TRAINING_LIFELINE_FD"


class ConfigError(ValueError):
    """A setting that cannot be used; the message begins with its key."""


@dataclass(frozen=True, kw_only=True)
class StageConfig:
    """What every stage shares."""

    seed: int = 0
    dtype: Dtype = "auto"
    device: Device = "auto"  # a GPU where there is one
    threads: int = 0  # 0: one for each core
    tensorboard: bool = True  # event files beside progress.jsonl
    parents: tuple[str, ...] = ()  # directories whose manifests go into ours, beside those the stage reads

    def check(self, holds: bool, key: str, rule: str) -> None:
        """Raise ConfigError where a rule does not hold."""
        if not holds:
            raise ConfigError(f"{key}: {rule}, not {getattr(self, key)!r}")

    def __post_init__(self) -> None:
        for entry in dataclasses.fields(self):
            value = getattr(self, entry.name)
            if entry.metadata.get("required") and not value:
                raise ConfigError(f"{entry.name}: is required")
        self.check(self.threads >= 0, "threads", "0 or more")


def required() -> Any:
    """Declare a field that has no default."""
    return field(default="", metadata={"required": True})


@dataclass(frozen=True, kw_only=True)
class OptimiserConfig(StageConfig):
    """What every stage that changes weights shares."""

    optimiser: Literal["adamw", "sgd", "rmsprop"] = "adamw"
    moments: Literal["auto", "float32"] = "auto"  # auto: AdamW's in bfloat16 beside weights that are
    lr: float = 1e-5
    schedule: Literal["constant", "linear", "cosine", "exponential", "inverse_sqrt"] = "constant"
    warmup: int = 0  # steps
    weight_decay: float = 0.0
    max_grad_norm: float = 1.0
    lora_rank: int = 0  # 0: full fine-tuning
    lora_alpha: int = 0  # 0: twice the rank
    gradient_checkpointing: bool = False
    micro_batch: int = 0  # rows a pass, whose gradients add up to the batch's; 0: the batch at once
    micro_tokens: int = 0  # tokens and padding a pass at most, rows of like length together; 0: no bound

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check(self.lr > 0, "lr", "above 0")
        self.check(self.warmup >= 0, "warmup", "0 or more")
        self.check(self.max_grad_norm > 0, "max_grad_norm", "above 0")
        for key in ("lora_rank", "lora_alpha", "weight_decay", "micro_batch", "micro_tokens"):
            self.check(getattr(self, key) >= 0, key, "0 or more")


@dataclass(frozen=True, kw_only=True)
class PretrainConfig(OptimiserConfig):
    """Causal language modelling on raw text."""

    model: str = ""  # empty: random weights and a tokenizer trained on the spot
    train: str = required()
    validation: str = ""
    epochs: int = 1
    batch: int = 8
    patience: int = 0  # epochs without a better validation loss, then stop; 0: never. The best weights are what is kept
    max_length: int = 256
    vocabulary: int = 4096
    hidden_size: int = 128
    layers: int = 4
    heads: int = 4
    near_duplicates: float = 0.8  # of their five-word shingles in common: the later text is dropped; 0 keeps all
    lr: float = 3e-4
    schedule: Literal["constant", "linear", "cosine", "exponential", "inverse_sqrt"] = "cosine"
    checkpoint_every: int = 100

    def __post_init__(self) -> None:
        super().__post_init__()
        for key in ("epochs", "batch", "hidden_size", "layers", "heads", "checkpoint_every"):
            self.check(getattr(self, key) >= 1, key, "1 or more")
        self.check(self.patience >= 0, "patience", "0 or more")
        self.check(self.max_length >= 2, "max_length", "2 or more")
        self.check(self.hidden_size % (2 * self.heads) == 0, "hidden_size", "a multiple of twice the heads")
        self.check(self.vocabulary >= 300, "vocabulary", "300 or more: 256 bytes and the special tokens")
        self.check(0 <= self.near_duplicates <= 1, "near_duplicates", "from 0 to 1")


@dataclass(frozen=True, kw_only=True)
class SFTConfig(OptimiserConfig):
    """Supervised fine-tuning on prompts and completions; the loss counts the completion alone."""

    model: str = required()
    train: str = required()
    validation: str = ""
    epochs: int = 1
    batch: int = 8
    patience: int = 0  # epochs without a better validation loss, then stop; 0: never. The best weights are what is kept
    max_length: int = 512
    lr: float = 2e-5
    checkpoint_every: int = 50

    def __post_init__(self) -> None:
        super().__post_init__()
        for key in ("epochs", "batch", "checkpoint_every"):
            self.check(getattr(self, key) >= 1, key, "1 or more")
        self.check(self.patience >= 0, "patience", "0 or more")
        self.check(self.max_length >= 2, "max_length", "2 or more")


@dataclass(frozen=True, kw_only=True)
class RewardConfig(OptimiserConfig):
    """A reward model from preference rows."""

    model: str = required()
    train: str = required()
    validation: str = ""  # empty: split off train by prompt
    validation_share: float = 0.1
    epochs: int = 2
    batch: int = 8  # pairs
    max_length: int = 512
    lr: float = 5e-5
    schedule: Literal["constant", "linear", "cosine", "exponential", "inverse_sqrt"] = "linear"
    warmup: int = 5
    use_margin: bool = False
    use_weight: bool = True
    label_smoothing: float = 0.0
    centre_coef: float = 0.01
    centre_scores: bool = False  # afterwards: by the mean over validation answers, which stands in model/config.json
    lm_coef: float = 0.0  # of the language-modelling loss on the chosen answers
    attributes: tuple[str, ...] = ()  # of a file of ratings, each "name=weight"; none: every attribute counts alike
    ensemble: int = 0  # members, trained first and kept as model-0, ...: their spread is each pair's strength
    flip_share: float = 0.0  # of the pairs, the weakest: turned round where the members contradict them
    adaptive_margin: bool = False  # the members' mean difference is each pair's margin
    evaluations: int = 4  # an epoch; the best by validation loss is what is kept
    patience: int = 4  # evaluations without a better one, then stop
    checkpoint_every: int = 25

    def __post_init__(self) -> None:
        super().__post_init__()
        for key in ("epochs", "batch", "evaluations", "patience", "checkpoint_every"):
            self.check(getattr(self, key) >= 1, key, "1 or more")
        self.check(self.max_length >= 2, "max_length", "2 or more")
        for key in ("centre_coef", "lm_coef"):
            self.check(getattr(self, key) >= 0, key, "0 or more")
        self.check(0 < self.validation_share < 1, "validation_share", "between 0 and 1")
        self.check(0 <= self.label_smoothing < 0.5, "label_smoothing", "from 0 to below 0.5")
        self.check(self.ensemble == 0 or self.ensemble >= 2, "ensemble", "0, or 2 or more")
        self.check(0 <= self.flip_share < 1, "flip_share", "from 0 to below 1")
        self.check(self.ensemble > 0 or not self.amends, "ensemble", "2 or more, for strengths are asked for")
        self.check(not (self.adaptive_margin and self.use_margin), "use_margin", "false, for adaptive_margin is true")
        self.check(len(self.attribute_weights) == len(self.attributes), "attributes", 'each "name=weight", once')

    @property
    def amends(self) -> bool:
        """Say whether the ensemble's strengths change what the model learns from."""
        return self.flip_share > 0 or self.adaptive_margin

    @property
    def attribute_weights(self) -> dict[str, float]:
        """Return the weight of each attribute that is named; what cannot be read is left out."""
        return dict(_weighted(self.attributes))


def _weighted(entries: Sequence[str]) -> list[tuple[str, float]]:
    """Read each "name=weight"; a name may hold = itself, as addresses do. What cannot be read is left out."""
    found = []
    for entry in entries:
        name, _, text = entry.rpartition("=")
        try:
            weight = float(text)
        except ValueError:
            continue
        if name.strip() and math.isfinite(weight):
            found.append((name.strip(), weight))
    return found


@dataclass(frozen=True, kw_only=True)
class PPOConfig(OptimiserConfig):
    """PPO-max (arXiv:2307.04964)."""

    policy: str = required()
    reward: str = required()  # a directory, an http(s) URL or module:function
    reward_weight: float = 1.0  # of it, or of the ensemble's mean, in the sum with the following
    rewards: tuple[str, ...] = ()  # further rewards, each "source=weight": the score is the weighted sum of all
    ensemble: tuple[str, ...] = ()  # further rewards: the score is the mean over all, less what they disagree by
    ensemble_penalty: float = 0.0  # standard deviations over the ensemble taken off each score
    prompts: str = required()
    reference: str = ""  # empty: the policy as it starts
    updates: int = 40
    rollout_batch: int = 32
    response_length: int = 48
    max_prompt_length: int = 512
    ppo_epochs: int = 2
    minibatch: int = 16
    lr: float = 5e-5
    critic: Literal["auto", "separate", "head"] = "auto"
    critic_lr: float = 0.0  # 0: twice lr for a separate critic, 1e-3 for a head's own weights
    critic_warmup: int = 0  # updates in which only the critic learns
    value_coef: float = 0.1  # of the value loss where policy and critic share a trunk
    kl_coef: float = 0.05
    kl_estimator: Literal["k1", "k2", "k3"] = "k1"
    kl_target: float = 0.0  # above 0: the coefficient adapts to keep the sequence KL there (nats)
    kl_stop: float = 0.0  # above 0: end an update's epochs when approxkl passes it
    clip: float = 0.2
    value_clip: float = 0.2
    gamma: float = 1.0
    lam: float = 0.95
    temperature: float = 1.0
    top_p: float = 1.0
    repetition_penalty: float = 1.0  # 1: none. KL is measured without it, as without the nucleus
    reward_scaling: bool = True  # divide by the running standard deviation
    reward_centring: bool = True  # subtract the running mean as well
    reward_clip: float = 5.0  # after scaling; 0: none
    whiten_advantages: bool = True
    advantage_clip: float = 0.0
    entropy_coef: float = 0.0
    missing_eos_penalty: float = 0.0
    length_penalty: float = 0.0  # a token, in units of the scaled reward
    ptx: str = ""  # rows of prompt and completion, or text, for the pretraining loss
    ptx_coef: float = 0.0
    ptx_batch: int = 8
    watch_reward: str = ""  # a second reward that PPO does not learn from: what the alarm compares with
    alarm: Literal["note", "stop", "best"] = "note"  # best: end with the weights before things went wrong
    alarm_kl: float = 0.0  # above 0: ring when the sequence KL passes it (nats)
    alarm_length_ratio: float = 0.0  # above 1: ring when responses have become so many times as long, or as short
    alarm_window: int = 8  # updates that are averaged
    samples_every: int = 10
    checkpoint_every: int = 10

    def __post_init__(self) -> None:
        super().__post_init__()
        for key in ("updates", "rollout_batch", "response_length", "max_prompt_length", "ppo_epochs", "minibatch"):
            self.check(getattr(self, key) >= 1, key, "1 or more")
        for key in ("ptx_batch", "samples_every", "checkpoint_every"):
            self.check(getattr(self, key) >= 1, key, "1 or more")
        for key in ("clip", "value_clip", "temperature", "repetition_penalty"):
            self.check(getattr(self, key) > 0, key, "above 0")
        for key in (
            "critic_lr",
            "kl_coef",
            "kl_target",
            "kl_stop",
            "reward_clip",
            "advantage_clip",
            "ptx_coef",
            "alarm_kl",
            "ensemble_penalty",
        ):
            self.check(getattr(self, key) >= 0, key, "0 or more")
        self.check(self.alarm_length_ratio == 0 or self.alarm_length_ratio > 1, "alarm_length_ratio", "0, or above 1")
        self.check(self.ensemble_penalty == 0 or bool(self.ensemble), "ensemble", "a list, for there is a penalty")
        self.check(len(self.weighted_rewards) == len(self.rewards), "rewards", 'each "source=weight"')
        self.check(self.alarm_window >= 2, "alarm_window", "2 or more")
        for key in ("gamma", "lam"):
            self.check(0 <= getattr(self, key) <= 1, key, "from 0 to 1")
        self.check(0 < self.top_p <= 1, "top_p", "above 0, at most 1")
        self.check(0 <= self.critic_warmup < self.updates, "critic_warmup", "from 0 to below updates")
        self.check(self.ptx_coef == 0 or bool(self.ptx), "ptx", "a file, for ptx_coef is above 0")

    @property
    def weighted_rewards(self) -> list[tuple[str, float]]:
        """Return (source, weight) of each further reward; what cannot be read is left out."""
        return _weighted(self.rewards)

    @property
    def critic_kind(self) -> str:
        """Return separate or head: auto is separate with a reward directory, head with anything else."""
        if self.critic != "auto":
            return self.critic
        return "separate" if is_directory_reward(self.reward) else "head"


def is_directory_reward(reward: str) -> bool:
    """Say whether a reward names a reward-model directory rather than a URL or module:function."""
    return not reward.startswith(("http://", "https://")) and (Path(reward).is_dir() or ":" not in reward)


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig(StageConfig):
    """A policy against its parent and base, judged by a reward model that PPO did not use."""

    policy: str = required()
    parent: str = ""  # empty: no comparison with it
    base: str = ""
    reward: str = ""  # the judge: a directory, an http(s) URL or module:function
    prompts: str = required()
    preferences: str = ""  # held-out pairs, for the judge's accuracy
    reward_under_test: str = ""  # PPO's own reward model: its accuracy on the same pairs
    perplexity_text: str = ""  # a file; empty: a fixed text of ours
    skills: str = ""  # a file of questions, summaries and replies with their answers; empty: ours
    skill_items: int = 64  # of each kind at most; 0: retained skills are not measured
    max_prompts: int = 64
    batch: int = 16
    response_length: int = 48
    max_prompt_length: int = 512
    temperature: float = 1.0
    top_p: float = 1.0
    bootstrap: int = 1000

    def __post_init__(self) -> None:
        super().__post_init__()
        for key in ("max_prompts", "batch", "response_length", "max_prompt_length", "bootstrap"):
            self.check(getattr(self, key) >= 1, key, "1 or more")
        self.check(self.skill_items >= 0, "skill_items", "0 or more")
        self.check(self.temperature > 0, "temperature", "above 0")
        self.check(0 < self.top_p <= 1, "top_p", "above 0, at most 1")


@dataclass(frozen=True, kw_only=True)
class GenerateConfig(StageConfig):
    """Completions for a file of prompts."""

    model: str = required()
    prompts: str = required()
    responses_per_prompt: int = 1
    batch: int = 16
    response_length: int = 64
    max_prompt_length: int = 512
    temperature: float = 1.0
    top_p: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        for key in ("responses_per_prompt", "batch", "response_length", "max_prompt_length"):
            self.check(getattr(self, key) >= 1, key, "1 or more")
        self.check(self.temperature > 0, "temperature", "above 0")
        self.check(0 < self.top_p <= 1, "top_p", "above 0, at most 1")


@dataclass(frozen=True, kw_only=True)
class AdoptConfig(StageConfig):
    """A model made elsewhere, taken in as it is."""

    model: str = required()


STAGES: dict[str, type[StageConfig]] = {
    "pretrain": PretrainConfig,
    "sft": SFTConfig,
    "reward": RewardConfig,
    "ppo": PPOConfig,
    "evaluate": EvaluateConfig,
    "generate": GenerateConfig,
    "adopt": AdoptConfig,
}


def load_config(stage: str, text: str, overrides: Sequence[str] = ()) -> StageConfig:
    """Return a stage's config from TOML text and `key=value` overrides, which win.

    Raises:
        ConfigError: names the key that is unknown, of the wrong type or out of bounds.
    """
    try:
        values: dict[str, Any] = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"config: not TOML: {error}") from error
    for override in overrides:
        key, equals, value = override.partition("=")
        if not equals:
            raise ConfigError(f"--set {override}: key=value is needed")
        values[key.strip()] = _from_text(STAGES[stage], key.strip(), value.strip())
    return make_config(STAGES[stage], values)


def make_config(kind: type[Config], values: Mapping[str, Any]) -> Config:
    """Return a config from plain values; raises ConfigError naming the key."""
    hints = typing.get_type_hints(kind)
    names = {entry.name for entry in dataclasses.fields(kind)}
    checked: dict[str, Any] = {}
    for key, value in values.items():
        if key not in names:
            raise ConfigError(f"{key}: unknown key; there are {', '.join(sorted(names))}")
        checked[key] = _checked(key, value, hints[key])
    return kind(**checked)


def _checked(key: str, value: Any, hint: Any) -> Any:
    origin = typing.get_origin(hint)
    if origin is Literal:
        options = typing.get_args(hint)
        if value not in options:
            raise ConfigError(f"{key}: one of {', '.join(map(str, options))}, not {value!r}")
        return value
    if origin is tuple:
        if not isinstance(value, list | tuple) or not all(isinstance(item, str) for item in value):
            raise ConfigError(f"{key}: a list of texts is needed, not {value!r}")
        return tuple(value)
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if isinstance(value, float) and not math.isfinite(value):
        raise ConfigError(f"{key}: a finite number is needed, not {value!r}")
    if not isinstance(value, hint) or (hint is int and isinstance(value, bool)):
        raise ConfigError(f"{key}: {hint.__name__} is needed, not {value!r}")
    return value


def _from_text(kind: type[StageConfig], key: str, text: str) -> Any:
    """Read an override by its field's type, so that --set policy=1 is a path and --set lr=1e-5 a number."""
    hint = typing.get_type_hints(kind).get(key)
    if hint in (int, float, bool) or typing.get_origin(hint) is tuple:
        try:
            return tomllib.loads(f"value = {text}")["value"]
        except tomllib.TOMLDecodeError as error:
            name = hint.__name__ if isinstance(hint, type) else "a list"
            raise ConfigError(f"{key}: {name} is needed, not {text!r}") from error
    return text


def to_toml(config: StageConfig) -> str:
    """Return a config as TOML that load_config reads back equal."""
    return "".join(f"{key} = {_toml_value(value)}\n" for key, value in dataclasses.asdict(config).items())


def _toml_value(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, list | tuple):
        return "[" + ", ".join(_toml_value(item) for item in value) + "]"
    if not isinstance(value, str):
        raise TypeError(f"no TOML for {type(value).__name__}")
    escaped = value.replace("\\", "\\\\").replace('"', '\\"')
    return '"' + "".join(c if c >= " " and c != "\x7f" else f"\\u{ord(c):04x}" for c in escaped) + '"'
