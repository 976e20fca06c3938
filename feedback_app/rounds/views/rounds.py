"""The rounds of a project: the list, one round as it runs, and what people do to it."""

from collections.abc import Callable
from typing import Any

from django.contrib import messages
from django.core.paginator import Paginator
from django.http import Http404, HttpResponse, JsonResponse
from django.shortcuts import redirect, render
from django.utils.translation import gettext as _
from django.views.decorators.http import require_POST, require_safe
from django.views.decorators.vary import vary_on_headers

from feedback_app.projects.models import Member
from feedback_app.projects.pages import ProjectRequest, project_page
from feedback_app.rounds import reports, services
from feedback_app.rounds.bells import ring_round
from feedback_app.rounds.blind import blind_figure
from feedback_app.rounds.curves import charts_of
from feedback_app.rounds.forms import RejectForm, RetryForm, StartForm
from feedback_app.rounds.models import Round, RoundStep
from feedback_app.rounds.selectors import active_round, log_of, samples_of, was_scheduled
from feedback_app.rounds.services import RoundRefused
from feedback_app.rounds.standing import is_active, standing_of
from feedback_app.serving.selectors import soak_of

PAGE = 30
SAMPLES = 6


@require_safe
@project_page(Member.Role.REVIEWER)
def rounds(request: ProjectRequest) -> HttpResponse:
    """Every round with its steps, what it made and how that did."""
    return _list_page(request)


def _list_page(request: ProjectRequest, *, status: int = 200, refused: str = "") -> HttpResponse:
    page = Paginator(reports.rounds_with_steps(project=request.project), PAGE).get_page(request.GET.get("page"))
    rows = [
        {
            "held": held,
            "steps": held.steps.all(),
            "wins": next(
                (f for f in reports.evaluation_figures(_evaluated(held)) if f.half and f.low is not None), None
            ),
        }
        for held in page
    ]  # fmt: skip
    context = {
        "page": page,
        "rows": rows,
        "active": active_round(project=request.project),
        "start_form": StartForm(),
        "refused": refused,
        "tab": "rounds",
    }
    return render(request, "rounds/rounds.html", context, status=status)


def _evaluated(held: Round) -> dict[str, Any]:
    step = reports.step_named(held, RoundStep.Name.EVALUATE)
    return step.metrics if step else {}


@require_POST
@project_page(Member.Role.MANAGER)
def start(request: ProjectRequest) -> HttpResponse:
    """Start a round by the project's recipe and go to its page."""
    form = StartForm(request.POST)
    form.full_clean()
    try:
        held = services.start_round(
            project=request.project, created_by=request.user, simulated=form.cleaned_data["simulated"]
        )
    except RoundRefused as refused:
        return _list_page(request, status=409, refused=str(refused))
    ring_round(held.pk)
    return redirect("rounds:round", request.project.slug, held.number)


def _round(request: ProjectRequest, number: int) -> Round:
    held = reports.round_by_number(project=request.project, number=number)
    if held is None:
        raise Http404
    held.project = request.project
    return held


@require_safe
@vary_on_headers("HX-Request")
@project_page(Member.Role.REVIEWER)
def round_page(request: ProjectRequest, number: int) -> HttpResponse:
    """One round: steps, curves, samples, log, evaluation, gate; while it runs, the parts that move by themselves."""
    held = _round(request, number)
    if request.htmx:
        return _moving_parts(request, held)
    return _round_page(request, held)


def _key(held: Round) -> str:
    """Return what must change for the whole page to be loaded anew: its buttons and words are other ones then."""
    lost = standing_of(held).tone == "danger"
    return f"{held.state}-{held.cancel_requested:d}{held.pause_requested:d}{lost:d}"


def _moving_parts(request: ProjectRequest, held: Round) -> HttpResponse:
    if request.GET.get("key") != _key(held):
        return HttpResponse(headers={"HX-Refresh": "true"})
    return render(request, "rounds/_round_moving.html", _moving(held) | {"held": held, "partial": True})


def _moving(held: Round) -> dict[str, Any]:
    """Return what changes while a round runs."""
    strip = reports.strip_of(held)
    step = reports.running_step(held)
    like = reports.newest_finished(project=held.project, before=held) if is_active(held) else None
    samples = samples_of(held=held)
    return {
        "strip": strip,
        "current": step,
        "seconds_left": reports.seconds_left(strip, like) if is_active(held) else None,
        "left_of_step": like is None,  # how long the later ones take is not known from any round
        "log": log_of(held=held, step=step) if step else [],
        "samples": samples[:SAMPLES],
        "samples_at": samples[0]["update"] if samples else None,
        "blind": blind_figure(held),
        "lines": sum(len(report.step.progress) for report in strip),
        "key": _key(held),
    }


def _round_page(request: ProjectRequest, held: Round, *, status: int = 200, **more: Any) -> HttpResponse:
    before = reports.round_before(held)
    evaluation = _evaluated(held)
    context = _moving(held) | {
        "held": held,
        "standing": standing_of(held),
        "soak": soak_of(policy=held.policy) if held.policy else None,
        "active": is_active(held),
        "scheduled": was_scheduled(held=held),
        "before": before,
        "charts": charts_of(held=held, parent=before),
        "figures": reports.evaluation_figures(evaluation),
        "answers": reports.evaluation_answers(held)[:SAMPLES],
        "gate": reports.gate_rows(held),
        "exported": _exported(held),
        "reject_form": RejectForm(),
        "retry_form": RetryForm(),
    }
    return render(request, "rounds/round.html", context | more, status=status)


def _exported(held: Round) -> dict[str, Any]:
    step = reports.step_named(held, RoundStep.Name.EXPORT)
    return {name.replace("/", "_"): value for name, value in step.metrics.items()} if step else {}


@require_safe
@project_page(Member.Role.REVIEWER)
def curves(request: ProjectRequest, number: int) -> JsonResponse:
    """The round's curves as they stand, for the charts."""
    held = _round(request, number)
    return JsonResponse({"charts": charts_of(held=held, parent=reports.round_before(held))})


Act = Callable[[Round, ProjectRequest], Round]


def _retry(held: Round, request: ProjectRequest, step: str) -> Round:
    return services.retry_round(round_id=held.pk, retried_by=request.user, from_step=step)


ACTS: dict[str, Act] = {
    "cancel": lambda held, request: services.cancel_round(round_id=held.pk, cancelled_by=request.user),
    "pause": lambda held, request: services.pause_round(round_id=held.pk, paused_by=request.user),
    "resume": lambda held, request: services.resume_round(round_id=held.pk, resumed_by=request.user),
    "approve": lambda held, request: services.approve_round(round_id=held.pk, approved_by=request.user),
    "settle": lambda held, request: services.settle_round(round_id=held.pk, settled_by=request.user),
    "reject": lambda held, request: services.reject_round(
        round_id=held.pk, rejected_by=request.user, reason=request.POST["reason"]
    ),
    "retry": lambda held, request: _retry(held, request, request.POST.get("step", "")),
}


@require_POST
@project_page(Member.Role.MANAGER)
def act(request: ProjectRequest, number: int) -> HttpResponse:
    """Do to a round what its button says."""
    held = _round(request, number)
    wanted = request.POST.get("do", "")
    if wanted not in ACTS:
        return _round_page(request, held, status=422, refused=_("There is no such thing to do."))
    if wanted == "reject" and not (form := RejectForm(request.POST)).is_valid():
        return _round_page(request, held, status=422, reject_form=form)
    try:
        moved = ACTS[wanted](held, request)
    except RoundRefused as refused:
        return _round_page(request, _round(request, number), status=409, refused=str(refused))
    if moved.state == Round.State.QUEUED:
        ring_round(moved.pk)
    messages.success(request, _("Done: the round is %(state)s.") % {"state": moved.get_state_display()})
    return redirect("rounds:round", request.project.slug, number)
