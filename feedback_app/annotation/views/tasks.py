"""Prompts and tasks for those who look after them: lists, one task whole, sampling, and changes to many at once."""

from typing import Any
from uuid import UUID

from django.contrib import messages
from django.core.exceptions import ValidationError
from django.core.paginator import Paginator
from django.http import HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.urls import reverse
from django.utils.translation import gettext as _
from django.utils.translation import ngettext
from django.views.decorators.http import require_POST, require_safe
from kombu.exceptions import OperationalError

from feedback_app.annotation import browsing, services
from feedback_app.annotation.forms import BulkForm, PromptsForm, SampleForm, TaskFilterForm, ticked
from feedback_app.annotation.models import Judgment, Task
from feedback_app.annotation.sampling import SamplingRefused, request_sample
from feedback_app.annotation.tasks import sample
from feedback_app.projects.markdown import render_markdown
from feedback_app.projects.models import Member
from feedback_app.projects.pages import ProjectRequest, project_page
from feedback_app.serving.selectors import deployment_of

PAGE = 50
LETTERS = "ABCDEFGHI"


@require_safe
@project_page(Member.Role.REVIEWER)
def tasks(request: ProjectRequest) -> HttpResponse:
    """The list of tasks by filters, what is left to sample, and the forms that change or add."""
    return _list_page(request)


def _list_page(request: ProjectRequest, *, status: int = 200, **forms: Any) -> HttpResponse:
    project = request.project
    filters = TaskFilterForm(request.GET, policies=browsing.policy_names(project=project))
    listed = Paginator(browsing.tasks_of(project=project, chosen=filters.chosen()), PAGE)
    page = listed.get_page(request.GET.get("page"))
    page.object_list = browsing.with_prompts(tasks=page)
    context = {
        "filters": filters,
        "page": page,
        "counts": browsing.task_counts(project=project),
        "prompts": browsing.prompt_counts(project=project),
        "deployment": deployment_of(project=project),
        "sampling": browsing.newest_sampling(project=project),
        "bulk": BulkForm(),
        "sample_form": SampleForm(),
        "prompts_form": PromptsForm(),
    }
    if request.htmx and not forms:
        return render(request, "annotation/_sampling.html", context)
    return render(request, "annotation/tasks.html", context | forms, status=status)


@require_POST
@project_page(Member.Role.MANAGER)
def change(request: ProjectRequest) -> HttpResponse:
    """Change the ticked tasks, or all that the filter of the address lists."""
    form = BulkForm(request.POST)
    if not form.is_valid():
        return _list_page(request, status=422, bulk=form)
    project, number = request.project, form.cleaned_data["number"]
    if form.cleaned_data["every"]:
        filters = TaskFilterForm(request.GET, policies=browsing.policy_names(project=project))
        chosen = filters.chosen().narrow(Task.objects.filter(project=project))
    else:
        chosen = Task.objects.filter(project=project, pk__in=ticked(request.POST.getlist("task")))
    count = services.change_tasks(
        project=project, tasks=chosen, do=form.cleaned_data["do"], number=number, changed_by=request.user
    )
    text = ngettext("%(count)d task was changed.", "%(count)d tasks were changed.", count) % {"count": count}
    messages.success(request, text) if count else messages.warning(request, _("No task was changed."))
    return redirect(f"{request.path.removesuffix('change/')}?{request.GET.urlencode()}")


@require_POST
@project_page(Member.Role.MANAGER)
def sample_now(request: ProjectRequest) -> HttpResponse:
    """Ask the live policy for fresh responses to judge."""
    form = SampleForm(request.POST)
    if not form.is_valid():
        return _list_page(request, status=422, sample_form=form)
    try:
        job = request_sample(project=request.project, prompts=form.cleaned_data["prompts"], requested_by=request.user)
    except SamplingRefused as refused:
        form.add_error("prompts", str(refused))
        return _list_page(request, status=422, sample_form=form)
    try:
        sample.delay(str(job.pk))
    except OperationalError:
        pass  # no broker: the row waits, and the next tick rings for it
    # Where the progress is, and says by itself how it goes on.
    return redirect(f"{reverse('manager:tasks', args=[request.project.slug])}#sampling-title")


@require_POST
@project_page(Member.Role.MANAGER)
def add_prompts(request: ProjectRequest) -> HttpResponse:
    """Store pasted prompts; those the project has already stay one."""
    form = PromptsForm(request.POST)
    if not form.is_valid():
        return _list_page(request, status=422, prompts_form=form)
    before = browsing.prompt_counts(project=request.project)["active"]
    services.create_prompts(
        project=request.project,
        prompts=[services.NewPrompt(messages=text, source="page") for text in form.cleaned_data["prompts"]],
    )
    added = browsing.prompt_counts(project=request.project)["active"] - before
    known = len(form.cleaned_data["prompts"]) - added
    messages.success(
        request,
        ngettext("%(count)d prompt was added.", "%(count)d prompts were added.", added) % {"count": added}
        + (" " + _("%(count)d were known already.") % {"count": known} if known else ""),
    )
    return redirect("manager:tasks", request.project.slug)


@require_safe
@project_page(Member.Role.REVIEWER)
def task(request: ProjectRequest, task_id: UUID) -> HttpResponse:
    """One task: its prompt, its responses with where they came from, and every judgment behind it."""
    return _task_page(request, _task(request, task_id))


def _task(request: ProjectRequest, task_id: UUID) -> Task:
    return get_object_or_404(Task.objects.select_related("prompt"), pk=task_id, project=request.project)


def _task_page(request: ProjectRequest, found: Task, *, status: int = 200, **more: Any) -> HttpResponse:
    responses = browsing.responses_in_order(task=found)
    letters = {str(response.pk): LETTERS[place] for place, response in enumerate(responses)}
    context = {
        "task": found,
        "messages_shown": [
            {"role": message["role"], "html": render_markdown(message["content"])} for message in found.prompt.messages
        ],
        "responses": [
            {"letter": letters[str(response.pk)], "response": response, "html": render_markdown(response.text)}
            for response in responses
        ],
        "verdicts": [
            browsing.verdict_lines(judgment, responses, letters) for judgment in browsing.judgments_behind(task=found)
        ],
        "others": browsing.others_on(task=found),
    }
    return render(request, "annotation/task.html", context | more, status=status)


@require_POST
@project_page(Member.Role.MANAGER)
def void(request: ProjectRequest, task_id: UUID, judgment_id: UUID) -> HttpResponse:
    """Void one judgment of a task, with the reason given."""
    found = _task(request, task_id)
    judgment = get_object_or_404(Judgment, pk=judgment_id, task=found)
    try:
        services.void_judgments(
            project=request.project,
            voided_by=request.user,
            reason=request.POST.get("reason", ""),
            judgments=[judgment.pk],
        )
    except ValidationError as error:
        return _task_page(request, found, status=422, refused=judgment.pk, reason=" ".join(error.messages))
    messages.success(request, _("The judgment is void; its place in the queue is free again."))
    return redirect("manager:task", request.project.slug, found.pk)
