"""What people do to what is live: push, roll back, and ask the endpoint how it is."""

from uuid import UUID

from celery import Task
from django.contrib import messages
from django.http import HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.utils import timezone
from django.utils.translation import gettext as _
from django.views.decorators.http import require_POST, require_safe
from django.views.decorators.vary import vary_on_headers
from kombu.exceptions import OperationalError

from feedback_app.projects.models import Member
from feedback_app.projects.pages import ProjectRequest, project_page
from feedback_app.serving import tasks
from feedback_app.serving.models import PolicyVersion
from feedback_app.serving.selectors import calibration_of, deployment_of
from feedback_app.serving.status import ask_endpoint


@require_POST
@project_page(Member.Role.MANAGER)
def push(request: ProjectRequest, policy_id: UUID) -> HttpResponse:
    """Ask for a version to go live; how it goes stands on the page of the policies."""
    policy = get_object_or_404(PolicyVersion, pk=policy_id, project=request.project)
    said = _("%(policy)s is being checked and loaded beside what answers now.") % {"policy": policy.name}
    return _ask(request, tasks.push, said, str(policy.pk), request.user.pk, request.project.pushes.count())


@require_POST
@project_page(Member.Role.MANAGER)
def rollback(request: ProjectRequest) -> HttpResponse:
    """Ask for the version before the live one; the page that was pressed names the live one it saw."""
    deployment = deployment_of(project=request.project)
    if deployment is None or deployment.previous is None:
        messages.error(request, _("Nothing was live before: there is nothing to go back to."))
        return _back(request)
    if request.POST.get("from") != str(deployment.live_id):
        messages.error(request, _("Another version has gone live meanwhile; nothing was changed."))
        return _back(request)
    said = _("Going back to %(policy)s.") % {"policy": deployment.previous.name}
    return _ask(request, tasks.take_back, said, request.project.pk, str(deployment.live_id), request.user.pk)


def _ask(request: ProjectRequest, task: Task, said: str, *arguments: object) -> HttpResponse:
    try:
        task.delay(*arguments)
    except OperationalError:
        messages.error(request, _("The queue of the workers does not answer. Nothing was changed; try again."))
        return _back(request)
    messages.info(request, said)
    # The page looks for a push that is no older than this, which a worker begins within moments.
    return _back(request, f"?asked={timezone.now().timestamp():.3f}")


def _back(request: ProjectRequest, query: str = "") -> HttpResponse:
    return redirect(f"/p/{request.project.slug}/policies/{query}")


@require_safe
@vary_on_headers("HX-Request")
@project_page(Member.Role.REVIEWER)
def endpoint(request: ProjectRequest) -> HttpResponse:
    """Say how the endpoint is, as it answers itself."""
    deployment = deployment_of(project=request.project)
    context = {
        "deployment": deployment,
        "status": ask_endpoint(deployment) if deployment else None,
        "calibration": calibration_of(deployment.endpoint) if deployment else None,
    }
    template = "serving/_endpoint.html" if request.htmx else "serving/endpoint.html"
    return render(request, template, context)
