"""Freeze the judgments, and deal their prompts out: to PPO's reward model, to the outcome's judge, to validation."""

import hashlib
import json
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from django.core.exceptions import ValidationError
from django.utils.translation import gettext_noop as _

from feedback_app.annotation.models import Prompt
from feedback_app.datasets.models import DatasetVersion
from feedback_app.datasets.services import create_dataset_version
from feedback_app.datasets.services.versions import split_files, verify_dataset
from feedback_app.rounds.leases import fenced
from feedback_app.rounds.models import Round
from feedback_app.rounds.steps.ceiling import agreement_on_held_out
from feedback_app.rounds.steps.inputs import recipe_of
from feedback_app.rounds.supervisor import StepFailed, StepRun
from feedback_app.rounds.workspace import seal, step_dir

# Fewer prompts than this on the judge's side teach it nothing: then one reward model does both, and that is said.
FEWEST_JUDGE_PROMPTS = 4
FEWEST_PROMPTS = 2
MAX_PROMPTS = 20_000

Row = dict[str, Any]


def export(run: StepRun) -> dict[str, Any]:
    """Write reward.jsonl, judge.jsonl, held_out.jsonl, prompts.jsonl and eval_prompts.jsonl."""
    held, recipe = run.held, recipe_of(run.held)
    directory = step_dir(held, "export")
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    version = _dataset(run, recipe.judgments)
    rows = {split: _read(path) for split, path in split_files(version).items()}
    run.heartbeat()
    train = _bounded(rows.get("train", []), recipe.max_pairs)
    if len({row["prompt_id"] for row in train}) < FEWEST_PROMPTS:
        words = _(
            "judgments of %(fewest)s prompts at least are needed on the train side; there are pairs of %(found)s (ties"
            " make none)"
        )
        raise StepFailed(words, fewest=FEWEST_PROMPTS, found=len({row["prompt_id"] for row in train}))
    notes: list[str] = []
    reward, judge = _deal(train, recipe.judge_share, notes)
    held_out = rows.get("validation", [])
    if not held_out:
        notes.append(
            _("no judged prompt has fallen on the validation side yet: accuracy on held-out pairs is not known")
        )
    _write(directory / "reward.jsonl", reward)
    _write(directory / "judge.jsonl", judge)
    _write(directory / "held_out.jsonl", held_out)
    counts: dict[str, float] = _prompts(held, directory, notes)
    counts |= agreement_on_held_out(project=held.project, judgments=recipe.judgments)
    if recipe.use_sft:
        counts["rewrites"] = _rewrites(held, recipe.judgments, directory)
    seal(directory, "export")
    return {
        "dataset": str(version.pk), "dataset_number": version.number, "pairs/reward": len(reward),
        "pairs/judge": len(judge), "pairs/held_out": len(held_out), "notes": notes, **counts,
    }  # fmt: skip


def _dataset(run: StepRun, options: dict[str, Any]) -> DatasetVersion:
    """Return the round's dataset version, made once: another worker goes on with the first one's."""
    held = Round.objects.select_related("dataset").get(pk=run.held.pk)
    if held.dataset is not None:
        verify_dataset(held.dataset)
        return held.dataset
    try:
        version = create_dataset_version(
            project=held.project,
            format="preference",
            # A small policy's answers are cut off by length more often than not: without them nothing would be left.
            options={"truncated": True, **options},
            created_by=held.created_by,
        )
    except ValidationError as error:
        raise StepFailed("; ".join(error.messages)) from error
    with fenced(round_id=held.pk, fence=run.held.fence) as locked:
        locked.dataset = version
        locked.save(update_fields=["dataset"])
    return version


def _deal(train: Sequence[Row], judge_share: float, notes: list[str]) -> tuple[list[Row], list[Row]]:
    """Split pairs by prompt: a policy is not graded by the model that it was optimised against."""
    judge = [row for row in train if _place(row["prompt_id"]) < judge_share]
    reward = [row for row in train if _place(row["prompt_id"]) >= judge_share]
    few = min(len({row["prompt_id"] for row in side}) for side in (judge, reward))
    if few < FEWEST_JUDGE_PROMPTS:
        notes.append(
            _(
                "too few prompts for a judge of its own: the win rate is by the reward model that PPO was trained"
                " against"
            )
        )
        return list(train), []
    return reward, judge


def _place(key: str) -> float:
    return int.from_bytes(hashlib.sha256(f"judge:{key}".encode()).digest()[:8], "big") / 2**64


def _bounded(rows: Sequence[Row], most: int) -> list[Row]:
    """Return at most so many pairs, chosen by a hash: the same ones whoever does the step."""
    if not most or len(rows) <= most:
        return list(rows)
    chosen = sorted(rows, key=lambda row: _place(str(row["id"])))[:most]
    return sorted(chosen, key=lambda row: str(row["id"]))


def _prompts(held: Round, directory: Path, notes: list[str]) -> dict[str, float]:
    """Write the prompts that PPO learns on (train side) and those that it is evaluated on (validation side)."""
    train = _prompt_rows(held, Prompt.Split.TRAIN)
    other = _prompt_rows(held, Prompt.Split.VALIDATION)
    if not train:
        raise StepFailed(_("the project has no active prompts on the train side for PPO to learn on"))
    if len(other) < FEWEST_JUDGE_PROMPTS:
        notes.append(_("too few prompts are on the validation side: evaluated on some of the train side as well"))
        other = [*other, *train[: 4 * FEWEST_JUDGE_PROMPTS]]
    _write(directory / "prompts.jsonl", train)
    _write(directory / "eval_prompts.jsonl", other)
    return {"prompts/train": len(train), "prompts/evaluation": len(other)}


def _prompt_rows(held: Round, split: str) -> list[Row]:
    found = Prompt.objects.filter(project=held.project, split=split, active=True).order_by("id")
    return [{"id": str(pk), "prompt": messages} for pk, messages in found.values_list("id", "messages")[:MAX_PROMPTS]]


def _rewrites(held: Round, options: dict[str, Any], directory: Path) -> int:
    """Write what annotators wrote themselves, as supervised examples; there may be none."""
    try:
        version = create_dataset_version(
            project=held.project, format="sft", options={**options, "split": "train"}, created_by=held.created_by
        )
    except ValidationError:  # no judgment has a rewrite: the step of supervised fine-tuning then has nothing to do
        return 0
    rows = _read(split_files(version)["train"])
    _write(directory / "sft.jsonl", rows)
    return len(rows)


def _read(path: Path) -> list[Row]:
    with path.open(encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


def _write(path: Path, rows: Iterable[Row]) -> None:
    with path.open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
