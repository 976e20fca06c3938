"""Quality for those who answer for it: how far people agree, how each one judges, and voiding what was wrong."""

from typing import Any

from django.contrib import messages
from django.core.exceptions import ValidationError
from django.http import HttpResponse
from django.shortcuts import redirect, render
from django.utils.translation import ngettext
from django.views.decorators.http import require_POST, require_safe

from feedback_app.accounts.models import User
from feedback_app.annotation import figures, reliability, services
from feedback_app.annotation.forms import VoidForm
from feedback_app.annotation.quality import annotator_names, measure_quality
from feedback_app.projects.forms import add_errors
from feedback_app.projects.models import Member
from feedback_app.projects.pages import ProjectRequest, project_page


@require_safe
@project_page(Member.Role.REVIEWER)
def quality(request: ProjectRequest) -> HttpResponse:
    """Agreement as a square, annotators as rows, of real judgments or of simulated ones."""
    return _quality_page(request)


def _quality_page(request: ProjectRequest, *, status: int = 200, form: VoidForm | None = None) -> HttpResponse:
    project = request.project
    simulated = {"1": True, "0": False}.get(request.GET.get("simulated", ""))
    measured = measure_quality(project=project, simulated=simulated)
    context: dict[str, Any] = {
        "measured": measured,
        "agreement": figures.share_with_interval(measured["pairwise_agreement"], measured["pairwise_agreement_n"]),
        "square": figures.kappa_square(measured["cohen_kappa"]),
        "strengths": [
            row | {"agreed": figures.share_with_interval(row["agreement"], row["n"])}
            for row in measured["agreement_by_strength"]
        ],
        "weeks": figures.weeks_drawn(measured["agreement_by_week"]),
        "annotators": _annotators(request, measured),
        "days": figures.DAYS,
        "form": form or VoidForm(project=project),
    }
    return render(request, "annotation/quality.html", context, status=status)


def _annotators(request: ProjectRequest, measured: dict[str, Any]) -> list[dict[str, Any]]:
    paces = figures.pace_of(project=request.project, simulated=measured["simulated"])
    by_username: dict[str, dict[str, Any]] = {
        "checks": reliability.check_scores(project=request.project),
        "reviews": reliability.review_counts(project=request.project),
    }
    idle = [0] * figures.DAYS
    return [
        row
        | {
            "bars": figures.spark_bars(paces.get(row["annotator"], idle)),
            "recent": sum(paces.get(row["annotator"], idle)),
            "agreed": figures.share_with_interval(row["agreement"], row["agreement_n"]),
            "weeks": figures.weeks_drawn(row["agreement_by_week"]),
            "first_shown": figures.share_with_interval(row["first_shown_share"], row["first_shown_n"]),
            **{name: found.get(row["annotator"]) for name, found in by_username.items()},
        }
        for row in measured["annotators"]
    ]


@require_safe
@project_page(Member.Role.REVIEWER)
def fitted(request: ProjectRequest) -> HttpResponse:
    """The figures that take a second to fit: scores of the policies, and how reliable each annotator is."""
    scores = reliability.policy_scores(project=request.project)
    reliable = reliability.annotator_reliability(project=request.project)
    users = dict(User.objects.filter(username__in=reliable).values_list("username", "pk"))
    names = annotator_names(users.values())
    context = {
        "scores": _drawn(scores),
        "reliable": sorted((names[users[username]], share) for username, share in reliable.items()),
    }
    template = "annotation/_quality_fitted.html" if request.htmx else "annotation/quality_fitted.html"
    return render(request, template, context)


def _drawn(scores: list[reliability.PolicyScore]) -> list[dict[str, Any]]:
    """Return the scores with their places between the lowest and the highest end of an interval, in hundredths."""
    if not scores:
        return []
    low, high = min(score.low for score in scores), max(score.high for score in scores)
    span = (high - low) or 1.0

    def place(value: float) -> float:
        return round(100 * (value - low) / span, 1)

    return [
        {
            "score": score, "at": place(score.score), "from": place(score.low),
            "width": round(place(score.high) - place(score.low), 1), "zero": place(0.0),
        }
        for score in scores
    ]  # fmt: skip


@require_POST
@project_page(Member.Role.MANAGER)
def void(request: ProjectRequest) -> HttpResponse:
    """Void the judgments that all given conditions hold for, with the reason given."""
    form = VoidForm(request.POST, project=request.project)
    if form.is_valid():
        try:
            voided = services.void_judgments(project=request.project, voided_by=request.user, **form.cleaned_data)
        except ValidationError as error:
            add_errors(form, error)
        else:
            count = len(voided.judgments)
            text = ngettext("%(count)d judgment is void.", "%(count)d judgments are void.", count)
            messages.success(request, text % {"count": count})
            return redirect("manager:quality", request.project.slug)
    return _quality_page(request, status=422, form=form)
