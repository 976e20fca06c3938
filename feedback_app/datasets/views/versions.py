"""The data room: exports by a form, dataset versions with where they came from and what they made."""

from itertools import islice
from typing import Any
from urllib.parse import urlencode
from uuid import UUID

from django.core.exceptions import ValidationError
from django.http import HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.urls import reverse
from django.views.decorators.http import require_http_methods, require_safe

from feedback_app.datasets import selectors, services
from feedback_app.datasets.differences import diff_versions
from feedback_app.datasets.exporting.rows import prepare_export
from feedback_app.datasets.forms import Do, ExportForm, tell_option
from feedback_app.datasets.models import DatasetVersion, VersionJob
from feedback_app.datasets.services.cards import write_card
from feedback_app.datasets.tasks import ring_version
from feedback_app.projects.forms import add_errors
from feedback_app.projects.markdown import render_markdown
from feedback_app.projects.models import Member
from feedback_app.projects.pages import ProjectRequest, project_page

FIRST_ROWS = 3
RECENT_IMPORTS = 5


@require_safe
@project_page(Member.Role.REVIEWER)
def data(request: ProjectRequest) -> HttpResponse:
    """What the project has, its versions and imports, and the form that takes data out, filled as once before."""
    return _data_page(request, _form_again(request) or ExportForm(project=request.project))


def _form_again(request: ProjectRequest) -> ExportForm | None:
    """Return the form as a version, or the job of one, was asked for by it; None where the address names neither."""
    project = request.project
    if (number := _number_asked(request, "like")) is not None:
        version = get_object_or_404(DatasetVersion, project=project, number=number)
        return ExportForm.filled(
            project=project, format=version.format, file_type=version.manifest["file_type"], options=version.options
        )
    try:
        asked = UUID(request.GET.get("again", ""))
    except ValueError:
        return None
    job = get_object_or_404(VersionJob, project=project, pk=asked)
    return ExportForm.filled(project=project, format=job.format, file_type=job.file_type, options=job.options)


@require_http_methods(["POST"])
@project_page(Member.Role.MANAGER)
def export(request: ProjectRequest) -> HttpResponse:
    """Check the export form, then download, show the first rows, or freeze a version, as its button says."""
    form = ExportForm(request.POST, project=request.project)
    if not form.is_valid():
        return _data_page(request, form, status=422)
    wanted = request.POST.get("do", Do.DOWNLOAD)
    if wanted == Do.FREEZE:
        return _freeze(request, form)
    if wanted == Do.PREVIEW:
        return _data_page(request, form, first_rows=_first_rows(request, form))
    chosen = {"format": form.cleaned_data["format"], "file": form.cleaned_data["file"], **form.options_given()}
    return redirect(f"{reverse('api:export', args=[request.project.slug])}?{urlencode(chosen)}")


def _number_asked(request: ProjectRequest, name: str) -> int | None:
    """Return the version's number in the address; None where there is none, or one that no column holds."""
    said = request.GET.get(name, "")
    return int(said) if said.isdecimal() and len(said) < 10 else None


def _first_rows(request: ProjectRequest, form: ExportForm) -> list[str]:
    ready = prepare_export(
        project=request.project, format=form.cleaned_data["format"], options=form.cleaned_data["options"]
    )
    return [line for _split, line in islice(ready.lines(), FIRST_ROWS)]


def _freeze(request: ProjectRequest, form: ExportForm) -> HttpResponse:
    if not form.clean_for_version():
        return _data_page(request, form, status=422)
    try:
        job = services.request_version(
            project=request.project,
            format=form.cleaned_data["format"],
            options=form.cleaned_data["options"],
            file_type=form.cleaned_data["file"],
            requested_by=request.user,
        )
    except ValidationError as error:
        add_errors(form, error)
        return _data_page(request, form, status=422)
    ring_version(job.pk)
    return redirect("datasets:version_job", request.project.slug, job.pk)


@require_safe
@project_page(Member.Role.MANAGER)
def making(request: ProjectRequest, version_job_id: UUID) -> HttpResponse:
    """A version on its way, and on to its page once it is made; the progress alone when htmx asks."""
    job = get_object_or_404(VersionJob.objects.select_related("version"), pk=version_job_id, project=request.project)
    if job.version is not None and not request.htmx:
        return redirect("datasets:version", request.project.slug, job.version.number)
    running = job.state in (VersionJob.State.QUEUED, VersionJob.State.RUNNING)
    template = "datasets/_version_job.html" if request.htmx else "datasets/version_job.html"
    response = render(request, template, {"job": job, "running": running})
    if request.htmx and not running:
        response["HX-Refresh"] = "true"  # to the version's page, or to what went wrong
    return response


def _data_page(
    request: ProjectRequest, form: ExportForm, *, first_rows: list[str] | None = None, status: int = 200
) -> HttpResponse:
    project = request.project
    context: dict[str, Any] = {
        "form": form,
        "do": Do,
        "first_rows": first_rows,
        "versions": [
            {"version": version, "parts": selectors.parts_of(version=version)}
            for version in selectors.datasets_of(project=project).prefetch_related("rounds")
        ],
        "under_way": selectors.versions_under_way(project=project),
        "imports": selectors.imports_of(project=project)[:RECENT_IMPORTS],
        "held": selectors.judgments_held(project=project),
    }
    template = "datasets/data.html"
    if request.htmx:
        template = "datasets/_export.html"
    return render(request, template, context, status=status)


@require_safe
@project_page(Member.Role.REVIEWER)
def version(request: ProjectRequest, number: int) -> HttpResponse:
    """One dataset version: its manifest as facts, its card, its files, and the rounds that learned from it."""
    found = get_object_or_404(DatasetVersion, project=request.project, number=number)
    # The card's head between --- is for load_dataset; people read what follows.
    card = write_card(found.manifest).split("\n---\n", 1)[1]
    chosen = {name: found.options[name] for name in (*ExportForm.MAIN, *ExportForm.FILTERS, *ExportForm.RULES)
              if found.options.get(name) not in (None, "", [], {}, False)}  # fmt: skip
    context = {
        "others": selectors.datasets_of(project=request.project).exclude(pk=found.pk),
        "difference": _difference(request, found),
        "version": found,
        "card": render_markdown(card),
        "rules": [tell_option(name, value) for name, value in chosen.items()],
        "parts": selectors.parts_of(version=found),
        "rounds": found.rounds.select_related("policy").order_by("number"),
    }
    return render(request, "datasets/version.html", context)


def _difference(request: ProjectRequest, found: DatasetVersion) -> dict[str, Any] | None:
    """Return what changed since the version that the address names."""
    if (number := _number_asked(request, "against")) is None:
        return None
    against = get_object_or_404(DatasetVersion, project=request.project, number=number)
    difference = diff_versions(version=found, against=against)
    difference["changed"] = [
        (*tell_option(name, change["before"]), tell_option(name, change["after"])[1])
        for name, change in difference["options"].items()
    ]
    return difference
