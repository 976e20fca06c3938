"""Reads about rounds."""

import json
from typing import Any
from uuid import UUID

from django.conf import settings
from django.db.models import QuerySet

from feedback_app.annotation.models import Judgment
from feedback_app.leases import claimable
from feedback_app.projects.models import Project
from feedback_app.rounds.models import Round, RoundStep, ScheduleSlot
from feedback_app.rounds.trainers import log_tail
from feedback_app.rounds.workspace import step_dir


def waiting_rounds() -> list[UUID]:
    """Return the rounds that wait for a worker."""
    return list(Round.objects.filter(claimable()).order_by("created_at").values_list("pk", flat=True))


def usable_judgments(*, project: Project, simulated: str) -> QuerySet[Judgment]:
    """Return the judgments that a round may learn from; simulated is the export's choice: exclude, include or only."""
    judgments = Judgment.objects.filter(project=project, surplus=False, voided_at=None)
    if simulated == "include":
        return judgments
    made = judgments.filter(origin=Judgment.Origin.SIMULATED)
    return made if simulated == "only" else judgments.exclude(origin=Judgment.Origin.SIMULATED)


def rounds_of(*, project: Project) -> QuerySet[Round]:
    """Return a project's rounds, newest first."""
    return Round.objects.filter(project=project).select_related("policy", "parent", "recipe", "created_by")


def active_round(*, project: Project) -> Round | None:
    """Return the project's one active round."""
    return rounds_of(project=project).filter(state__in=Round.ACTIVE).first()


def was_scheduled(*, held: Round) -> bool:
    """Say whether a schedule has started a round; nobody's name stands with one started by command either."""
    return ScheduleSlot.objects.filter(round=held).exists()


def round_as_json(*, held: Round) -> dict[str, Any]:
    """Return a round as the API shows it."""
    return {
        "id": str(held.pk),
        "number": held.number,
        "project": held.project.slug,
        "state": held.state,
        "error": held.error,
        "gate": held.gate,
        "simulated": held.simulated,
        "recipe": held.config,
        "elsewhere": held.elsewhere,
        "parent": held.parent.name if held.parent else None,
        "policy": held.policy.name if held.policy else None,
        "dataset": str(held.dataset_id) if held.dataset_id else None,
        "fence": held.fence,
        "cancel_requested": held.cancel_requested,
        "pause_requested": held.pause_requested,
        "created_at": held.created_at,
        "started_at": held.started_at,
        "finished_at": held.finished_at,
        "steps": [_step_as_json(step) for step in held.steps.all()],
    }


def _step_as_json(step: RoundStep) -> dict[str, Any]:
    return {
        "name": step.name,
        "state": step.state,
        "attempt": step.attempt,
        "progress": step.progress,
        "metrics": step.metrics,
        "usage": step.usage,
        "started_at": step.started_at,
        "finished_at": step.finished_at,
    }


def log_of(*, held: Round, step: RoundStep) -> list[str]:
    """Return the last lines of a step's trainer, for people who look."""
    directory = settings.DATA_DIR / step.directory if step.directory else step_dir(held, step.name)
    names = ["model", "judge"] if step.name == RoundStep.Name.REWARD else [""]
    return [line for name in names for line in log_tail(directory / name if name else directory)]


def samples_of(*, held: Round) -> list[dict[str, Any]]:
    """Return the newest samples that PPO wrote, newest update last."""
    for fence in range(held.fence, 0, -1):
        folder = settings.DATA_DIR / "rounds" / str(held.pk) / f"f{fence}" / "ppo" / "samples"
        files = sorted(folder.glob("*.jsonl"))
        if files:
            with files[-1].open(encoding="utf-8") as lines:
                return [{"update": int(files[-1].stem), **json.loads(line)} for line in lines]
    return []
