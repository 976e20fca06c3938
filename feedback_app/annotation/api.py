"""The HTTP face of annotation: reads requests, calls the services, and turns what they raise into answers."""

from collections.abc import Mapping
from typing import Any
from uuid import UUID

from django.core.exceptions import ValidationError
from django.http import QueryDict
from django.utils.translation import gettext as _
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework.exceptions import ParseError
from rest_framework.parsers import FormParser, JSONParser, MultiPartParser
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from feedback_app.accounts.models import User
from feedback_app.annotation import services
from feedback_app.annotation.errors import AnnotationError, VerdictInvalid
from feedback_app.annotation.quality import measure_quality
from feedback_app.annotation.schemas import (
    ErrorShape,
    HoldShape,
    JudgmentShape,
    QualityShape,
    ReasonShape,
    TaskShape,
    VerdictShape,
)
from feedback_app.annotation.splits import storable
from feedback_app.projects.models import Member
from feedback_app.projects.permissions import get_project_for

NOTHING = 204
KEY = OpenApiParameter(
    "Idempotency-Key", str, OpenApiParameter.HEADER, description="the same key and body answers the first result"
)

SIMULATED = OpenApiParameter(
    "simulated",
    bool,
    description="true: simulated judgments; false: real ones; left out: real ones if there are any",
)


class BoundedJSONParser(JSONParser):
    """JSON whose nesting the interpreter can follow; deeper is the sender's mistake, not a server error."""

    def parse(self, stream: Any, media_type: str | None = None, parser_context: Any = None) -> Any:
        try:
            return super().parse(stream, media_type, parser_context)
        except RecursionError as error:
            raise ParseError(_("nested too deeply")) from error


class AnnotationView(APIView):
    """A view whose services raise what AnnotationError stands for."""

    parser_classes = [BoundedJSONParser]

    def handle_exception(self, exc: Exception) -> Response:
        if isinstance(exc, AnnotationError):
            return Response(exc.errors, status=exc.code)
        if isinstance(exc, ValidationError):
            return Response(exc.message_dict, status=400)
        return super().handle_exception(exc)


class LenientView(AnnotationView):
    """A view whose body is optional: an empty form of any kind is taken as an empty object."""

    parser_classes = [BoundedJSONParser, FormParser, MultiPartParser]


def caller(request: Request) -> User:
    """Return who calls; the permission classes have let nobody else through."""
    if not isinstance(request.user, User):
        raise TypeError("an anonymous request reached a view that needs a user")
    return request.user


def read_object(request: Request, *known: str) -> dict[str, Any]:
    """Return the body as an object with no fields but the known ones, or any where none are named."""
    data = request.data
    if isinstance(data, QueryDict):
        data = {name: data.getlist(name) if name == "hold" else data[name] for name in data}
    if not isinstance(data, Mapping):
        raise VerdictInvalid({"non_field_errors": [_("a JSON object is needed")]})
    if known and (unknown := [str(name) for name in data if name not in known]):
        raise VerdictInvalid({name: [_("unknown field")] for name in unknown})
    return dict(data)


def read_hold(request: Request) -> list[UUID]:
    """Return the assignment ids to leave out."""
    hold = read_object(request, "hold").get("hold") or []
    try:
        if not isinstance(hold, list):
            raise TypeError
        return [UUID(item) for item in hold]
    except (TypeError, ValueError, AttributeError) as error:
        raise VerdictInvalid({"hold": [_("a list of assignment ids is needed")]}) from error


def _read_reason(request: Request) -> str:
    reason = read_object(request, "reason").get("reason") or ""
    if not isinstance(reason, str) or len(reason) > 300 or not storable(reason):
        raise VerdictInvalid({"reason": [_("a text of at most 300 characters is needed")]})
    return reason


class NextTaskView(LenientView):
    @extend_schema(operation_id="tasks_next", request=HoldShape, responses={200: TaskShape, 204: None, 403: ErrorShape})
    def post(self, request: Request, slug: str) -> Response:
        """Reserve the next task, or answer the oldest live reservation that is not held; 204: nothing to do."""
        found = services.next_task(project=slug, annotator=caller(request), hold=read_hold(request))
        return Response(found.as_json()) if found else Response(status=NOTHING)


class DraftView(AnnotationView):
    @extend_schema(
        operation_id="tasks_draft", request=OpenApiTypes.OBJECT, responses={204: None, 400: ErrorShape, 409: ErrorShape}
    )
    def put(self, request: Request, task_id: UUID) -> Response:
        """Keep an unfinished verdict as it is; counts as a heartbeat."""
        services.save_draft(task_id=task_id, annotator=caller(request), draft=read_object(request))
        return Response(status=NOTHING)


class RenewView(LenientView):
    @extend_schema(operation_id="tasks_renew", request=None, responses={204: None, 409: ErrorShape})
    def post(self, request: Request, task_id: UUID) -> Response:
        """Extend the reservation: send it every 30 s while the page is being used."""
        services.renew(task_id=task_id, annotator=caller(request))
        return Response(status=NOTHING)


class SkipView(LenientView):
    @extend_schema(operation_id="tasks_skip", request=ReasonShape, responses={204: None, 409: ErrorShape})
    def post(self, request: Request, task_id: UUID) -> Response:
        """Give the task back; it never comes again for this annotator."""
        services.skip(task_id=task_id, annotator=caller(request), reason=_read_reason(request))
        return Response(status=NOTHING)


class ReportView(LenientView):
    @extend_schema(operation_id="tasks_report", request=ReasonShape, responses={204: None, 409: ErrorShape})
    def post(self, request: Request, task_id: UUID) -> Response:
        """Give the task back as broken and take it off the queue."""
        services.report(task_id=task_id, annotator=caller(request), reason=_read_reason(request))
        return Response(status=NOTHING)


class JudgmentsView(AnnotationView):
    @extend_schema(
        operation_id="judgments_submit",
        parameters=[KEY],
        request=VerdictShape,
        responses={201: JudgmentShape, 400: ErrorShape, 409: ErrorShape},
    )
    def post(self, request: Request, task_id: UUID) -> Response:
        """Store a verdict exactly once; a repeat answers the first result, another body is 409."""
        stored = services.submit_judgment(
            task_id=task_id,
            annotator=caller(request),
            body=read_object(request),
            idempotency_key=request.headers.get("Idempotency-Key", ""),
        )
        return Response(stored, status=201)


class JudgmentView(AnnotationView):
    @extend_schema(
        operation_id="judgments_revise",
        request=VerdictShape,
        responses={200: JudgmentShape, 400: ErrorShape, 403: ErrorShape, 409: ErrorShape},
    )
    def put(self, request: Request, judgment_id: UUID) -> Response:
        """Put a new verdict in the place of one's own; the old one is kept as a revision."""
        return Response(
            services.revise_judgment(judgment_id=judgment_id, editor=caller(request), body=read_object(request))
        )


class JudgmentDraftView(AnnotationView):
    @extend_schema(
        operation_id="judgments_draft",
        request=OpenApiTypes.OBJECT,
        responses={204: None, 400: ErrorShape, 403: ErrorShape, 409: ErrorShape},
    )
    def put(self, request: Request, judgment_id: UUID) -> Response:
        """Keep an unfinished revision as it is; its "revision" is the one of the judgment that it was begun on."""
        services.save_revision_draft(judgment_id=judgment_id, editor=caller(request), draft=read_object(request))
        return Response(status=NOTHING)

    @extend_schema(operation_id="judgments_draft_discard", responses={204: None, 403: ErrorShape, 409: ErrorShape})
    def delete(self, request: Request, judgment_id: UUID) -> Response:
        """Drop the draft: the judgment stays as it was."""
        services.discard_revision_draft(judgment_id=judgment_id, editor=caller(request))
        return Response(status=NOTHING)


class QualityView(AnnotationView):
    @extend_schema(
        operation_id="quality",
        parameters=[SIMULATED],
        responses={200: QualityShape},
    )
    def get(self, request: Request, slug: str) -> Response:
        """Agreement and per-annotator figures of the judgments that count."""
        project = get_project_for(caller(request), slug, at_least=Member.Role.REVIEWER)
        asked = request.query_params.get("simulated")
        simulated = None if asked is None else asked.lower() in ("", "1", "true", "yes")
        return Response(measure_quality(project=project, simulated=simulated))
