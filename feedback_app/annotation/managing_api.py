"""What managers do to many tasks and judgments at once, over HTTP."""

from datetime import datetime
from typing import Any
from uuid import UUID

from django.utils import timezone
from django.utils.dateparse import parse_datetime
from django.utils.translation import gettext as _
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import extend_schema
from rest_framework.request import Request
from rest_framework.response import Response

from feedback_app.accounts.models import User
from feedback_app.annotation import services
from feedback_app.annotation.api import AnnotationView, caller, read_object
from feedback_app.annotation.errors import VerdictInvalid
from feedback_app.annotation.forms import MOST_AT_ONCE, BulkForm
from feedback_app.annotation.models import Task
from feedback_app.annotation.schemas import ChangeShape, ErrorShape, VoidShape
from feedback_app.annotation.splits import storable
from feedback_app.projects.models import Member, Project
from feedback_app.projects.permissions import get_project_for


class ChangeTasksApi(AnnotationView):
    @extend_schema(
        operation_id="tasks_change", request=ChangeShape, responses={200: OpenApiTypes.OBJECT, 400: ErrorShape}
    )
    def post(self, request: Request, slug: str) -> Response:
        """Set priority or overlap of tasks to a number, archive them, or put them back into the queue."""
        project = get_project_for(caller(request), slug, at_least=Member.Role.MANAGER)
        body = read_object(request, "tasks", "do", "number")
        tasks = _ids(body, "tasks")
        form = BulkForm({name: body.get(name) for name in ("do", "number")})
        if not form.is_valid():
            raise VerdictInvalid({name: [str(error) for error in errors] for name, errors in form.errors.items()})
        changed = services.change_tasks(
            project=project, tasks=Task.objects.filter(pk__in=tasks), do=form.cleaned_data["do"],
            number=form.cleaned_data["number"], changed_by=caller(request),
        )  # fmt: skip
        return Response({"changed": changed})


class VoidApi(AnnotationView):
    @extend_schema(
        operation_id="judgments_void", request=VoidShape, responses={200: OpenApiTypes.OBJECT, 400: ErrorShape}
    )
    def post(self, request: Request, slug: str) -> Response:
        """Void the judgments that every given condition holds for, and reopen the places of those that counted."""
        project = get_project_for(caller(request), slug, at_least=Member.Role.MANAGER)
        body = read_object(request, "judgments", "annotator", "since", "until", "guidelines", "protocol", "reason")
        reason = _text(body.get("reason", ""), "reason")
        voided = services.void_judgments(
            project=project, voided_by=caller(request), reason=reason,
            judgments=_ids(body, "judgments") if body.get("judgments") is not None else None,
            annotator=_annotator(project, body.get("annotator")),
            since=_moment(body, "since"), until=_moment(body, "until"),
            guidelines=_version(project.guidelines_versions, body, "guidelines"),
            protocol=_version(project.protocol_versions, body, "protocol"),
        )  # fmt: skip
        return Response({"judgments": voided.judgments, "tasks_reopened": voided.tasks_reopened})


def _ids(body: dict[str, Any], name: str) -> list[UUID]:
    given = body.get(name)
    try:
        if not isinstance(given, list) or len(given) > MOST_AT_ONCE:
            raise TypeError
        return [UUID(item) for item in given]
    except (TypeError, ValueError, AttributeError) as error:
        reason = _("a list of at most %(most)d ids is needed") % {"most": MOST_AT_ONCE}
        raise VerdictInvalid({name: [reason]}) from error


def _text(given: object, name: str) -> str:
    if not isinstance(given, str):
        raise VerdictInvalid({name: [_("a text is needed")]})
    if not storable(given):
        raise VerdictInvalid({name: [_("holds a NUL or half a surrogate pair")]})
    return given


def _annotator(project: Project, name: object) -> User | None:
    if name is None:
        return None
    found = User.objects.filter(username=_text(name, "annotator"), judgments__project=project).first()
    if found is None:
        raise VerdictInvalid({"annotator": [_("nobody of this name has judged here")]})
    return found


def _moment(body: dict[str, Any], name: str) -> datetime | None:
    given = body.get(name)
    if given is None:
        return None
    try:
        moment = parse_datetime(given) if isinstance(given, str) else None
    except ValueError:
        moment = None
    if moment is None:
        raise VerdictInvalid({name: [_("a time like 2026-11-25T14:30:00Z is needed")]})
    return moment if timezone.is_aware(moment) else moment.replace(tzinfo=timezone.get_default_timezone())


def _version(versions: Any, body: dict[str, Any], name: str) -> Any:
    number = body.get(name)
    if number is None:
        return None
    found = None
    if isinstance(number, int) and not isinstance(number, bool) and abs(number) < 2**31:
        found = versions.filter(number=number).first()
    if found is None:
        raise VerdictInvalid({name: [_("there is no version of this number")]})
    return found
