"""Bring data in: a file is looked at first, then imported by a worker while the page says how far it is."""

from typing import Any
from uuid import UUID

from django.contrib import messages
from django.core.exceptions import ValidationError
from django.http import HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.utils.translation import gettext as _
from django.views.decorators.http import require_http_methods, require_POST, require_safe

from feedback_app.datasets import selectors, services
from feedback_app.datasets.forms import DraftForm, ImportForm
from feedback_app.datasets.models import ImportJob
from feedback_app.datasets.tasks import ring_import
from feedback_app.projects.forms import add_errors
from feedback_app.projects.models import Member
from feedback_app.projects.pages import ProjectRequest, project_page

State = ImportJob.State


@require_http_methods(["GET", "HEAD", "POST"])
@project_page(Member.Role.MANAGER)
def start(request: ProjectRequest) -> HttpResponse:
    """Take a file or pasted rows as a draft, and go on to look at it."""
    form = ImportForm(request.POST or None, request.FILES or None)
    status = 200
    if request.method == "POST":
        status = 422
        if form.is_valid():
            content, name = form.content()
            try:
                job = services.start_import(
                    project=request.project,
                    format=form.cleaned_data["format"],
                    file_name=name,
                    content=content,
                    requested_by=request.user,
                    state=State.DRAFT,
                )
            except ValidationError as error:
                add_errors(form, error)
            else:
                return redirect("datasets:import", request.project.slug, job.pk)
    context = {"form": form, "imports": selectors.imports_of(project=request.project)[:20]}
    return render(request, "datasets/import_start.html", context, status=status)


@require_safe
@project_page(Member.Role.MANAGER)
def show(request: ProjectRequest, job_id: UUID) -> HttpResponse:
    """A draft with its first rows, or an import on its way or done; the progress alone when htmx asks."""
    job = _job(request, job_id)
    context: dict[str, Any] = {
        "job": job,
        "running": job.state in (State.QUEUED, State.RUNNING),
        "refused": selectors.refused_rows(job=job)[: selectors.FIRST_REFUSED],
    }
    if request.htmx:
        response = render(request, "datasets/_import_progress.html", context)
        if not context["running"]:
            response["HX-Refresh"] = "true"  # the whole page has changed: what it offers, too
        return response
    if job.state == State.DRAFT:
        preview = services.preview_import(job=job)
        initial = {"format": job.format, "mapping": job.options.get("mapping", {})}
        context |= {"preview": preview, "form": DraftForm(initial=initial, columns=preview.columns)}
    return render(request, "datasets/import.html", context)


@require_POST
@project_page(Member.Role.MANAGER)
def act(request: ProjectRequest, job_id: UUID) -> HttpResponse:
    """Import a draft, try it, read it as another format, or discard it, as the button says."""
    job = _job(request, job_id)
    wanted = request.POST.get("do", "")
    if wanted == "discard":
        services.discard_draft(job=job)
        return redirect("datasets:import_start", request.project.slug)
    if wanted == "format":
        _read_otherwise(request, job)
    elif wanted in ("import", "try"):
        if services.queue_draft(job=job, dry_run=wanted == "try"):
            ring_import(job.pk)
        else:
            messages.error(request, _("This import has begun already."))
    else:
        messages.error(request, _("Nothing was asked for."))
    return redirect("datasets:import", request.project.slug, job.pk)


def _read_otherwise(request: ProjectRequest, job: ImportJob) -> None:
    """Read a draft by the format and the columns that were chosen; another format forgets the old one's columns."""
    if job.state != State.DRAFT:
        messages.error(request, _("This import has begun already."))
        return
    format = request.POST.get("format", "")
    form = DraftForm(request.POST, columns=services.preview_import(job=job).columns)
    try:
        mapping = form.mapping() if format == job.format and form.is_valid() else {}
        services.set_draft_format(job=job, format=format, mapping=mapping)
    except ValidationError as error:
        messages.error(request, " ".join(error.messages))


def _job(request: ProjectRequest, job_id: UUID) -> ImportJob:
    return get_object_or_404(ImportJob.objects.select_related("project__protocol"), pk=job_id, project=request.project)
