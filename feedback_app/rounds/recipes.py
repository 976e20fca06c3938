"""How a project's rounds are made, checked once when the recipe is written and trusted from there on."""

import dataclasses
import math
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, cast

from feedback_app.datasets.exporting.options import OptionsError, parse_options
from feedback_app.serving.soak_rules import SoakRules
from training.config import ConfigError, EvaluateConfig, PPOConfig, RewardConfig, SFTConfig, StageConfig, make_config

STAGES: dict[str, type[StageConfig]] = {
    "sft": SFTConfig, "reward": RewardConfig, "ppo": PPOConfig, "evaluate": EvaluateConfig,
}  # fmt: skip
# What the round itself fills in; a recipe that names one would train on something else than its project.
FILLED_IN = {
    "sft": {"model", "train", "validation"},
    "reward": {"model", "train", "validation"},
    "ppo": {"policy", "prompts", "reference"},
    "evaluate": {"policy", "parent", "base", "prompts", "preferences", "reward_under_test"},
}
# Code, addresses and paths: from an operator's file alone, never from a page or the API.
OPERATORS_ALONE = {
    "ppo": {"reward", "rewards", "ensemble", "watch_reward", "ptx"},
    "evaluate": {"reward", "perplexity_text", "skills"},
}  # fmt: skip


class RecipeError(ValueError):
    """A recipe that cannot be used; the message begins with its key."""


# What becomes of a policy that annotators find neither better nor worse.
UNDECIDED = ("approval", "pass", "reject")
MOST_HUMAN_JUDGMENTS = 10_000


@dataclass(frozen=True)
class Gate:
    """What a policy must show on held-out prompts before it may go live; 0 turns a bound off.

    The last three are the human gate: blind comparisons with the parent by annotators, once all else holds.
    """

    approval: bool = False
    win_rate_over_parent: float = 0.5  # the upper end of its interval must reach this: not plainly worse
    win_rate_over_base: float = 0.0  # likewise
    max_kl: float = 60.0  # nats a response, from the parent
    max_kl_from_base: float = 0.0  # off: it grows with every round
    max_length_ratio: float = 4.0
    min_length_ratio: float = 0.0
    max_perplexity_ratio: float = 3.0
    max_skill_loss: float = 0.1  # of the parent's score in questions, summaries, dialogue; lost for certain
    reward_accuracy: float = 0.0  # as a share of how far annotators agree; the interval's upper end must reach it
    no_alarm: bool = True  # where the PPO settings ask for an alarm, it must not have rung
    human_judgments: int = 0  # at most; fewer where the interval decides before
    human_win_rate: float = 0.5  # the interval must lie above it, or below
    human_undecided: str = "approval"  # where it lies across: a person decides, or the policy passes, or it fails

    def __post_init__(self) -> None:
        for entry in dataclasses.fields(self):
            value = getattr(self, entry.name)
            if isinstance(value, int | float) and value < 0:
                raise RecipeError(f"gate.{entry.name}: 0 or more")
        if not 0 < self.human_win_rate < 1:
            raise RecipeError("gate.human_win_rate: between 0 and 1")
        if self.human_judgments > MOST_HUMAN_JUDGMENTS:
            raise RecipeError(f"gate.human_judgments: {MOST_HUMAN_JUDGMENTS} at most")
        if self.human_undecided not in UNDECIDED:
            raise RecipeError(f"gate.human_undecided: one of {', '.join(UNDECIDED)}, not {self.human_undecided!r}")


# Tables of plain values, each read into its own kind.
TABLES: dict[str, type[Gate] | type[SoakRules]] = {"gate": Gate, "soak": SoakRules}


@dataclass(frozen=True)
class Recipe:
    """Everything a round needs to know beside its judgments.

    judgments: export options, by which verdicts become pairs.
    max_pairs: 0 is all of them, else that many, chosen by hash.
    minimum_judgments: a round waits until there are so many; 0 never waits.
    soak: how long and by what the policy is watched once it is live.
    devices: GPUs that the host of a round must have.
    max_disk_gb: GiB of disk that a round may take; 0 is no limit but the disk's.
    judge_share: the part of the train prompts kept for the reward model that judges the outcome.
    """

    start_from: str = "parent"
    reference: str = "base"
    judgments: dict[str, Any] = field(default_factory=dict)
    max_pairs: int = 0
    minimum_judgments: int = 0
    judge_share: float = 0.3
    use_sft: bool = False
    sft: dict[str, Any] = field(default_factory=dict)
    reward: dict[str, Any] = field(default_factory=dict)
    ppo: dict[str, Any] = field(default_factory=dict)
    evaluate: dict[str, Any] = field(default_factory=dict)
    gate: Gate = field(default_factory=Gate)
    soak: SoakRules = field(default_factory=SoakRules)
    launcher: tuple[str, ...] = ()
    devices: int = 0
    max_hours: float = 24.0
    max_disk_gb: float = 0.0

    def __post_init__(self) -> None:
        for key in ("start_from", "reference"):
            if getattr(self, key) not in ("parent", "base"):
                raise RecipeError(f"{key}: parent or base, not {getattr(self, key)!r}")
        if not 0 < self.judge_share < 1:
            raise RecipeError("judge_share: between 0 and 1")
        for key in ("max_pairs", "minimum_judgments", "devices", "max_disk_gb"):
            if getattr(self, key) < 0:
                raise RecipeError(f"{key}: 0 or more")
        if self.max_hours <= 0:
            raise RecipeError("max_hours: above 0")
        if self.gate.max_skill_loss and self.evaluate.get("skill_items") == 0:
            raise RecipeError("gate.max_skill_loss: 0, for evaluate.skill_items is 0 and nothing is measured")

    def as_json(self) -> dict[str, Any]:
        """Return the form that parse_recipe reads and a round freezes."""
        return {**dataclasses.asdict(self), "launcher": list(self.launcher)}


def parse_recipe(values: Mapping[str, Any], *, by_operator: bool = False) -> Recipe:
    """Read a recipe.

    Raises:
        RecipeError: names the key that is unknown, of the wrong type, out of bounds or not for a page to set.
    """
    types = {entry.name: entry.type for entry in dataclasses.fields(Recipe)}
    checked: dict[str, Any] = {}
    for key, value in values.items():
        if key not in types:
            raise RecipeError(f"{key}: unknown key; there are {', '.join(types)}")
        if key in STAGES:
            checked[key] = _stage(key, value, by_operator)
        elif key in TABLES:
            checked[key] = _table(key, value)
        elif key == "judgments":
            checked[key] = _judgments(value)
        elif key == "launcher":
            checked[key] = _launcher(value, by_operator)
        else:
            checked[key] = _plain(key, value, types[key])
    return Recipe(**checked)


def _stage(stage: str, value: Any, by_operator: bool) -> dict[str, Any]:
    if not isinstance(value, Mapping):
        raise RecipeError(f"{stage}: a table is needed")
    for key in value:
        if key in FILLED_IN[stage]:
            raise RecipeError(f"{stage}.{key}: is filled in by the round")
        if key in OPERATORS_ALONE.get(stage, set()) and not by_operator:
            raise RecipeError(f"{stage}.{key}: only set_recipe may set it, never a page or the API")
    try:
        # Any path will do here: what is asked is whether the rest can be used.
        make_config(STAGES[stage], {**dict.fromkeys(FILLED_IN[stage] | _required(stage), "x"), **value})
    except ConfigError as error:
        raise RecipeError(f"{stage}.{error}") from error
    return dict(value)


def _required(stage: str) -> set[str]:
    return {entry.name for entry in dataclasses.fields(STAGES[stage]) if entry.metadata.get("required")}


def _table(key: str, value: Any) -> Gate | SoakRules:
    kind = TABLES[key]
    if isinstance(value, kind):
        return value
    if not isinstance(value, Mapping):
        raise RecipeError(f"{key}: a table is needed")
    types = {entry.name: entry.type for entry in dataclasses.fields(kind)}
    checked = {}
    for name, part in value.items():
        if name not in types:
            raise RecipeError(f"{key}.{name}: unknown key; there are {', '.join(types)}")
        checked[name] = _plain(f"{key}.{name}", part, types[name])
    try:
        return kind(**checked)
    except ValueError as error:
        raise RecipeError(str(error)) from error


def _judgments(value: Any) -> dict[str, Any]:
    if not isinstance(value, Mapping):
        raise RecipeError("judgments: a table is needed")
    try:
        parse_options(value)
    except OptionsError as error:
        raise RecipeError(f"judgments.{error}") from error
    if "split" in value:
        raise RecipeError("judgments.split: is the round's to choose")
    return dict(value)


def _launcher(value: Any, by_operator: bool) -> tuple[str, ...]:
    if not isinstance(value, list | tuple) or not all(isinstance(part, str) for part in value):
        raise RecipeError("launcher: a list of texts is needed")
    if value and not by_operator:
        raise RecipeError("launcher: only set_recipe may set it, never a page or the API")
    return tuple(value)


def _plain(key: str, value: Any, kind: Any) -> Any:
    name: str = kind if isinstance(kind, str) else kind.__name__
    kinds: dict[str, tuple[type, ...]] = {"str": (str,), "int": (int,), "float": (int, float), "bool": (bool,)}
    wanted = kinds[name]
    if not isinstance(value, wanted) or (name != "bool" and isinstance(value, bool)):
        raise RecipeError(f"{key}: {name} is needed, not {value!r}")
    if isinstance(value, float) and not math.isfinite(value):  # TOML has them, and JSON has not
        raise RecipeError(f"{key}: a finite number is needed, not {value!r}")
    return float(cast(float, value)) if name == "float" else value


def parse_recipe_toml(text: str, *, by_operator: bool) -> Recipe:
    """Read a recipe from TOML; preset = "name" begins with a preset. Raises RecipeError."""
    try:
        values = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise RecipeError(f"not TOML: {error}") from error
    return parse_recipe(with_preset(values), by_operator=by_operator)


def with_preset(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return values laid over the preset they name, table by table."""
    values = dict(values)
    name = values.pop("preset", None)
    if name is None:
        return values
    if name not in PRESETS:
        raise RecipeError(f"preset: one of {', '.join(PRESETS)}, not {name!r}")
    merged: dict[str, Any] = {key: dict(v) if isinstance(v, dict) else v for key, v in PRESETS[name].items()}
    for key, value in values.items():
        both = isinstance(value, Mapping) and isinstance(merged.get(key), dict)
        merged[key] = {**merged[key], **value} if both else value
    return merged


# By model size. "quick" ends within ten minutes on two cores with a model of 135 million weights.
PRESETS: dict[str, dict[str, Any]] = {
    "quick": {
        "judgments": {"combine": "majority"},
        "max_pairs": 320,
        "reward": {"epochs": 1, "max_length": 192, "evaluations": 3},
        "ppo": {
            "updates": 16, "rollout_batch": 16, "response_length": 40, "ppo_epochs": 2, "minibatch": 16,
            "critic": "head", "max_prompt_length": 128, "checkpoint_every": 5, "samples_every": 5,
        },
        "evaluate": {"max_prompts": 24, "response_length": 40, "max_prompt_length": 128, "skill_items": 24},
    },
    "smollm2": {
        "reward": {"epochs": 2, "max_length": 512, "micro_tokens": 8192},
        "ppo": {"updates": 60, "rollout_batch": 32, "response_length": 64, "critic": "head", "micro_tokens": 8192},
        "evaluate": {"max_prompts": 128, "response_length": 64},
    },
    "1b": {
        "reward": {"epochs": 1, "max_length": 1024, "lr": 9e-6, "batch": 16, "micro_tokens": 16384},
        "ppo": {
            "updates": 200, "rollout_batch": 128, "minibatch": 32, "response_length": 256, "lora_rank": 32, "lr": 1e-4,
            "critic": "separate", "micro_tokens": 16384,
        },
        "evaluate": {"max_prompts": 256, "response_length": 256},
    },
    "7b": {
        "reward": {
            "epochs": 1, "max_length": 2048, "lr": 5e-6, "batch": 32, "gradient_checkpointing": True,
            "micro_tokens": 16384,
        },
        "ppo": {
            "updates": 400, "rollout_batch": 256, "minibatch": 32, "response_length": 512, "lora_rank": 64, "lr": 5e-5,
            "critic": "separate", "gradient_checkpointing": True, "micro_tokens": 16384,
        },
        "evaluate": {"max_prompts": 512, "response_length": 512},
    },
}  # fmt: skip
