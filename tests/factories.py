"""Plain functions that make what a test needs, through the services, as the product does."""

from itertools import count
from typing import Any
from uuid import UUID

from feedback_app.accounts.models import User
from feedback_app.accounts.services import create_user, issue_token
from feedback_app.annotation.models import Judgment, Prompt, Response, Task
from feedback_app.annotation.services import NewResponse, NewTask, create_prompts, create_tasks, next_task
from feedback_app.annotation.services import submit_judgment as submit
from feedback_app.projects.models import Member, Project
from feedback_app.projects.services import add_member, create_project
from feedback_app.serving.models import PolicyVersion

_numbers = count(1)


def make_project(slug: str = "", **more: Any) -> Project:
    """Return a project; more are create_project's arguments: protocol, overlap, reservation_seconds, ..."""
    return create_project(slug=slug or f"project-{next(_numbers)}", **more)


def make_user(project: Project | None = None, role: Member.Role = Member.Role.ANNOTATOR, **more: Any) -> User:
    """Return a user, of the project in the given role where one is given."""
    user = create_user(username=more.pop("username", f"user-{next(_numbers)}"), **more)
    if project is not None:
        add_member(project=project, user=user, role=role)
    return user


def make_token(user: User) -> str:
    """Return an API token of the user."""
    return issue_token(user=user)


def make_prompt(project: Project, text: str = "") -> Prompt:
    """Return a prompt of one user message."""
    return create_prompts(project=project, prompts=[text or f"Question {next(_numbers)}?"])[0]


def make_policy(project: Project, number: int = 0) -> PolicyVersion:
    """Return a policy version whose weights are nowhere."""
    return PolicyVersion.objects.create(
        project=project, number=number, name=f"{project.slug}-v{number}", source=PolicyVersion.Source.BASE,
        directory="nowhere",
    )  # fmt: skip


def make_tasks(
    project: Project, number: int, texts: tuple[str, ...] = ("First.", "Second."), policy: PolicyVersion | None = None,
    **more: Any,
) -> list[Task]:  # fmt: skip
    """Return tasks of one prompt each; their responses are imported, or sampled where a policy is given."""
    prompts = create_prompts(project=project, prompts=[f"Question {next(_numbers)}?" for _ in range(number)])
    responses = [_new_response(text, model, policy) for model, text in enumerate(texts)]
    return create_tasks(
        project=project, tasks=[NewTask(prompt=prompt, responses=responses, **more) for prompt in prompts]
    )


def _new_response(text: str, model: int, policy: PolicyVersion | None) -> NewResponse:
    if policy is None:
        return NewResponse(text=text, source=Response.Source.IMPORTED, model_name=f"model-{model}")
    return NewResponse(text=text, source=Response.Source.POLICY, policy=policy, seed=next(_numbers))


def make_task(project: Project, texts: tuple[str, ...] = ("First.", "Second."), **more: Any) -> Task:
    """Return one task; see make_tasks."""
    return make_tasks(project, 1, texts, **more)[0]


def canonical_ids(task: Task) -> list[str]:
    """Return the ids of a task's responses in canonical order."""
    return [str(pk) for pk in task.task_responses.order_by("position").values_list("response_id", flat=True)]


def make_judgment(task: Task, annotator: User, ranks: tuple[int | None, ...] = (0, 1), **more: Any) -> Judgment:
    """Return a judgment on a task that the annotator takes from the queue; ranks by canonical position.

    The task must be the next one for the annotator; more are further fields of the verdict.
    """
    held = next_task(project=task.project, annotator=annotator)
    if held is None or held.id != task.pk:
        raise AssertionError(f"the queue gave {held and held.id}, not {task.pk}")
    tiers: dict[int, list[str]] = {}
    for response, rank in zip(canonical_ids(task), ranks, strict=True):
        if rank is not None:
            tiers.setdefault(rank, []).append(response)
    body = {"ranking": [tiers[rank] for rank in sorted(tiers)], **more}
    return Judgment.objects.get(pk=UUID(submit(task_id=task.pk, annotator=annotator, body=body)["id"]))
