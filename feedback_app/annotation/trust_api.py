"""Review, gold and the work report over HTTP."""

from dataclasses import asdict
from datetime import date
from typing import Any
from uuid import UUID

from django.http import HttpResponse
from django.utils.translation import gettext as _
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework.request import Request
from rest_framework.response import Response

from feedback_app.annotation.api import AnnotationView, caller, read_object
from feedback_app.annotation.errors import NotAssigned, VerdictInvalid
from feedback_app.annotation.models import Judgment, Review, Task
from feedback_app.annotation.reliability import annotator_reliability, check_scores, policy_scores, review_counts
from feedback_app.annotation.reviews import WaitingTask, waiting_reviews
from feedback_app.annotation.services import judgment_as_json, make_gold, review_judgment
from feedback_app.annotation.services.judging import response_ids
from feedback_app.annotation.work_report import work_csv, work_report
from feedback_app.projects.models import Member
from feedback_app.projects.permissions import get_project_for, require_role

FILE = OpenApiParameter("file", str, description="csv: a file; left out: JSON")
DAYS = [OpenApiParameter(name, date, description="a day, UTC") for name in ("since", "until")]


class ReviewsApi(AnnotationView):
    @extend_schema(operation_id="reviews", responses=OpenApiTypes.OBJECT)
    def get(self, request: Request, slug: str) -> Response:
        """Return what waits for a reviewer: what was revised first, then by disagreement."""
        project = get_project_for(caller(request), slug, at_least=Member.Role.REVIEWER)
        return Response({"tasks": [_waiting(task) for task in waiting_reviews(project=project)]})


def _waiting(task: WaitingTask) -> dict[str, Any]:
    responses = response_ids(task.task_id)
    return {
        "task": str(task.task_id),
        "disagreement": task.disagreement,
        "revised": task.revised,
        "judgments": [
            judgment_as_json(judgment=judgment, responses=responses) | {"annotator": judgment.annotator.username}
            for judgment in task.judgments
        ],
    }


class ReviewApi(AnnotationView):
    @extend_schema(operation_id="review_judgment", request=OpenApiTypes.OBJECT, responses={201: OpenApiTypes.OBJECT})
    def post(self, request: Request, judgment_id: UUID) -> Response:
        """Accept, overrule (with a verdict) or send back (with a comment) a judgment."""
        judgment = Judgment.objects.select_related("project").filter(pk=judgment_id).first()
        if judgment is None:
            raise NotAssigned({"judgment": [_("No such judgment.")]})
        require_role(request.user, judgment.project, Member.Role.REVIEWER)
        body = read_object(request, "outcome", "comment", "verdict")
        for name in ("outcome", "comment"):
            if not isinstance(body.get(name, ""), str):
                raise VerdictInvalid({name: [_("a text is needed")]})
        if not isinstance(body.get("verdict", {}), dict):
            raise VerdictInvalid({"verdict": [_("a JSON object is needed")]})
        review = review_judgment(
            judgment_id=judgment_id, reviewer=caller(request), outcome=body.get("outcome", ""),
            comment=body.get("comment", ""), verdict=body.get("verdict"),
        )  # fmt: skip
        return Response(_review(review), status=201)


def _review(review: Review) -> dict[str, Any]:
    return {
        "judgment": str(review.judgment_id), "outcome": review.outcome, "comment": review.comment,
        "reviewer": review.reviewer.username if review.reviewer else None, "updated_at": review.updated_at,
    }  # fmt: skip


class GoldApi(AnnotationView):
    @extend_schema(operation_id="make_gold", request=OpenApiTypes.OBJECT, responses={201: OpenApiTypes.OBJECT})
    def post(self, request: Request, task_id: UUID) -> Response:
        """Make a gold or qualification task of a task's prompt and responses and the verdict that is right."""
        task = Task.objects.select_related("project").filter(pk=task_id).first()
        if task is None:
            raise NotAssigned({"task": [_("No such task.")]})
        require_role(request.user, task.project, Member.Role.MANAGER)
        body = read_object(request, "verdict", "kind", "explanation", "tolerance")
        verdict, explanation, tolerance = (
            body.get("verdict"), body.get("explanation", ""), body.get("tolerance", 1),
        )  # fmt: skip
        if not isinstance(verdict, dict):
            raise VerdictInvalid({"verdict": [_("a JSON object is needed")]})
        if not isinstance(explanation, str):
            raise VerdictInvalid({"explanation": [_("a text is needed")]})
        if isinstance(tolerance, bool) or not isinstance(tolerance, int) or not 0 <= tolerance <= 10:
            raise VerdictInvalid({"tolerance": [_("a whole number from 0 to 10 is needed")]})
        kind = body.get("kind", Task.Kind.GOLD)
        if kind not in (Task.Kind.GOLD, Task.Kind.QUALIFICATION):
            raise VerdictInvalid({"kind": [_("gold or qualification")]})
        made = make_gold(
            task=task, verdict=verdict, kind=Task.Kind(kind), made_by=caller(request), explanation=explanation,
            tolerance=tolerance,
        )  # fmt: skip
        return Response({"task": str(made.pk), "kind": made.kind}, status=201)


class TrustApi(AnnotationView):
    @extend_schema(operation_id="trust", responses=OpenApiTypes.OBJECT)
    def get(self, request: Request, slug: str) -> Response:
        """Return reliabilities (Dawid-Skene), check and review outcomes by annotator, and policies' scores."""
        project = get_project_for(caller(request), slug, at_least=Member.Role.REVIEWER)
        return Response(
            {
                "reliability": annotator_reliability(project=project),
                "checks": check_scores(project=project),
                "reviews": review_counts(project=project),
                "policies": [asdict(score) for score in policy_scores(project=project)],
            }
        )


class WorkApi(AnnotationView):
    @extend_schema(operation_id="work", parameters=[FILE, *DAYS], responses=OpenApiTypes.OBJECT)
    def get(self, request: Request, slug: str) -> Response | HttpResponse:
        """Return work by person and day: everybody's for reviewers and managers, an annotator's own for them."""
        user = caller(request)
        project = get_project_for(user, slug)
        own = require_role(user, project, Member.Role.ANNOTATOR) == Member.Role.ANNOTATOR
        rows = work_report(
            project=project, annotator=user if own else None, since=_day(request, "since"), until=_day(request, "until")
        )
        if request.query_params.get("file") != "csv":
            return Response(rows)
        return HttpResponse(
            work_csv(rows), content_type="text/csv; charset=utf-8",
            headers={"Content-Disposition": f'attachment; filename="{project.slug}-work.csv"'},
        )  # fmt: skip


def _day(request: Request, name: str) -> date | None:
    given = request.query_params.get(name)
    if not given:
        return None
    try:
        return date.fromisoformat(given)
    except ValueError as error:
        raise VerdictInvalid({name: [_("a day like 2026-11-25 is needed")]}) from error
