"""The reviewers' room: what waits, disagreements first; accept, overrule, send back; and gold made of a verdict."""

from typing import Any
from uuid import UUID

from django.contrib import messages
from django.core.exceptions import PermissionDenied, ValidationError
from django.http import HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.utils.translation import gettext as _
from django.views.decorators.http import require_POST, require_safe

from feedback_app.annotation import browsing, services
from feedback_app.annotation.errors import AnnotationError
from feedback_app.annotation.models import Adjudication, Judgment, Review, Task
from feedback_app.annotation.reviews import reviewed_counts, waiting_reviews
from feedback_app.annotation.verdict_form import LETTERS, VerdictForm
from feedback_app.projects.markdown import render_markdown
from feedback_app.projects.models import Member
from feedback_app.projects.pages import ProjectRequest, project_page
from feedback_app.projects.protocols import Protocol, parse_protocol


@require_safe
@project_page(Member.Role.REVIEWER)
def queue(request: ProjectRequest) -> HttpResponse:
    """What waits for a reviewer, and what has been decided so far."""
    waiting = waiting_reviews(project=request.project)
    tasks = Task.objects.select_related("prompt").in_bulk([item.task_id for item in waiting])
    rows = [{"item": item, "task": tasks[item.task_id]} for item in waiting]
    context = {"rows": rows, "counts": reviewed_counts(project=request.project)}
    return render(request, "annotation/review_queue.html", context)


@require_safe
@project_page(Member.Role.REVIEWER)
def review(request: ProjectRequest, task_id: UUID) -> HttpResponse:
    """One task, its judgments side by side, and what a reviewer may do with each."""
    return _page(request, _task(request, task_id))


def _task(request: ProjectRequest, task_id: UUID) -> Task:
    return get_object_or_404(Task.objects.select_related("prompt"), pk=task_id, project=request.project)


def _page(request: ProjectRequest, task: Task, *, status: int = 200, **refused: Any) -> HttpResponse:
    responses = browsing.responses_in_order(task=task)
    ids = [str(response.pk) for response in responses]
    letters = dict(zip(ids, LETTERS, strict=False))
    judgments = [judgment for judgment in browsing.judgments_behind(task=task) if judgment.voided_at is None]
    reviews = {held.judgment_id: held for held in Review.objects.filter(judgment__in=judgments)}
    context = {
        "task": task,
        "messages_shown": [
            {"role": message["role"], "html": render_markdown(message["content"])} for message in task.prompt.messages
        ],
        "responses": [
            {"letter": letters[str(response.pk)], "response": response, "html": render_markdown(response.text)}
            for response in responses
        ],
        "verdicts": [
            browsing.verdict_lines(judgment, responses, letters)
            | {"review": reviews.get(judgment.pk), "own": judgment.annotator_id == request.user.pk}
            for judgment in judgments
        ],
        "verdict_form": VerdictForm(protocol=_protocol(request, judgments), responses=ids),
        "adjudication": Adjudication.objects.select_related("adjudicated_by").filter(task=task).first(),
    }
    return render(request, "annotation/review.html", context | refused, status=status)


def _protocol(request: ProjectRequest, judgments: list[Judgment]) -> Protocol:
    # A reviewer answers what the annotators were asked, even after the project asks something else.
    spec = judgments[0].assignment.protocol.spec if judgments else request.project.protocol.spec  # type: ignore[union-attr]
    return parse_protocol(spec)


@require_POST
@project_page(Member.Role.REVIEWER)
def decide(request: ProjectRequest, task_id: UUID) -> HttpResponse:
    """Accept, send back or overrule one judgment, then go on to the next task that waits."""
    task = _task(request, task_id)
    judgment = get_object_or_404(
        Judgment.objects.select_related("assignment__protocol"), pk=_uuid(request.POST.get("judgment")), task=task
    )
    outcome, comment = request.POST.get("outcome", ""), request.POST.get("comment", "")
    verdict = None
    if outcome == Review.Outcome.OVERRULED:
        ids = [str(response.pk) for response in browsing.responses_in_order(task=task)]
        form = VerdictForm(request.POST, protocol=_protocol(request, [judgment]), responses=ids)
        if not form.is_valid():
            return _page(request, task, status=422, verdict_form=form, refused=judgment.pk, comment=comment)
        verdict = form.body()
    try:
        services.review_judgment(
            judgment_id=judgment.pk, reviewer=request.user, outcome=outcome, comment=comment, verdict=verdict
        )
    except (ValidationError, AnnotationError, PermissionDenied) as error:
        return _page(request, task, status=422, refused=judgment.pk, reason=_words(error), comment=comment)
    messages.success(request, _("The judgment is %(outcome)s.") % {"outcome": Review.Outcome(outcome).label})
    following = waiting_reviews(project=request.project, limit=1)
    if following:
        return redirect("manager:review_task", request.project.slug, following[0].task_id)
    return redirect("manager:review", request.project.slug)


def _uuid(text: str | None) -> UUID:
    try:
        return UUID(text or "")
    except ValueError:
        return UUID(int=0)  # no judgment has it: the page is not found


def _words(error: Exception) -> str:
    return " ".join(error.messages) if isinstance(error, ValidationError) else str(error)


@require_POST
@project_page(Member.Role.MANAGER)
def gold(request: ProjectRequest, task_id: UUID) -> HttpResponse:
    """Make a gold or qualification task of this one and the verdict that is right."""
    task = _task(request, task_id)
    ids = [str(response.pk) for response in browsing.responses_in_order(task=task)]
    assert request.project.protocol is not None  # every project is made with one
    form = VerdictForm(request.POST, protocol=parse_protocol(request.project.protocol.spec), responses=ids)
    if not form.is_valid():
        return _page(request, task, status=422, verdict_form=form, gold_refused=True)
    kind = Task.Kind.QUALIFICATION if request.POST.get("kind") == Task.Kind.QUALIFICATION else Task.Kind.GOLD
    try:
        services.make_gold(
            task=task, verdict=form.body(), kind=kind, made_by=request.user,
            explanation=request.POST.get("explanation", "")[:4000],
        )  # fmt: skip
    except (ValidationError, AnnotationError) as error:
        return _page(request, task, status=422, verdict_form=form, gold_refused=True, gold_reason=_words(error))
    messages.success(request, _("The task is %(kind)s now; it is mixed in unseen.") % {"kind": kind.label})
    return redirect("manager:task", request.project.slug, task.pk)
