"""The overview: a project in one look, and the buttons that set things going."""

from typing import Any

from django.contrib import messages
from django.http import HttpResponse
from django.shortcuts import redirect, render
from django.utils.translation import gettext as _
from django.views.decorators.http import require_POST, require_safe
from django.views.decorators.vary import vary_on_headers

from feedback_app.annotation.forms import SampleForm
from feedback_app.annotation.sampling import SamplingRefused, request_sample
from feedback_app.projects.models import Member
from feedback_app.projects.pages import ProjectRequest, project_page
from feedback_app.rounds import overview as reads
from feedback_app.rounds.bells import ring_sample, ring_simulation
from feedback_app.rounds.forms import SimulateForm, StartForm
from feedback_app.rounds.simulation.jobs import SimulationRefused, request_simulation
from feedback_app.serving.selectors import deployment_of


@require_safe
@vary_on_headers("HX-Request")
@project_page(Member.Role.REVIEWER)
def overview(request: ProjectRequest) -> HttpResponse:
    """Are we collecting, is it good, what is live, what happens next."""
    if request.htmx:
        return render(request, "rounds/_next.html", {"next": reads.next_up(project=request.project)})
    return _overview_page(request)


def _overview_page(request: ProjectRequest, *, status: int = 200, **forms: Any) -> HttpResponse:
    project = request.project
    context = {
        "collecting": reads.collecting(project=project),
        "agreement": reads.agreement(project=project) if reads.is_quick_to_measure(project=project) else None,
        "deployment": deployment_of(project=project),
        "next": reads.next_up(project=project),
        "start_form": StartForm(),
        "sample_form": SampleForm(),
        "simulate_form": SimulateForm(),
    }
    return render(request, "rounds/overview.html", context | forms, status=status)


@require_safe
@project_page(Member.Role.REVIEWER)
def agreement(request: ProjectRequest) -> HttpResponse:
    """The overview's figures of agreement, for a project of so many judgments that they take a moment."""
    return render(request, "rounds/_agreement.html", {"agreement": reads.agreement(project=request.project)})


@require_POST
@project_page(Member.Role.MANAGER)
def sample_now(request: ProjectRequest) -> HttpResponse:
    """Ask the live policy for fresh responses to judge."""
    form = SampleForm(request.POST)
    if form.is_valid():
        try:
            job = request_sample(
                project=request.project, prompts=form.cleaned_data["prompts"], requested_by=request.user
            )  # fmt: skip
        except SamplingRefused as refused:
            form.add_error("prompts", str(refused))
        else:
            ring_sample(job.pk)
            messages.success(request, _("Sampling is under way; fresh tasks appear as they are made."))
            return redirect("rounds:overview", request.project.slug)
    return _overview_page(request, status=422, sample_form=form)


@require_POST
@project_page(Member.Role.MANAGER)
def simulate(request: ProjectRequest) -> HttpResponse:
    """Let simulated annotators judge what waits, over the HTTP API."""
    form = SimulateForm(request.POST)
    if form.is_valid():
        try:
            job = request_simulation(project=request.project, requested_by=request.user, **form.cleaned_data)
        except SimulationRefused as refused:
            form.add_error(None, str(refused))
        else:
            ring_simulation(job.pk)
            messages.success(request, _("Simulated annotators are at work; their judgments are marked as simulated."))
            return redirect("rounds:overview", request.project.slug)
    return _overview_page(request, status=422, simulate_form=form)
