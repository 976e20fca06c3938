"""What pretraining and supervised fine-tuning share: a language model, counted tokens, one resumable loop."""

from collections.abc import Sequence
from typing import Any

import torch

from training import processes
from training.batches import make_batch
from training.canary import write_canary
from training.checkpoint import OutputDirectory, Stopped, stop_requests
from training.config import PretrainConfig, SFTConfig
from training.data import completion_loss, completion_passes
from training.early_stopping import Best
from training.models import save_model
from training.optimiser import MasterWeights, schedule_scale

Row = tuple[list[int], list[int]]  # what is given, what is learned


class LanguageTraining:
    """The state of a run: the model, its optimiser, and rows of (given tokens, learned tokens)."""

    def __init__(
        self, config: SFTConfig | PretrainConfig, model: Any, tokenizer: Any, train: Sequence[Row], held: Sequence[Row]
    ) -> None:
        self.config, self.model, self.tokenizer = config, model, tokenizer
        self.train, self.held = list(train), list(held)
        self.optimiser = MasterWeights([(list(model.parameters()), config.lr)], config)
        self.best = Best(self.optimiser, keeps=config.patience > 0)

    @property
    def steps_per_epoch(self) -> int:
        return -(-len(self.train) // self.config.batch)

    @property
    def steps(self) -> int:
        return self.steps_per_epoch * self.config.epochs

    def batch_at(self, step: int) -> list[Row]:
        """Return a step's rows; it depends on the seed and the step alone, so a resume has nothing to remember."""
        epoch, place = divmod(step, self.steps_per_epoch)
        generator = torch.Generator().manual_seed((self.config.seed * 7919 + epoch) % 2**63)
        order = torch.randperm(len(self.train), generator=generator)
        rows = order[place * self.config.batch : (place + 1) * self.config.batch]
        return [self.train[int(row)] for row in rows]

    def step(self, step: int) -> dict[str, float]:
        """Take one optimiser step, the batch a pass at a time; return what was watched."""
        rows, loss = self.batch_at(step), 0.0
        for batch, weight in completion_passes(self.config, rows, self.tokenizer.pad_token_id):
            part = weight * completion_loss(self.model, batch)
            part.backward()  # type: ignore[no-untyped-call]
            self.optimiser.collect()
            loss += float(part.detach())
        norm = self.optimiser.step(schedule_scale(self.config, step, self.steps))
        return {
            "loss/train": processes.total([loss])[0],
            "grad_norm": norm,
            "tokens": float(sum(len(learned) for _, learned in rows)),
        }

    def validate(self, step: int) -> float:
        """Return the validation loss; with patience, remember the weights where it is the best so far."""
        loss = self.held_loss()
        self.best.see(loss, step)
        return loss

    @property
    def out_of_patience(self) -> bool:
        """Say whether the validation loss has not got better for as many epochs as the config bears."""
        return bool(self.config.patience) and self.best.worse >= self.config.patience

    def state(self) -> dict[str, Any]:
        return {"optimiser": self.optimiser.state(), "best": self.best.state()}

    def load(self, state: dict[str, Any]) -> None:
        self.optimiser.load(state["optimiser"])
        self.best.load(state["best"])

    @torch.no_grad()
    def held_loss(self) -> float:
        """Return the mean loss a token over the validation rows."""
        total, count = 0.0, 0
        for start in processes.share(range(0, len(self.held), self.config.batch)):
            rows = self.held[start : start + self.config.batch]
            batch = make_batch(*_columns(rows), self.tokenizer.pad_token_id)
            tokens = int(batch.response_lengths_B.sum())
            total, count = total + float(completion_loss(self.model, batch)) * tokens, count + tokens
        total_loss, tokens_seen = processes.total([total, count])
        return total_loss / tokens_seen


def _columns(rows: Sequence[Row]) -> tuple[list[list[int]], list[list[int]]]:
    return [given for given, _ in rows], [learned for _, learned in rows]


def train_language(training: LanguageTraining, output: OutputDirectory) -> dict[str, float]:
    """Train to the end of the last epoch, write model/ and canary.json; return the stage's metrics.

    Raises:
        Stopped: a signal came; the checkpoint is written.
    """
    first = 0
    if (found := output.load_checkpoint()) is not None:
        first, state = found
        training.load(state)
    watched: dict[str, float] = {}
    with stop_requests() as stop:
        for step in range(first, training.steps):
            if training.out_of_patience:
                break
            watched = training.step(step)
            last = step + 1 == training.steps
            if training.held and ((step + 1) % training.steps_per_epoch == 0):
                watched["loss/validation"] = training.validate(step + 1)
            output.log({"update": step + 1, "updates": training.steps, **watched})
            stopping = stop.heeded
            if stopping or (not last and (step + 1) % training.config.checkpoint_every == 0):
                output.save_checkpoint(step + 1, training.state())
            if stopping and not last:
                raise Stopped
    training.best.put_back()
    if processes.is_first():
        save_model(training.model, training.tokenizer, output.path)
        write_canary(output.path)
    metrics = {"n/train_rows": float(len(training.train)), "steps": float(training.steps)}
    if training.held:
        metrics |= {"n/validation_rows": float(len(training.held)), "loss/validation": training.held_loss()}
        metrics["best_step"] = float(training.best.step)
    return metrics | {"loss/train": watched["loss/train"]} if watched else metrics
