"""Rounds over HTTP: started by managers, watched by reviewers."""

from collections.abc import Callable
from typing import Any
from uuid import UUID

from django.http import Http404
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import extend_schema
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from feedback_app.projects.models import Member
from feedback_app.projects.permissions import get_project_for, require_role
from feedback_app.rounds.bells import ring_round
from feedback_app.rounds.models import Round
from feedback_app.rounds.selectors import round_as_json
from feedback_app.rounds.services import (
    RoundRefused,
    approve_round,
    cancel_round,
    pause_round,
    reject_round,
    resume_round,
    retry_round,
    settle_round,
    start_round,
)

Act = Callable[[UUID, Request], Round]


def round_for(request: Request, round_id: UUID, at_least: Member.Role) -> Round:
    """Return a round of a project in which the caller's role reaches at_least."""
    held = Round.objects.select_related("project", "parent", "policy").filter(pk=round_id).first()
    if held is None:
        raise Http404
    require_role(request.user, held.project, at_least)
    return held


class StartInput(serializers.Serializer[Any]):
    simulated = serializers.BooleanField(default=False, help_text="learn from simulated judgments as well")


class RoundsApi(APIView):
    @extend_schema(request=StartInput, responses={201: OpenApiTypes.OBJECT}, operation_id="start_round")
    def post(self, request: Request, slug: str) -> Response:
        project = get_project_for(request.user, slug, Member.Role.MANAGER)
        given = StartInput(data=request.data or {})
        given.is_valid(raise_exception=True)
        try:
            held = start_round(project=project, created_by=request.user, **given.validated_data)  # type: ignore[arg-type]
        except RoundRefused as refused:
            return Response({"detail": [str(refused)]}, status=409)
        ring_round(held.pk)
        return Response(round_as_json(held=held), status=201)


class RoundApi(APIView):
    @extend_schema(responses=OpenApiTypes.OBJECT, operation_id="get_round")
    def get(self, request: Request, round_id: UUID) -> Response:
        return Response(round_as_json(held=round_for(request, round_id, Member.Role.REVIEWER)))


class RetryInput(serializers.Serializer[Any]):
    step = serializers.CharField(default="", allow_blank=True, help_text="do this step and all after it anew")


class RejectInput(serializers.Serializer[Any]):
    reason = serializers.CharField(default="", allow_blank=True, max_length=2000)


def _cancel(round_id: UUID, request: Request) -> Round:
    return cancel_round(round_id=round_id, cancelled_by=request.user)  # type: ignore[arg-type]


def _pause(round_id: UUID, request: Request) -> Round:
    return pause_round(round_id=round_id, paused_by=request.user)  # type: ignore[arg-type]


def _resume(round_id: UUID, request: Request) -> Round:
    return resume_round(round_id=round_id, resumed_by=request.user)  # type: ignore[arg-type]


def _retry(round_id: UUID, request: Request) -> Round:
    given = RetryInput(data=request.data or {})
    given.is_valid(raise_exception=True)
    step = given.validated_data["step"]
    return retry_round(round_id=round_id, retried_by=request.user, from_step=step)  # type: ignore[arg-type]


def _approve(round_id: UUID, request: Request) -> Round:
    return approve_round(round_id=round_id, approved_by=request.user)  # type: ignore[arg-type]


def _settle(round_id: UUID, request: Request) -> Round:
    return settle_round(round_id=round_id, settled_by=request.user)  # type: ignore[arg-type]


def _reject(round_id: UUID, request: Request) -> Round:
    given = RejectInput(data=request.data or {})
    given.is_valid(raise_exception=True)
    reason = given.validated_data["reason"]
    return reject_round(round_id=round_id, rejected_by=request.user, reason=reason)  # type: ignore[arg-type]


ACTS: dict[str, Act] = {
    "cancel": _cancel, "pause": _pause, "resume": _resume, "retry": _retry, "approve": _approve, "reject": _reject,
    "settle": _settle,
}  # fmt: skip


class RoundActApi(APIView):
    @extend_schema(request=OpenApiTypes.OBJECT, responses=OpenApiTypes.OBJECT, operation_id="steer_round")
    def post(self, request: Request, round_id: UUID, act: str) -> Response:
        round_for(request, round_id, Member.Role.MANAGER)
        try:
            ACTS[act](round_id, request)
        except RoundRefused as refused:
            return Response({"detail": [str(refused)]}, status=409)
        held = round_for(request, round_id, Member.Role.MANAGER)
        if held.state == Round.State.QUEUED:
            ring_round(held.pk)
        return Response(round_as_json(held=held))
