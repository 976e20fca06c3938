"""Schedules: when rounds start by themselves, the next start, and what it still waits for."""

from django.contrib import messages
from django.core.exceptions import ValidationError
from django.http import HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.utils.translation import gettext as _
from django.views.decorators.http import require_POST, require_safe

from feedback_app.projects.forms import add_errors
from feedback_app.projects.models import Member
from feedback_app.projects.pages import ProjectRequest, project_page
from feedback_app.rounds.forms import ScheduleForm
from feedback_app.rounds.models import Schedule
from feedback_app.rounds.next_start import next_starts
from feedback_app.rounds.services.scheduling import add_schedule, remove_schedule, turn_schedule


@require_safe
@project_page(Member.Role.REVIEWER)
def schedules(request: ProjectRequest) -> HttpResponse:
    """Every schedule with its next start, and a form for another."""
    return _schedules_page(request, ScheduleForm())


def _schedules_page(request: ProjectRequest, form: ScheduleForm, *, status: int = 200) -> HttpResponse:
    context = {"starts": next_starts(project=request.project), "form": form, "tab": "schedules"}
    return render(request, "rounds/schedules.html", context, status=status)


@require_POST
@project_page(Member.Role.MANAGER)
def add(request: ProjectRequest) -> HttpResponse:
    """Add a schedule."""
    form = ScheduleForm(request.POST)
    if form.is_valid():
        try:
            add_schedule(
                project=request.project,
                kind=form.cleaned_data["kind"],
                every=form.every(),
                cron=form.cleaned_data["cron"],
                minimum_judgments=form.cleaned_data["minimum_judgments"],
                added_by=request.user,
            )
        except ValidationError as error:
            named = getattr(error, "message_dict", {})
            if "every" in named:
                error = ValidationError({form.FIELD_OF[form.cleaned_data["kind"]]: named["every"]})
            add_errors(form, error)
        else:
            messages.success(request, _("Rounds start by themselves from now on."))
            return redirect("rounds:schedules", request.project.slug)
    return _schedules_page(request, form, status=422)


@require_POST
@project_page(Member.Role.MANAGER)
def change(request: ProjectRequest, schedule_id: int) -> HttpResponse:
    """Turn a schedule on or off, or take it away."""
    found = get_object_or_404(Schedule.objects.select_related("project"), pk=schedule_id, project=request.project)
    match request.POST.get("do"):
        case "on" | "off" as turn:
            turn_schedule(schedule=found, on=turn == "on", turned_by=request.user)
        case "remove":
            remove_schedule(schedule=found, removed_by=request.user)
        case _:
            return _schedules_page(request, ScheduleForm(), status=422)
    return redirect("rounds:schedules", request.project.slug)
