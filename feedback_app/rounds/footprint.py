"""What training takes before it has run: memory and disk from the model's shape, work from the steps there will be.

Weights, gradients and optimiser state are counted exactly, activations by what a Llama's layer keeps for its backward
pass; what differs from that (an allocator's slack, a library's own buffers) is what "Try" is there to measure.
"""

import json
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from math import ceil, prod
from pathlib import Path
from typing import Any

from feedback_app.rounds.recipes import STAGES, Recipe
from training.config import EvaluateConfig, OptimiserConfig, PPOConfig, RewardConfig, SFTConfig, make_config

WIDTHS = {"auto": 2, "bfloat16": 2, "float32": 4, "float64": 8}
# Python, torch and transformers before they hold a model: 0.38 GiB measured with a CPU's build of torch, and some room.
RUNTIME_BYTES = 2**29
# What an allocator holds beside what it was asked for: trainers of 19 million weights on a CPU took 5 % (a reward
# model) and 14 % (PPO) more than their activations are.
SLACK = 1.2
# training/head.py holds the logits of so many tokens at once; training/checkpoint.py keeps two, and writes one more.
LOGITS_AT_ONCE, CHECKPOINTS = 256, 3
# A table of a model's weights is short; a longer header is not one.
LONGEST_HEADER = 64 * 2**20


@dataclass(frozen=True, kw_only=True)
class ModelShape:
    """A language model's size: adapted is the sum of inputs and outputs over the linear layers that LoRA adapts."""

    parameters: int
    adapted: int
    hidden: int
    layers: int
    heads: int
    key_value_heads: int
    head_size: int
    inner: int
    vocabulary: int


@dataclass(frozen=True, kw_only=True)
class Data:
    """What a round would learn from: counts, and the longest texts in tokens, as nearly as bytes tell them."""

    prompts: int
    prompt_tokens: int
    pairs: int
    answer_tokens: int
    rewrites: int = 0


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What one trainer takes: memory at its peak and disk in bytes, and steps of so many operations.

    least: memory without activations, which no setting of a batch can make smaller.
    """

    stage: str
    part: str
    steps: int
    operations: float  # of a step
    memory: float
    least: float
    disk: float

    @property
    def key(self) -> str:
        return self.part or self.stage


def read_shape(directory: str) -> ModelShape | None:
    """Return the shape of the model in a directory, or in its model/; None where its weights are not there to count."""
    inside = Path(directory) / "model"
    folder = inside if (inside / "config.json").is_file() else Path(directory)
    weights = sorted(folder.glob("*.safetensors"))
    if not weights or not (folder / "config.json").is_file():
        return None
    tensors = {name: shape for path in weights for name, shape in _tensors(path).items()}
    config: dict[str, Any] = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    config = {**config, **config.get("text_config", {})}
    hidden, heads = _first(config, "hidden_size", "n_embd", "d_model"), _first(config, "num_attention_heads", "n_head")
    outside = ("embed", "wte", "wpe", "lm_head", "score")
    return ModelShape(
        parameters=sum(prod(shape) for shape in tensors.values()),
        adapted=sum(
            sum(shape) for name, shape in tensors.items() if len(shape) == 2 and not any(o in name for o in outside)
        ),
        hidden=hidden,
        layers=_first(config, "num_hidden_layers", "n_layer"),
        heads=heads,
        key_value_heads=config.get("num_key_value_heads") or heads,
        head_size=config.get("head_dim") or hidden // max(1, heads),
        inner=_first(config, "intermediate_size", "n_inner") or 4 * hidden,
        vocabulary=_first(config, "vocab_size"),
    )


def _first(config: Mapping[str, Any], *names: str) -> int:
    return next((int(config[name]) for name in names if config.get(name)), 0)


def _tensors(path: Path) -> dict[str, list[int]]:
    """Return the shapes in a safetensors file, from its header alone."""
    with path.open("rb") as file:
        (size,) = struct.unpack("<Q", file.read(8))
        if size > LONGEST_HEADER:
            return {}
        header: dict[str, Any] = json.loads(file.read(size))
    return {name: entry["shape"] for name, entry in header.items() if name != "__metadata__"}


def costs_of(recipe: Recipe, shape: ModelShape, data: Data, *, on_gpu: bool) -> list[Cost]:
    """Return what each trainer of a round takes, in their order."""
    pairs = min(data.pairs, recipe.max_pairs) if recipe.max_pairs else data.pairs
    judge = round(pairs * recipe.judge_share)
    found = []
    if recipe.use_sft and data.rewrites:
        sft = make_config(SFTConfig, {"model": "x", "train": "x", **recipe.sft})
        found.append(_sft(sft, shape, data, on_gpu))
    reward = make_config(RewardConfig, {"model": "x", "train": "x", **recipe.reward})
    found.append(_reward(reward, shape, data, pairs - judge, "reward", on_gpu))
    if judge:
        found.append(_reward(reward, shape, data, judge, "judge", on_gpu))
    ppo = make_config(PPOConfig, {"policy": "x", "reward": "x", "prompts": "x", **recipe.ppo})
    found.append(_ppo(ppo, shape, data, on_gpu))
    evaluate = make_config(EvaluateConfig, {"policy": "x", "prompts": "x", "reward": "x", **recipe.evaluate})
    return [*found, _evaluate(evaluate, shape, data)]


def trained_share(config: OptimiserConfig, shape: ModelShape) -> int:
    """Return how many weights a stage moves: all, or its adapters'."""
    return config.lora_rank * shape.adapted if config.lora_rank else shape.parameters


def models_of(config: RewardConfig) -> int:
    """Return how many models a reward stage trains one after another."""
    return config.ensemble + (1 if config.amends or not config.ensemble else 0)


def _weight(config: OptimiserConfig) -> int:
    """Return the bytes of one weight that learns, and of what its optimiser remembers (training/optimiser.py)."""
    narrow = WIDTHS[config.dtype] == 2
    moments = {"adamw": 2, "sgd": 1, "rmsprop": 1}[config.optimiser]
    width = 2 if narrow and config.optimiser == "adamw" and config.moments == "auto" else max(4, WIDTHS[config.dtype])
    # A narrow weight has the other half of its float32 self beside it.
    return max(4, WIDTHS[config.dtype]) + moments * width


def _learner(config: OptimiserConfig, shape: ModelShape) -> float:
    """Return the bytes of a model that learns: weights, gradients, the optimiser's state."""
    width, moved = WIDTHS[config.dtype], trained_share(config, shape)
    frozen = shape.parameters if config.lora_rank else 0
    # Of several passes the gradients are added up in float32, beside those of the pass that runs.
    several = width == 2 and (config.micro_batch or config.micro_tokens)
    return float(width * frozen + moved * (_weight(config) + (6 if several else width)))


def _kept(config: OptimiserConfig, shape: ModelShape) -> float:
    """Return the bytes that a checkpoint holds of a model that learns."""
    return float(trained_share(config, shape) * _weight(config))


def _activations(config: OptimiserConfig, shape: ModelShape, rows: int, tokens: int, on_gpu: bool) -> float:
    """Return the bytes that a forward pass keeps for its backward one, and the chunk of logits beside it."""
    width = WIDTHS[config.dtype]
    query, pair = shape.heads * shape.head_size, shape.key_value_heads * shape.head_size
    # Two norms in float32 with their input and output; projections, rotations and repeated heads; the gated layer.
    token = (16 + 4 * width) * shape.hidden + width * (6 * query + 3 * pair + 4 * shape.inner)
    if not on_gpu:  # eager attention keeps its softmax in float32 and in the model's own width
        token += tokens * shape.heads * (4 + width)
    logits = LOGITS_AT_ONCE * shape.vocabulary * 12
    if config.gradient_checkpointing:
        return SLACK * (rows * tokens * (shape.layers * width * shape.hidden + token) + logits)
    return SLACK * (rows * tokens * shape.layers * token + logits)


def _disk(config: SFTConfig | RewardConfig | PPOConfig, shape: ModelShape, kept: float, steps: int) -> float:
    """Return the bytes of the checkpoints that are written in so many steps, and of the model that is saved."""
    checkpoints = min(CHECKPOINTS, max(0, steps - 1) // config.checkpoint_every)
    return checkpoints * kept + WIDTHS[config.dtype] * shape.parameters


def _rows_a_pass(config: OptimiserConfig, batch: int, tokens: int) -> int:
    """Return how many of a batch's rows, of so many tokens each, a pass takes at most; one at least."""
    rows = min(config.micro_batch or batch, batch)
    return min(rows, max(1, config.micro_tokens // max(1, tokens))) if config.micro_tokens else rows


def _sft(config: SFTConfig, shape: ModelShape, data: Data, on_gpu: bool) -> Cost:
    tokens = min(config.max_length, data.prompt_tokens + data.answer_tokens)
    rows = _rows_a_pass(config, config.batch, tokens)
    steps = ceil(data.rewrites / config.batch) * config.epochs
    held = RUNTIME_BYTES + _learner(config, shape)
    return Cost(
        stage="sft", part="", steps=steps,
        operations=6.0 * shape.parameters * config.batch * tokens,
        memory=held + _activations(config, shape, rows, tokens, on_gpu), least=held,
        disk=_disk(config, shape, _kept(config, shape), steps),
    )  # fmt: skip


def _reward(config: RewardConfig, shape: ModelShape, data: Data, pairs: int, part: str, on_gpu: bool) -> Cost:
    tokens = min(config.max_length, data.prompt_tokens + data.answer_tokens)
    rows = 2 * _rows_a_pass(config, min(config.batch, max(1, pairs)), 2 * tokens)
    passes = 3 if config.lm_coef else 2  # over chosen and rejected, and over the chosen once more
    learned = ceil(pairs * (1 - config.validation_share))
    steps = ceil(learned / config.batch) * config.epochs * models_of(config)
    best = trained_share(config, shape) * max(4, WIDTHS[config.dtype])  # of the best weights a copy is kept
    held = RUNTIME_BYTES + _learner(config, shape) + best
    return Cost(
        stage="reward", part=part, steps=steps,
        operations=6.0 * shape.parameters * passes * config.batch * tokens,
        memory=held + _activations(config, shape, rows, tokens, on_gpu), least=held,
        disk=_disk(config, shape, _kept(config, shape) + best, steps) + config.ensemble * 2 * shape.parameters,
    )  # fmt: skip


def _ppo(config: PPOConfig, shape: ModelShape, data: Data, on_gpu: bool) -> Cost:
    tokens = min(config.max_prompt_length, data.prompt_tokens) + config.response_length
    width = WIDTHS[config.dtype]
    one = width * shape.parameters
    learners = 2 if config.critic_kind == "separate" else 1
    rows = _rows_a_pass(config, min(config.minibatch, config.rollout_batch), tokens)
    learning = learners * _activations(config, shape, rows, tokens, on_gpu)
    kept_pairs = shape.layers * 2 * shape.key_value_heads * shape.head_size * width
    sampling = config.rollout_batch * tokens * kept_pairs
    # The reference, the reward, and what else judges.
    others = 1 + 1 + len(config.ensemble) + len(config.rewards) + bool(config.watch_reward)
    made = config.rollout_batch * tokens
    # A pass each of sampling, scoring, reference and judges, and three (forward and backward) an epoch and learner.
    operations = 2.0 * shape.parameters * made * (2 + others + (learners - 1) + 3 * learners * config.ppo_epochs)
    held = RUNTIME_BYTES + learners * _learner(config, shape) + others * one
    kept = learners * _kept(config, shape)
    kept += trained_share(config, shape) * 4 if config.alarm == "best" else 0
    return Cost(
        stage="ppo", part="", steps=config.updates, operations=operations,
        memory=held + max(learning, sampling), least=held,
        disk=_disk(config, shape, kept, config.updates),
    )  # fmt: skip


def _evaluate(config: EvaluateConfig, shape: ModelShape, data: Data) -> Cost:
    tokens = min(config.max_prompt_length, data.prompt_tokens) + config.response_length
    width = WIDTHS[config.dtype]
    prompts = min(config.max_prompts, max(1, data.prompts))
    sampling = config.batch * tokens * shape.layers * 2 * shape.key_value_heads * shape.head_size * width
    states, head = (count * shape.hidden * width for count in (prompts * config.response_length, shape.vocabulary))
    logits = LOGITS_AT_ONCE * shape.vocabulary * 12
    held = RUNTIME_BYTES + width * shape.parameters + head
    return Cost(
        stage="evaluate", part="", steps=3 * ceil(prompts / config.batch),
        operations=2.0 * shape.parameters * config.batch * tokens * 2,
        # One model answers at a time; the first one's head stays for the distances from it.
        memory=held + sampling + states + logits, least=held,
        disk=0.0,
    )  # fmt: skip


assert set(STAGES) == {"sft", "reward", "ppo", "evaluate"}  # a stage more needs its cost here
