"""Look through a project's data: a search in any script, figures, near-duplicates; and have something erased."""

from typing import Any

from django.contrib import messages
from django.core.exceptions import ValidationError
from django.core.paginator import Paginator
from django.http import HttpResponse
from django.shortcuts import redirect, render
from django.utils.translation import gettext as _
from django.views.decorators.http import require_http_methods, require_POST, require_safe
from kombu.exceptions import OperationalError

from feedback_app.annotation.browsing import policy_names
from feedback_app.annotation.models import Prompt
from feedback_app.datasets import selectors, services
from feedback_app.datasets.browsing import ExampleFilter, search_examples
from feedback_app.datasets.exporting.options import OptionsError
from feedback_app.datasets.forms import EraseForm, ExampleForm
from feedback_app.datasets.statistics import measure_data
from feedback_app.datasets.tasks import measure_duplicates_of
from feedback_app.projects.forms import add_errors
from feedback_app.projects.models import Member
from feedback_app.projects.pages import ProjectRequest, project_page

PAGE = 30


@require_safe
@project_page(Member.Role.REVIEWER)
def browse(request: ProjectRequest) -> HttpResponse:
    """Examples by words in any script and by filters."""
    form = ExampleForm(request.GET, policies=policy_names(project=request.project))
    try:
        found = search_examples(project=request.project, chosen=form.chosen())
    except OptionsError as error:
        form.add_error(error.field_name, error.reason)
        found = search_examples(project=request.project, chosen=ExampleFilter())
    page = Paginator(found, PAGE).get_page(request.GET.get("page"))
    return render(request, "datasets/browse.html", {"form": form, "page": page})


@require_safe
@project_page(Member.Role.REVIEWER)
def figures(request: ProjectRequest) -> HttpResponse:
    """What the data are like, as charts, and the prompts that are nearly the same."""
    measured = measure_data(project=request.project)
    context = {
        "measured": measured,
        "charts": _charts(measured),
        "duplicates": selectors.duplicates_of(project=request.project),
    }
    return render(request, "datasets/figures.html", context)


def _charts(measured: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the figures as bars: a title, what it counts, and (label, count) for each bar."""
    lengths = {
        name: [(f"{b['from']}–{b['to']}", b["count"]) for b in bins] for name, bins in measured["lengths"].items()
    }
    strengths = [
        (_("not said") if s["strength"] is None else str(s["strength"]), s["count"]) for s in measured["strengths"]
    ]
    agreement = [(f"{b['from']:.1f}–{b['to']:.1f}", b["tasks"]) for b in measured["agreement"]]
    positions = [
        (_("place %(place)d of %(of)d") % {"place": p["place"], "of": p["of"]}, p["best"])
        for p in measured["positions"]
    ]
    charts = (
        (_("Splits"), _("prompts"), [(Prompt.Split(name).label, n) for name, n in measured["splits"].items()]),
        (_("Languages"), _("prompts"), [(name or _("not said"), n) for name, n in measured["languages"].items()]),
        (_("Length of prompts, in characters"), _("prompts"), lengths["prompts"]),
        (_("Length of answers, in characters"), _("answers"), lengths["responses"]),
        (_("Strength of preferences"), _("judgments"), strengths),
        (_("Agreement on a task"), _("tasks judged twice or more"), agreement),
        (_("Where the best answer stood"), _("judgments made here"), positions),
    )
    return [
        {"title": title, "unit": unit, "bars": bars, "most": max(count for _label, count in bars)}
        for title, unit, bars in charts
        if bars
    ]


@require_POST
@project_page(Member.Role.MANAGER)
def look_for_duplicates(request: ProjectRequest) -> HttpResponse:
    """Have a worker look for prompts that are nearly the same."""
    try:
        measure_duplicates_of.delay(request.project.pk)
    except OperationalError:
        messages.error(request, _("The workers cannot be reached. Nothing was started; try again in a while."))
    else:
        messages.success(request, _("A worker looks for them; reload the page in a minute."))
    return redirect("datasets:figures", request.project.slug)


@require_http_methods(["GET", "HEAD", "POST"])
@project_page(Member.Role.MANAGER)
def erase(request: ProjectRequest) -> HttpResponse:
    """Erase what a person judged, or a prompt with all that hangs on it; there is no way back."""
    form, status, outcome = EraseForm(request.POST or None, slug=request.project.slug), 200, None
    if request.method == "POST":
        status = 422
        if form.is_valid():
            try:
                outcome = services.erase_from_project(
                    project=request.project,
                    erased_by=request.user,
                    annotator=form.cleaned_data["annotator"],
                    prompt=form.cleaned_data["prompt"],
                    withdraw=form.cleaned_data["withdraw"],
                )
            except ValidationError as error:
                add_errors(form, error)
            else:
                form, status = EraseForm(slug=request.project.slug), 200
    context = {
        "form": form,
        "outcome": outcome,
        "erasures": request.project.erasures.select_related("erased_by"),
    }
    return render(request, "datasets/erase.html", context, status=status)
