"""A reward model from preference rows: a language model whose last token's state becomes one number."""

import json
import math
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from training import processes
from training.accuracy import accuracy_metrics, by_strength, longer_wins
from training.checkpoint import OutputDirectory, Stopped, StopRequests, prepare_process, stop_requests
from training.chosen_language import ChosenLanguage
from training.comparisons import Comparison, Judged, as_pairs, longest, split_by_prompt, tokenize
from training.config import RewardConfig
from training.early_stopping import Best
from training.length_bias import length_bias
from training.microbatches import microbatches
from training.models import (
    add_lora,
    checkpoint_activations,
    inner_model,
    load_scorer,
    load_tokenizer,
    model_directory,
    resolve_dtype,
    save_model,
)
from training.optimiser import MasterWeights, schedule_scale
from training.ranking import listwise_loss, pairwise_loss
from training.ratings import is_ratings, read_ratings
from training.records import DataError, read_judged
from training.rewards import MEAN_KEY, scores_mean
from training.shared_prefix import score_groups
from training.strength import MARGIN_SCALE, Strengths, amend, measure
from training.strength import lines as strength_lines


class RewardTraining:
    """The state of a run: the model, its optimiser, and the best weights so far by validation loss."""

    def __init__(self, config: RewardConfig, strengths: Strengths | None = None) -> None:
        self.config = config
        torch.manual_seed(config.seed % 2**63)  # of an ensemble each member has its own
        self.tokenizer = load_tokenizer(config.model)
        self.model = load_scorer(config.model, resolve_dtype(config.dtype))
        self.model.config.pad_token_id = self.tokenizer.pad_token_id
        if not _was_scorer(config.model):
            # From zero: the first scores are equal, and what the head learns owes nothing to a random start.
            nn.init.zeros_(self.model.score.weight)
        if scores_mean(self.model):  # of a reward model that is trained on; it will be another
            setattr(self.model.config, MEAN_KEY, 0.0)
        if config.gradient_checkpointing:
            checkpoint_activations(self.model)
        if config.lora_rank:
            self.model = add_lora(self.model, config)
        self.language = None
        if config.lm_coef:
            pad, was_scorer = self.tokenizer.pad_token_id, _was_scorer(config.model)
            self.language = ChosenLanguage(config, self.model, pad, was_scorer=was_scorer)
        self.optimiser = MasterWeights([(list(self.model.parameters()), config.lr)], config)
        rows = _read(config.train, config)
        if config.validation:
            train, held = rows, _read(config.validation, config)
        else:
            train, held = split_by_prompt(rows, config.validation_share)
        self.train = tokenize(self.tokenizer, train, config.max_length, with_answers=config.lm_coef > 0)
        if strengths is not None:
            self.train = amend(self.train, strengths, config)
        self.held_rows = as_pairs(held)
        if not self.held_rows:
            raise DataError(
                f"{config.validation or config.train}: validation has ties alone: nothing to be right about"
            )
        self.held = tokenize(self.tokenizer, self.held_rows, config.max_length)
        self.best = Best(self.optimiser)

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
        return score_groups(self.model, [each.texts for each in comparisons], self.tokenizer.pad_token_id)

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

    @property
    def _margins(self) -> bool:
        return self.config.use_margin or self.config.adaptive_margin

    def _weight(self, comparison: Comparison) -> float:
        return comparison.weight if self.config.use_weight else 1.0

    def _loss_of(self, comparison: Comparison, scores_K: Tensor) -> Tensor:
        if not comparison.is_pair:
            return listwise_loss(scores_K, torch.tensor(comparison.ranks, device=scores_K.device))
        margin = scores_K.new_tensor(MARGIN_SCALE * (comparison.margin or 0.0)) if self._margins else None
        return pairwise_loss(scores_K[0], scores_K[1], margin, self.config.label_smoothing)

    def step(self, step: int) -> dict[str, float]:
        """Take one optimiser step, the batch in pieces where the config says so; return what was watched."""
        whole = self.batch_at(step)
        loss, language, differences = 0.0, 0.0, [torch.zeros(0)]
        share = processes.share(whole)
        for places in microbatches(self.config, list(map(longest, share)), [len(each.texts) for each in share]):
            piece = [share[place] for place in places]
            scores = self.scores(piece)
            part = self.loss(piece, scores, whole)
            part.backward()  # type: ignore[no-untyped-call]
            self.optimiser.collect()
            loss += float(part.detach())
            differences.append(_differences(piece, scores))
            language += self._learn_language(piece, whole)
        norm = self.optimiser.step(schedule_scale(self.config, step, self.steps))
        differences_N = torch.cat(differences)
        sums = [loss, float((differences_N > 0).sum()), float(differences_N.sum()), len(differences_N), language]
        loss, right, gap, pairs, language = processes.total(sums)
        pairs = max(pairs, 1.0)  # of ties alone there are none
        return {
            "loss/reward": loss, "reward/train_accuracy": right / pairs, "reward/margin": gap / pairs,
            "grad_norm": norm,
        } | ({} if self.language is None else {"loss/language": language})  # fmt: skip

    def _learn_language(self, piece: Sequence[Comparison], whole: Sequence[Comparison]) -> float:
        """Add the gradient of the language-modelling loss where it is asked for; return the loss, unweighted."""
        loss = None if self.language is None else self.language.loss(piece, whole)
        if loss is None:
            return 0.0
        (self.config.lm_coef * loss).backward()  # type: ignore[no-untyped-call]
        self.optimiser.collect()
        return float(loss.detach())

    @torch.no_grad()
    def pair_scores(self, pairs: Sequence[Comparison]) -> tuple[Tensor, Tensor]:
        """Return (chosen, rejected) scores of pairs, in their order."""
        dtype = torch.promote_types(resolve_dtype(self.config.dtype), torch.float32)
        chosen_N, rejected_N = torch.zeros(2, len(pairs), dtype=dtype)
        order = sorted(range(len(pairs)), key=lambda i: pairs[i].length)
        for start in processes.share(range(0, len(order), self.config.batch)):
            rows = order[start : start + self.config.batch]
            scores_B2 = torch.stack(self.scores([pairs[i] for i in rows])).cpu()
            chosen_N[rows], rejected_N[rows] = scores_B2[:, 0], scores_B2[:, 1]
        return processes.sum_tensor(chosen_N), processes.sum_tensor(rejected_N)

    def held_scores(self) -> tuple[Tensor, Tensor]:
        """Return (chosen, rejected) scores of the validation pairs, in their order."""
        return self.pair_scores(self.held)

    def differences(self) -> list[float]:
        """Return by how much each training pair's chosen answer scores higher; of a ranking NaN."""
        places = [place for place, each in enumerate(self.train) if each.is_pair]
        chosen_N, rejected_N = self.pair_scores([self.train[place] for place in places])
        table = [math.nan] * len(self.train)
        for place, difference in zip(places, (chosen_N - rejected_N).tolist(), strict=True):
            table[place] = difference
        return table

    def validate(self, step: int) -> dict[str, float]:
        """Score the validation pairs; remember the weights where they are the best so far."""
        chosen_N, rejected_N = self.held_scores()
        loss = float(pairwise_loss(chosen_N, rejected_N).mean())
        self.best.see(loss, step)
        return {"loss/validation": loss, "reward/accuracy": float((chosen_N > rejected_N).double().mean())}

    def restore_best(self) -> None:
        """Put the best weights back, and note their scores' mean where they are to be centred."""
        self.best.put_back()
        self.centre()

    def centre(self) -> None:
        """Note the mean score of the validation answers beside the model, where the config asks for it."""
        if self.config.centre_scores:
            mean = float(torch.cat(self.held_scores()).double().mean())
            setattr(inner_model(self.model).config, MEAN_KEY, mean)

    def state(self) -> dict[str, Any]:
        return {"optimiser": self.optimiser.state(), "best": self.best.state()}

    def load(self, state: dict[str, Any]) -> None:
        self.optimiser.load(state["optimiser"])
        self.best.load(state["best"])


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


@dataclass(frozen=True)
class Done:
    """What the members of an ensemble that are trained have left: their pairs' differences, their validation losses."""

    differences: list[list[float]] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)


def _train(
    training: RewardTraining, output: OutputDirectory, stop: StopRequests, done: Done, state: dict[str, Any] | None
) -> None:
    """Train one model to its end, from a stored state where there is one, and put its best weights back."""
    config, first = training.config, 0
    if state is not None:
        first = state["step"]
        training.load(state)
    before = training.steps * len(done.losses)
    updates = training.steps * (config.ensemble + (1 if config.amends or not config.ensemble else 0))
    every = max(1, training.steps_per_epoch // config.evaluations)
    for step in range(first, training.steps):
        if training.best.worse >= config.patience:
            break
        began = time.perf_counter()
        line: dict[str, Any] = {"update": before + step + 1, "updates": updates, **training.step(step)}
        line["time/update_s"] = time.perf_counter() - began
        last = step + 1 == training.steps
        if (step + 1) % every == 0 or last:
            line |= training.validate(step + 1)
        output.log(line)
        stopping = stop.heeded
        if stopping or (not last and (step + 1) % config.checkpoint_every == 0):
            kept = {"done": asdict(done), "training": {"step": step + 1, **training.state()}}
            output.save_checkpoint(before + step + 1, kept)
        if stopping and before + step + 1 < updates:
            raise Stopped
    training.restore_best()


def run(config: RewardConfig, output: OutputDirectory) -> None:
    """Train a reward model, after its ensemble where it has one, and keep the best by validation loss.

    Raises:
        ConfigError, DataError: something named in the config cannot be used.
        Stopped: a signal came; the checkpoint is written.
    """
    prepare_process(config)
    done = Done()
    found = output.load_checkpoint()
    if found is not None:
        done = Done(**found[1]["done"])
    with stop_requests() as stop:
        while len(done.losses) < config.ensemble:
            member = len(done.losses)
            training = RewardTraining(replace(config, seed=config.seed + 1 + member))
            _train(training, output, stop, done, None if found is None else found[1]["training"])
            done = Done([*done.differences, training.differences()], [*done.losses, training.best.loss])
            name = f"model-{member}"
            processes.first_does(partial(save_model, training.model, training.tokenizer, output.path, name))
            updates = training.steps * len(done.losses)
            del training  # one model in memory at a time
            found = None
            output.save_checkpoint(updates, {"done": asdict(done), "training": None})
        strengths = measure(done.differences) if config.ensemble else None
        if config.ensemble and not config.amends:
            best = output.path / f"model-{done.losses.index(min(done.losses))}"
            training = RewardTraining(replace(config, model=str(best), lora_rank=0, lm_coef=0.0))
            training.centre()
        else:
            training = RewardTraining(config, strengths)
            _train(training, output, stop, done, None if found is None else found[1]["training"])
    if processes.is_first():
        save_model(training.model, training.tokenizer, output.path)
    metrics = report(training)
    if strengths is not None:
        metrics |= _report_strengths(training, strengths, done, output)
    output.finish(
        metrics, data=[config.train, *filter(None, [config.validation])], parents=[config.model, *config.parents]
    )


def report(training: RewardTraining) -> dict[str, Any]:
    """Return what is known of the kept model on the validation pairs, beside the rule "the longer answer wins"."""
    chosen_N, rejected_N = training.held_scores()
    groups = [pair.prompt_id for pair in training.held]
    metrics: dict[str, Any] = accuracy_metrics(chosen_N, rejected_N, groups)
    metrics |= length_bias(training.held_rows, chosen_N, rejected_N)
    longer = [longer_wins(row) for row in training.held_rows]
    metrics["reward/length_rule"] = sum(longer) / len(longer)
    metrics["reward/by_strength"] = by_strength(training.held, chosen_N, rejected_N)
    both = torch.cat([chosen_N, rejected_N])
    return metrics | {
        "loss/validation": float(pairwise_loss(chosen_N, rejected_N).mean()),
        "reward/score_mean": float(both.mean()),
        "reward/score_std": float(both.std(unbiased=False)),
        "n/train_pairs": sum(each.is_pair for each in training.train),
        "n/train_rankings": sum(not each.is_pair for each in training.train),
        "n/validation_pairs": len(training.held),
        "n/validation_prompts": len(set(groups)),
        "best_step": training.best.step,
        "steps": training.steps,
    }


def _report_strengths(
    training: RewardTraining, strengths: Strengths, done: Done, output: OutputDirectory
) -> dict[str, Any]:
    """Write strength.jsonl, the weakest pair first; return what the ensemble says of the training pairs."""
    rows = strength_lines(training.train, strengths, training.config)
    if processes.is_first():
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (output.path / "strength.jsonl").write_text(text, encoding="utf-8")
    return {
        "ensemble/validation_losses": done.losses,
        "ensemble/best_member": done.losses.index(min(done.losses)),
        "ensemble/contradicted": sum(row["strength"] < 0 for row in rows) / len(rows) if rows else 0.0,
        "n/flipped": sum(row["flipped"] for row in rows),
    }


def _read(path: str, config: RewardConfig) -> list[Judged]:
    return read_ratings(path, config.attribute_weights) if is_ratings(path) else read_judged(path)
