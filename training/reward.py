"""A reward model from preference rows: a language model whose last token's state becomes one number."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from training import processes
from training.checkpoint import OutputDirectory, Stopped, prepare_process, stop_requests
from training.comparisons import Comparison, as_pairs, split_by_prompt, tokenize
from training.config import RewardConfig
from training.models import (
    MasterWeights,
    add_lora,
    checkpoint_activations,
    load_scorer,
    load_tokenizer,
    model_directory,
    resolve_dtype,
    save_model,
    schedule_scale,
)
from training.ranking import expected_calibration_error, listwise_loss, pairwise_loss
from training.records import DataError, PreferenceRow, read_judged
from training.rewards import score_tokens
from training.statistics import mean_interval

# Margins of the export are from 0 to 1; Llama 2's large ones (1 for a slight preference, 3 for a strong one) are these.
MARGIN_SCALE = 3.0


class RewardTraining:
    """The state of a run: the model, its optimiser, and the best weights so far by validation loss."""

    def __init__(self, config: RewardConfig) -> None:
        self.config = config
        self.tokenizer = load_tokenizer(config.model)
        self.model = load_scorer(config.model, resolve_dtype(config.dtype))
        self.model.config.pad_token_id = self.tokenizer.pad_token_id
        if not _was_scorer(config.model):
            # From zero: the first scores are equal, and what the head learns owes nothing to a random start.
            nn.init.zeros_(self.model.score.weight)
        if config.gradient_checkpointing:
            checkpoint_activations(self.model)
        if config.lora_rank:
            self.model = add_lora(self.model, config)
        self.optimiser = MasterWeights([(list(self.model.parameters()), config.lr)], config)
        rows = read_judged(config.train)
        if config.validation:
            train, held = rows, read_judged(config.validation)
        else:
            train, held = split_by_prompt(rows, config.validation_share)
        self.train = tokenize(self.tokenizer, train, config.max_length)
        self.held_rows = as_pairs(held)
        if not self.held_rows:
            raise DataError(
                f"{config.validation or config.train}: validation has ties alone: nothing to be right about"
            )
        self.held = tokenize(self.tokenizer, self.held_rows, config.max_length)
        self.best_loss, self.best_step, self.worse = float("inf"), 0, 0
        self.best: list[Tensor] = []

    @property
    def steps_per_epoch(self) -> int:
        return -(-len(self.train) // self.config.batch)

    @property
    def steps(self) -> int:
        return self.steps_per_epoch * self.config.epochs

    def batch_at(self, step: int) -> list[Comparison]:
        """Return a step's comparisons: each epoch a new shuffle by the seed, batches of like length within it."""
        epoch, place = divmod(step, self.steps_per_epoch)
        generator = torch.Generator().manual_seed((self.config.seed * 7919 + epoch) % 2**63)
        shuffled = [self.train[int(i)] for i in torch.randperm(len(self.train), generator=generator)]
        # Sorting within windows of eight batches saves most of the padding and keeps the order random.
        window = self.config.batch * 8
        ordered = [
            comparison
            for start in range(0, len(shuffled), window)
            for comparison in sorted(shuffled[start : start + window], key=lambda each: each.length)
        ]
        batches = [ordered[i : i + self.config.batch] for i in range(0, len(ordered), self.config.batch)]
        order = torch.randperm(len(batches), generator=generator)
        return batches[int(order[place])]

    def scores(self, comparisons: Sequence[Comparison]) -> list[Tensor]:
        """Return each comparison's scores, in its texts' order, from one forward pass over all."""
        tokens = [text for comparison in comparisons for text in comparison.texts]
        scores_N = score_tokens(self.model, tokens, self.tokenizer.pad_token_id)
        return list(torch.split(scores_N, [len(comparison.texts) for comparison in comparisons]))

    def loss(
        self,
        comparisons: Sequence[Comparison],
        scores: Sequence[Tensor],
        whole: Sequence[Comparison] | None = None,
    ) -> Tensor:
        """Return a batch's loss: the weighted mean over choices, and what keeps scores near 0.

        A pair is one choice, a ranking of K is K - 1. The latter is the squared sum of a pair's scores (eq. 2 of
        arXiv:2312.09244), of twice their mean in a ranking. Of a part of a batch the loss is its part of the whole's:
        those of all parts add up to it.
        """
        config = self.config
        whole = comparisons if whole is None else whole
        weights_B = scores[0].new_tensor([self._weight(each) for each in comparisons])
        losses_B = torch.stack([self._loss_of(*both) for both in zip(comparisons, scores, strict=True)])
        choices = sum(self._weight(each) * (len(each.texts) - 1) for each in whole)
        loss = (weights_B * losses_B).sum() / max(choices, 1e-8)
        if config.centre_coef:
            sums_B = torch.stack([2 * scores_K.mean() for scores_K in scores])
            loss = loss + config.centre_coef * (sums_B**2).sum() / len(whole)
        return loss

    def _weight(self, comparison: Comparison) -> float:
        return comparison.weight if self.config.use_weight else 1.0

    def _loss_of(self, comparison: Comparison, scores_K: Tensor) -> Tensor:
        if not comparison.is_pair:
            return listwise_loss(scores_K, torch.tensor(comparison.ranks, device=scores_K.device))
        margin = scores_K.new_tensor(MARGIN_SCALE * (comparison.margin or 0.0)) if self.config.use_margin else None
        return pairwise_loss(scores_K[0], scores_K[1], margin, self.config.label_smoothing)

    def step(self, step: int) -> dict[str, float]:
        """Take one optimiser step, the batch in pieces where the config says so; return what was watched."""
        whole = self.batch_at(step)
        comparisons = processes.share(whole)
        size = self.config.micro_batch or max(1, len(comparisons))
        loss, differences = 0.0, [torch.zeros(0)]
        for start in range(0, len(comparisons), size):
            piece = comparisons[start : start + size]
            scores = self.scores(piece)
            part = self.loss(piece, scores, whole)
            part.backward()  # type: ignore[no-untyped-call]
            self.optimiser.collect()
            loss += float(part.detach())
            differences.append(_differences(piece, scores))
        norm = self.optimiser.step(schedule_scale(self.config, step, self.steps))
        differences_N = torch.cat(differences)
        sums = [loss, float((differences_N > 0).sum()), float(differences_N.sum()), len(differences_N)]
        loss, right, gap, pairs = processes.total(sums)
        pairs = max(pairs, 1.0)  # of ties alone there are none
        return {
            "loss/reward": loss, "reward/train_accuracy": right / pairs, "reward/margin": gap / pairs,
            "grad_norm": norm,
        }  # fmt: skip

    @torch.no_grad()
    def held_scores(self) -> tuple[Tensor, Tensor]:
        """Return (chosen, rejected) scores of the validation pairs, in their order."""
        dtype = torch.promote_types(resolve_dtype(self.config.dtype), torch.float32)
        chosen_N, rejected_N = torch.zeros(2, len(self.held), dtype=dtype)
        order = sorted(range(len(self.held)), key=lambda i: self.held[i].length)
        for start in processes.share(range(0, len(order), self.config.batch)):
            rows = order[start : start + self.config.batch]
            scores_B2 = torch.stack(self.scores([self.held[i] for i in rows])).cpu()
            chosen_N[rows], rejected_N[rows] = scores_B2[:, 0], scores_B2[:, 1]
        return processes.sum_tensor(chosen_N), processes.sum_tensor(rejected_N)

    def validate(self, step: int) -> dict[str, float]:
        """Score the validation pairs; remember the weights where they are the best so far."""
        chosen_N, rejected_N = self.held_scores()
        loss = float(pairwise_loss(chosen_N, rejected_N).mean())
        if loss < self.best_loss:
            self.best_loss, self.best_step, self.worse = loss, step, 0
            self.best = self.optimiser.weights()
        else:
            self.worse += 1
        return {"loss/validation": loss, "reward/accuracy": float((chosen_N > rejected_N).double().mean())}

    def restore_best(self) -> None:
        """Put the best weights back."""
        self.optimiser.put_back(self.best)

    def state(self) -> dict[str, Any]:
        return {
            "optimiser": self.optimiser.state(), "best": self.best, "best_loss": self.best_loss,
            "best_step": self.best_step, "worse": self.worse,
        }  # fmt: skip

    def load(self, state: dict[str, Any]) -> None:
        self.optimiser.load(state["optimiser"])
        self.best, self.best_loss = state["best"], state["best_loss"]
        self.best_step, self.worse = state["best_step"], state["worse"]


def _differences(comparisons: Sequence[Comparison], scores: Sequence[Tensor]) -> Tensor:
    """Return the better's score less the worse's, of every ordered pair in a batch."""
    parts = [torch.zeros(0)]
    for comparison, scores_K in zip(comparisons, scores, strict=True):
        ranks_K = torch.tensor(comparison.ranks)
        better_KK = ranks_K[:, None] < ranks_K[None, :]
        parts.append((scores_K[:, None] - scores_K[None, :]).detach().cpu()[better_KK])
    return torch.cat(parts)


def _was_scorer(path: str) -> bool:
    from transformers import AutoConfig

    architectures = AutoConfig.from_pretrained(model_directory(path)).architectures or []
    return any(name.endswith("SequenceClassification") for name in architectures)


def run(config: RewardConfig, output: OutputDirectory) -> None:
    """Train a reward model and keep the best by validation loss.

    Raises:
        ConfigError, DataError: something named in the config cannot be used.
        Stopped: a signal came; the checkpoint is written.
    """
    prepare_process(config)
    training = RewardTraining(config)
    first = 0
    if (found := output.load_checkpoint()) is not None:
        first, state = found
        training.load(state)
    every = max(1, training.steps_per_epoch // config.evaluations)
    with stop_requests() as stop:
        for step in range(first, training.steps):
            if training.worse >= config.patience:
                break
            line: dict[str, Any] = {"update": step + 1, "updates": training.steps, **training.step(step)}
            last = step + 1 == training.steps
            if (step + 1) % every == 0 or last:
                line |= training.validate(step + 1)
            output.log(line)
            stopping = stop.heeded
            if stopping or (not last and (step + 1) % config.checkpoint_every == 0):
                output.save_checkpoint(step + 1, training.state())
            if stopping and not last:
                raise Stopped
    training.restore_best()
    if processes.is_first():
        save_model(training.model, training.tokenizer, output.path)
    metrics = report(training)
    output.finish(
        metrics, data=[config.train, *filter(None, [config.validation])], parents=[config.model, *config.parents]
    )


def report(training: RewardTraining) -> dict[str, Any]:
    """Return what is known of the kept model on the validation pairs, beside the rule "the longer answer wins"."""
    chosen_N, rejected_N = training.held_scores()
    groups = [pair.prompt_id for pair in training.held]
    metrics: dict[str, Any] = accuracy_metrics(chosen_N, rejected_N, groups)
    longer = [longer_wins(row) for row in training.held_rows]
    metrics["reward/length_rule"] = sum(longer) / len(longer)
    metrics["reward/by_strength"] = _by_strength(training.held, chosen_N, rejected_N)
    both = torch.cat([chosen_N, rejected_N])
    return metrics | {
        "loss/validation": float(pairwise_loss(chosen_N, rejected_N).mean()),
        "reward/score_mean": float(both.mean()),
        "reward/score_std": float(both.std(unbiased=False)),
        "n/train_pairs": sum(each.is_pair for each in training.train),
        "n/train_rankings": sum(not each.is_pair for each in training.train),
        "n/validation_pairs": len(training.held),
        "n/validation_prompts": len(set(groups)),
        "best_step": training.best_step,
        "steps": training.steps,
    }


def accuracy_metrics(
    chosen_N: Tensor, rejected_N: Tensor, groups: Sequence[str], draws: int = 1000
) -> dict[str, float]:
    """Return accuracy with its interval over prompts, and calibration; equal scores count half."""
    right_N = _right(chosen_N, rejected_N)
    mean, low, high = mean_interval(right_N.tolist(), groups, draws=draws)
    probabilities_N = torch.sigmoid((chosen_N - rejected_N).abs())
    return {
        "reward/accuracy": mean,
        "reward/accuracy_low": low,
        "reward/accuracy_high": high,
        "reward/ece": expected_calibration_error(probabilities_N, right_N),
    }


def _right(chosen_N: Tensor, rejected_N: Tensor) -> Tensor:
    """Return 1 where the chosen answer has the higher score, 0.5 where both have the same."""
    return (chosen_N > rejected_N).double() + 0.5 * (chosen_N == rejected_N).double()


def longer_wins(row: PreferenceRow) -> float:
    """Return 1 where the chosen answer is the longer one in characters, 0 where it is the shorter, 0.5 where equal."""
    chosen, rejected = (sum(len(m["content"]) for m in side) for side in (row.chosen, row.rejected))
    return 0.5 if chosen == rejected else float(chosen > rejected)


def _by_strength(pairs: Sequence[Comparison], chosen_N: Tensor, rejected_N: Tensor) -> dict[str, dict[str, float]]:
    table: dict[str, list[float]] = {}
    for pair, right in zip(pairs, _right(chosen_N, rejected_N).tolist(), strict=True):
        name = "unknown" if pair.margin is None else f"{pair.margin:.2f}"
        table.setdefault(name, []).append(right)
    return {name: {"accuracy": sum(rows) / len(rows), "n": len(rows)} for name, rows in sorted(table.items())}
