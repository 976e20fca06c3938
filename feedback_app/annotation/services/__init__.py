"""Every write to prompts, tasks, assignments and judgments: the only place with the rules of annotation."""

from feedback_app.annotation.services.blind import BlindPair, ask_blind_tasks, withdraw_blind_tasks
from feedback_app.annotation.services.checks import make_gold, pause_by_rule
from feedback_app.annotation.services.judging import forget_answers, judgment_as_json, submit_judgment
from feedback_app.annotation.services.queue import ReservedTask, next_task
from feedback_app.annotation.services.reservations import expire_reservations, renew, report, save_draft, skip
from feedback_app.annotation.services.reviewing import review_judgment
from feedback_app.annotation.services.revising import discard_revision_draft, revise_judgment, save_revision_draft
from feedback_app.annotation.services.tasks import (
    NewPrompt,
    NewResponse,
    NewTask,
    archive_tasks,
    change_tasks,
    create_prompts,
    create_task,
    create_tasks,
    restore_tasks,
    retire_untouched_tasks,
    set_overlap,
    set_priority,
)
from feedback_app.annotation.services.voiding import Voided, void_judgments

__all__ = [
    "BlindPair",
    "NewPrompt",
    "NewResponse",
    "NewTask",
    "ReservedTask",
    "Voided",
    "archive_tasks",
    "ask_blind_tasks",
    "change_tasks",
    "create_prompts",
    "create_task",
    "create_tasks",
    "discard_revision_draft",
    "expire_reservations",
    "forget_answers",
    "judgment_as_json",
    "make_gold",
    "next_task",
    "pause_by_rule",
    "renew",
    "report",
    "restore_tasks",
    "retire_untouched_tasks",
    "review_judgment",
    "revise_judgment",
    "save_draft",
    "save_revision_draft",
    "set_overlap",
    "set_priority",
    "skip",
    "submit_judgment",
    "void_judgments",
    "withdraw_blind_tasks",
]
