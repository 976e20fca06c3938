"""Prompts and tasks on their way in and out: made in bulk, retired, lowered, archived and opened again."""

import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any
from uuid import UUID

from django.core.exceptions import ValidationError
from django.db import transaction
from django.db.models import Exists, F, OuterRef, Q, QuerySet
from django.utils.translation import gettext as _

from feedback_app.accounts.models import User
from feedback_app.accounts.services import record_audit
from feedback_app.annotation.models import NextPosition, Prompt, Response, Task, TaskResponse
from feedback_app.annotation.splits import Conversation, hash_conversation, hash_root, parse_conversation, split_of
from feedback_app.projects.models import Project
from feedback_app.projects.protocols import parse_protocol, tell_wrong_count
from feedback_app.serving.models import PolicyVersion

BATCH = 1000
LOWERED = -1
# A task with a place left: gold has no end of them.
FREE = Q(overlap__isnull=True) | Q(overlap__gt=F("reserved") + F("counted"))


@dataclass(frozen=True, kw_only=True)
class NewPrompt:
    """A prompt to be made; messages may be plain text."""

    messages: Conversation
    external_id: str = ""
    source: str = ""
    language: str = ""


@dataclass(frozen=True, kw_only=True)
class NewResponse:
    """A response to be made; one sampled from a policy names the policy and its seed."""

    text: str
    source: Response.Source
    policy: PolicyVersion | None = None
    model_name: str = ""
    sampling: Mapping[str, Any] = field(default_factory=dict)
    seed: int | None = None
    token_count: int | None = None
    finish_reason: str = ""


@dataclass(frozen=True, kw_only=True)
class NewTask:
    """A task to be made of a stored prompt and 2 to 9 responses, in their canonical order."""

    prompt: Prompt
    responses: Sequence[NewResponse | Response]
    kind: Task.Kind = Task.Kind.NORMAL
    priority: int = 0
    overlap: int | None = None
    addressed_to: User | None = None
    identity_sha256: str | None = None
    round_id: UUID | None = None
    external_id: str = ""


def create_prompts(*, project: Project, prompts: Iterable[NewPrompt | Conversation]) -> list[Prompt]:
    """Store prompts and return them in order; one whose words the project has already is that one, unchanged.

    Raises:
        ConversationError: names the message that cannot be used; then nothing is stored.
    """
    wanted = [_unsaved_prompt(project, prompt) for prompt in prompts]
    with transaction.atomic():
        Prompt.objects.bulk_create(wanted, batch_size=BATCH, ignore_conflicts=True)
        digests = {prompt.content_sha256 for prompt in wanted}
        stored = {p.content_sha256: p for p in Prompt.objects.filter(project=project, content_sha256__in=digests)}
    return [stored[prompt.content_sha256] for prompt in wanted]


def _unsaved_prompt(project: Project, prompt: NewPrompt | Conversation) -> Prompt:
    new = prompt if isinstance(prompt, NewPrompt) else NewPrompt(messages=prompt)
    messages = parse_conversation(new.messages)
    root = hash_root(messages)
    return Prompt(
        project=project,
        messages=messages,
        content_sha256=hash_conversation(messages),
        root_sha256=root,
        split=split_of(root),
        language=new.language or project.language,
        source=new.source,
        external_id=new.external_id,
    )


def create_task(*, prompt: Prompt, responses: Sequence[NewResponse | Response], **more: Any) -> Task:
    """Make one task; more are NewTask's other fields."""
    return create_tasks(project=prompt.project, tasks=[NewTask(prompt=prompt, responses=responses, **more)])[0]


def create_tasks(*, project: Project, tasks: Iterable[NewTask]) -> list[Task]:
    """Make tasks and their responses, open at the end of the queue, in as few statements as the batch allows.

    A task without an overlap of its own takes the project's; gold and qualification tasks have none.

    Raises:
        ValidationError: a task's responses are not as many as the project's protocol takes.
    """
    new_tasks = list(tasks)
    _check_counts(project, new_tasks)
    made = [_unsaved_task(project, new) for new in new_tasks]
    responses: list[Response] = []
    places: list[TaskResponse] = []
    for task, new in zip(made, new_tasks, strict=True):
        for position, given in enumerate(new.responses):
            response = given if isinstance(given, Response) else _unsaved_response(new.prompt, given)
            if response is not given:
                responses.append(response)
            places.append(TaskResponse(task=task, response=response, position=position))
    with transaction.atomic():
        Response.objects.bulk_create(responses, batch_size=BATCH)
        Task.objects.bulk_create(made, batch_size=BATCH)
        TaskResponse.objects.bulk_create(places, batch_size=BATCH)
    return made


def response_bounds(project: Project) -> tuple[int, int]:
    """Return how few and how many responses a task of the project may have, by its protocol."""
    if project.protocol is None:
        return 2, 9
    protocol = parse_protocol(project.protocol.spec)
    return protocol.min_responses, protocol.max_responses


def _check_counts(project: Project, new_tasks: Sequence[NewTask]) -> None:
    fewest, most = response_bounds(project)
    for new in new_tasks:
        if wrong := tell_wrong_count(fewest, most, len(new.responses)):
            raise ValidationError({"responses": [wrong]})
        if new.prompt.project_id != project.pk:
            raise ValidationError({"prompt": [_("belongs to another project")]})


def _unsaved_task(project: Project, new: NewTask) -> Task:
    unlimited = new.kind in (Task.Kind.GOLD, Task.Kind.QUALIFICATION)
    return Task(
        project=project,
        prompt=new.prompt,
        kind=new.kind,
        priority=new.priority,
        overlap=None if unlimited else new.overlap or _overlap(project),
        addressed_to=new.addressed_to,
        language=new.prompt.language,
        identity_sha256=new.identity_sha256,
        round_id=new.round_id,
        external_id=new.external_id,
    )


def _overlap(project: Project) -> int:
    """Return how many judgments a new task takes: a share of them, drawn by lot, takes the larger number."""
    if project.extra_overlap is not None and random.random() < project.extra_overlap_share:
        return project.extra_overlap
    return project.overlap


def _unsaved_response(prompt: Prompt, new: NewResponse) -> Response:
    return Response(
        prompt=prompt,
        text=new.text,
        source=new.source,
        policy=new.policy,
        model_name=new.model_name,
        sampling=dict(new.sampling),
        seed=new.seed,
        token_count=new.token_count,
        finish_reason=new.finish_reason,
    )


def retire_untouched_tasks(
    *,
    project: Project,
    older_than_policy: PolicyVersion,
    how: Project.OldTasks | str | None = None,
    before: datetime | None = None,
) -> int:
    """Take old policies' untouched tasks off the queue when a policy goes live, and return how many.

    Untouched is a task that nobody holds or has judged; older is one with a response sampled from another policy than
    older_than_policy. `how` is the project's setting unless given: retire, lower (below every other task) or keep.
    """
    how = Project.OldTasks(how or project.old_tasks)
    if how == Project.OldTasks.KEEP:
        return 0
    old = TaskResponse.objects.filter(
        task=OuterRef("pk"), response__source=Response.Source.POLICY, response__policy__isnull=False
    ).exclude(response__policy=older_than_policy)
    tasks = Task.objects.filter(
        Exists(old), project=project, state=Task.State.ACTIVE, kind=Task.Kind.NORMAL, reserved=0, counted=0
    )
    if before is not None:
        tasks = tasks.filter(created_at__lt=before)
    if how == Project.OldTasks.LOWER:
        return _update_locked(tasks.filter(priority__gt=LOWERED), priority=LOWERED, position=NextPosition())
    return _update_locked(tasks, state=Task.State.RETIRED, open=False)


@transaction.atomic
def _update_locked(tasks: QuerySet[Task], **changes: Any) -> int:
    # Locked in order of id, as wherever several tasks are locked. One being reserved this very moment is started, not
    # old: it is skipped.
    ids = list(tasks.order_by("pk").select_for_update(skip_locked=True, of=("self",)).values_list("pk", flat=True))
    return Task.objects.filter(pk__in=ids).update(**changes)


@transaction.atomic
def archive_tasks(*, project: Project, tasks: QuerySet[Task], archived_by: User | None) -> int:
    """Take tasks off the queue; who holds one may still finish it."""
    ids = _lock_ids(project, tasks.filter(state=Task.State.ACTIVE))
    count = Task.objects.filter(pk__in=ids).update(state=Task.State.ARCHIVED, open=False)
    _audit(archived_by, "task.archive", project, count)
    return count


@transaction.atomic
def restore_tasks(*, project: Project, tasks: QuerySet[Task], restored_by: User | None) -> int:
    """Put archived, retired or reported tasks back at the end of the queue where a place is free."""
    ids = _lock_ids(project, tasks.exclude(state=Task.State.ACTIVE))
    chosen = Task.objects.filter(pk__in=ids)
    count = chosen.update(state=Task.State.ACTIVE)
    chosen.filter(FREE).update(open=True, position=NextPosition())
    _audit(restored_by, "task.restore", project, count)
    return count


@transaction.atomic
def set_priority(*, project: Project, tasks: QuerySet[Task], priority: int, changed_by: User | None) -> int:
    """Move tasks to the end of another priority's queue."""
    ids = _lock_ids(project, tasks.exclude(priority=priority))
    count = Task.objects.filter(pk__in=ids).update(priority=priority, position=NextPosition())
    _audit(changed_by, "task.priority", project, count, priority=priority)
    return count


@transaction.atomic
def set_overlap(*, project: Project, tasks: QuerySet[Task], overlap: int, changed_by: User | None) -> int:
    """Ask for more or fewer judgments; never fewer than a task has already, held ones included."""
    ids = _lock_ids(project, tasks.filter(overlap__isnull=False).exclude(overlap=overlap))
    taken = Task.objects.annotate(taken=F("reserved") + F("counted"))
    fitting = list(taken.filter(pk__in=ids, taken__lte=overlap).values_list("pk", flat=True))
    chosen = Task.objects.filter(pk__in=fitting)
    count = chosen.update(overlap=overlap)
    chosen.filter(FREE, open=False, state=Task.State.ACTIVE).update(open=True, position=NextPosition())
    chosen.filter(~FREE, open=True).update(open=False)
    _audit(changed_by, "task.overlap", project, count, overlap=overlap)
    return count


def change_tasks(
    *, project: Project, tasks: QuerySet[Task], do: str, number: int | None, changed_by: User | None
) -> int:
    """Do one thing to many tasks (priority and overlap to a number, archive, restore) and return how many changed."""
    match do:
        case "priority":
            return set_priority(project=project, tasks=tasks, priority=number or 0, changed_by=changed_by)
        case "overlap":
            return set_overlap(project=project, tasks=tasks, overlap=number or 1, changed_by=changed_by)
        case "archive":
            return archive_tasks(project=project, tasks=tasks, archived_by=changed_by)
        case "restore":
            return restore_tasks(project=project, tasks=tasks, restored_by=changed_by)
    raise ValueError(f"no such change: {do}")


def _lock_ids(project: Project, tasks: QuerySet[Task]) -> list[Any]:
    return list(
        tasks.filter(project=project).order_by("pk").select_for_update(of=("self",)).values_list("pk", flat=True)
    )


def _audit(actor: User | None, action: str, project: Project, count: int, **detail: Any) -> None:
    record_audit(
        actor=actor, action=action, subject=f"{count} tasks", project_slug=project.slug, detail=detail | {"n": count}
    )
