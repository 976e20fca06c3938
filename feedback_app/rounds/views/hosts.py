"""The machines that train, for the site's administrator."""

from typing import Any

from django.contrib.auth.decorators import login_required
from django.core.exceptions import PermissionDenied
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.views.decorators.http import require_safe

from feedback_app.rounds.hosts import held_by, living_hosts
from feedback_app.rounds.models import Host, Round, Trial


@require_safe
@login_required
def hosts(request: HttpRequest) -> HttpResponse:
    """Each host: its devices, how busy they are, what runs there, and when it was last seen."""
    if not request.user.is_superuser:
        raise PermissionDenied
    alive = set(living_hosts().values_list("pk", flat=True))
    rows = [{**_held(host), "host": host, "alive": host.pk in alive} for host in Host.objects.order_by("name")]
    waiting = Round.objects.filter(state=Round.State.QUEUED).select_related("project").order_by("created_at")
    return render(request, "rounds/hosts.html", {"rows": rows, "waiting": waiting})


def _held(host: Host) -> dict[str, Any]:
    held = held_by(host)
    return {kind: [row for row in held if isinstance(row, of)] for kind, of in (("rounds", Round), ("trials", Trial))}
