"""A new project, and the settings of one that stands."""

from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.core.exceptions import PermissionDenied, ValidationError
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.utils.translation import gettext as _
from django.views.decorators.http import require_http_methods

from feedback_app.accounts.models import User
from feedback_app.projects.forms import NewProjectForm, SettingsForm, add_errors
from feedback_app.projects.models import Member, Project
from feedback_app.projects.pages import ProjectRequest, project_page
from feedback_app.projects.permissions import may_create_projects
from feedback_app.projects.services import create_project, update_settings


@require_http_methods(["GET", "HEAD", "POST"])
@login_required
def new_project(request: HttpRequest) -> HttpResponse:
    """Make a project; its maker becomes its manager."""
    if not isinstance(request.user, User) or not may_create_projects(request.user):
        raise PermissionDenied(_("only an administrator of the site makes projects"))
    form, status = NewProjectForm(request.POST or None), 200
    if request.method == "POST":
        status = 422
        if form.is_valid():
            try:
                project = create_project(created_by=request.user, **form.cleaned_data)
            except ValidationError as error:
                add_errors(form, error)
            else:
                messages.success(request, _("The project stands. Bring data in, or add prompts and people."))
                return redirect("manager:tasks", project.slug)
    return render(request, "projects/new.html", {"form": form}, status=status)


@require_http_methods(["GET", "HEAD", "POST"])
@project_page(Member.Role.MANAGER)
def settings(request: ProjectRequest) -> HttpResponse:
    """The project's fields: distribution, sampling, trust."""
    stored = Project.objects.get(pk=request.project.pk)  # the form changes what it is given, valid or not
    form, status = SettingsForm(request.POST or None, instance=stored), 200
    if request.method == "POST":
        status = 422
        if form.is_valid():
            changed = {name: form.cleaned_data[name] for name in form.changed_data}
            try:
                if changed:
                    update_settings(project=stored, changed_by=request.user, **changed)
            except ValidationError as error:
                add_errors(form, error)
            else:
                messages.success(request, _("Saved.") if changed else _("Nothing was changed."))
                return redirect("projects:settings", request.project.slug)
    return render(request, "projects/settings.html", {"form": form}, status=status)
