"""What a recipe would take, as it is edited: estimated at once, and measured by two steps of each trainer."""

from uuid import UUID

from django.http import HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.views.decorators.http import require_POST, require_safe
from django.views.decorators.vary import vary_on_headers

from feedback_app.projects.models import Member
from feedback_app.projects.pages import ProjectRequest, project_page
from feedback_app.rounds.bells import ring_trial
from feedback_app.rounds.models import Trial
from feedback_app.rounds.recipe_form import RecipeForm
from feedback_app.rounds.services import recipe_of
from feedback_app.rounds.trial.jobs import TrialRefused, cancel_trial, request_trial
from feedback_app.rounds.views.recipes import costs_context, recipe_page


@require_POST
@vary_on_headers("HX-Request")
@project_page(Member.Role.MANAGER)
def estimate(request: ProjectRequest) -> HttpResponse:
    """Say what the recipe in the form would take; nothing of it is kept."""
    form = RecipeForm(request.POST, config=recipe_of(project=request.project).config)
    return _costs(request, form)


@require_POST
@vary_on_headers("HX-Request")
@project_page(Member.Role.MANAGER)
def start(request: ProjectRequest) -> HttpResponse:
    """Take two steps of each trainer by the recipe in the form; nothing of it is kept but what they took."""
    form = RecipeForm(request.POST, config=recipe_of(project=request.project).config)
    refused = ""
    if form.is_valid():
        try:
            made = request_trial(project=request.project, recipe=form.cleaned_data["recipe"], requested_by=request.user)
        except TrialRefused as refusal:
            refused = str(refusal)
        else:
            ring_trial(made.pk)
    return _costs(request, form, refused=refused)


def _costs(request: ProjectRequest, form: RecipeForm, *, refused: str = "") -> HttpResponse:
    status = 422 if refused or not form.is_valid() else 200
    if not request.htmx:
        current = recipe_of(project=request.project)
        return recipe_page(request, current, form, status=status, refused=refused)
    return render(request, "rounds/_costs.html", costs_context(request, form) | {"refused": refused}, status=status)


@require_safe
@project_page(Member.Role.REVIEWER)
def trial(request: ProjectRequest, trial_id: UUID) -> HttpResponse:
    """How a try stands: polled while it runs."""
    found = get_object_or_404(Trial, project=request.project, pk=trial_id)
    return render(request, "rounds/_trial.html", {"trial": found})


@require_POST
@vary_on_headers("HX-Request")
@project_page(Member.Role.MANAGER)
def cancel(request: ProjectRequest, trial_id: UUID) -> HttpResponse:
    """End a try; one that has ended stays as it is."""
    found = get_object_or_404(Trial, project=request.project, pk=trial_id)
    cancel_trial(trial=found)
    if not request.htmx:
        return redirect("rounds:recipe", request.project.slug)
    found.refresh_from_db()
    return render(request, "rounds/_trial.html", {"trial": found})
