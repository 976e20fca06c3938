"""What a project tells of, to whom: one's own e-mails, and webhooks for managers."""

from typing import Any
from uuid import UUID

from django.conf import settings
from django.contrib import messages
from django.core.exceptions import ValidationError
from django.http import HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.utils.translation import gettext as _
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_POST, require_safe
from django.views.decorators.vary import vary_on_headers
from kombu.exceptions import OperationalError

from feedback_app.notifications import selectors, services, tasks
from feedback_app.notifications.forms import ChoicesForm, WebhookForm
from feedback_app.notifications.models import Delivery, Webhook
from feedback_app.projects.forms import add_errors
from feedback_app.projects.models import Member
from feedback_app.projects.pages import ProjectRequest, project_page


@require_safe
@vary_on_headers("HX-Request")
@project_page(Member.Role.REVIEWER)
def notifications(request: ProjectRequest) -> HttpResponse:
    """What one is told of, the webhooks with their last deliveries, and what happened last."""
    if request.htmx:
        return render(request, "notifications/_webhooks.html", _webhooks(request))
    return _page(request)


def _webhooks(request: ProjectRequest) -> dict[str, Any]:
    rows = selectors.webhooks_of(project=request.project) if request.role == Member.Role.MANAGER else []
    return {"rows": rows, "waiting": any(d.state == Delivery.State.WAITING for row in rows for d in row.deliveries)}


def _page(request: ProjectRequest, *, status: int = 200, **more: Any) -> HttpResponse:
    kinds = selectors.kinds_of(project=request.project, user=request.user)
    context = _webhooks(request) | {
        "choices_form": ChoicesForm(initial={"email": request.user.email, "kinds": kinds}, prefix="mine"),
        "webhook_form": WebhookForm(prefix="webhook"),
        "can_mail": bool(settings.EMAIL_HOST),
        "mails": selectors.mails_of(project=request.project, user=request.user),
        "events": selectors.newest_events(project=request.project),
        "tab": "notifications",
    }
    return render(request, "notifications/notifications.html", context | more, status=status)


@require_POST
@project_page(Member.Role.REVIEWER)
def choose(request: ProjectRequest) -> HttpResponse:
    """Keep what one wants by e-mail."""
    form = ChoicesForm(request.POST, prefix="mine")
    if form.is_valid():
        try:
            services.choose_kinds(project=request.project, user=request.user, **form.cleaned_data)
        except ValidationError as error:
            add_errors(form, error)
        else:
            messages.success(request, _("Saved."))
            return redirect("notifications:notifications", request.project.slug)
    return _page(request, status=422, choices_form=form)


@never_cache
@require_POST
@project_page(Member.Role.MANAGER)
def add(request: ProjectRequest) -> HttpResponse:
    """Add a webhook, whose secret this answer alone ever shows."""
    form = WebhookForm(request.POST, prefix="webhook")
    if form.is_valid():
        try:
            webhook = services.add_webhook(project=request.project, created_by=request.user, **form.cleaned_data)
        except ValidationError as error:
            add_errors(form, error)
        else:
            return _page(request, made={"url": webhook.url, "secret": services.secret_of(webhook)})
    return _page(request, status=422, webhook_form=form)


@require_POST
@project_page(Member.Role.MANAGER)
def act(request: ProjectRequest, webhook_id: UUID) -> HttpResponse:
    """Send a webhook a test, or remove it."""
    webhook = get_object_or_404(Webhook.objects.select_related("project"), pk=webhook_id, project=request.project)
    wanted = request.POST.get("do", "")
    if wanted == "remove":
        services.remove_webhook(webhook=webhook, removed_by=request.user)
        messages.success(request, _("The address is told of nothing any more."))
    elif wanted == "test":
        services.send_test(webhook=webhook)
        _ring()
        messages.info(request, _("A test is on its way; how it went stands beside the address."))
    else:
        messages.error(request, _("Nothing was asked for."))
    return redirect("notifications:notifications", request.project.slug)


def _ring() -> None:
    try:
        tasks.deliver.delay()
    except OperationalError:
        return  # the row waits, and beat rings for it
