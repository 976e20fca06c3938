"""Policies made elsewhere over HTTP: a pipeline that has left a model below an allowed folder registers it."""

from pathlib import Path
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
from feedback_app.rounds.services import RoundRefused, evaluate_elsewhere, register_elsewhere
from feedback_app.serving.models import PolicyVersion


class RegisterInput(serializers.Serializer[Any]):
    directory = serializers.CharField(help_text="below DATA_DIR/models or a folder of MODEL_DIRS")
    parents = serializers.ListField(
        child=serializers.CharField(), default=list, help_text="names of versions, the main one first"
    )
    note = serializers.CharField(default="", allow_blank=True, max_length=2000)
    evaluate = serializers.BooleanField(default=True, help_text="put it to the gates; it goes live where they hold")


class RegisterPolicyApi(APIView):
    @extend_schema(request=RegisterInput, responses={201: OpenApiTypes.OBJECT}, operation_id="register_policy")
    def post(self, request: Request, slug: str) -> Response:
        project = get_project_for(request.user, slug, Member.Role.MANAGER)
        given = RegisterInput(data=request.data or {})
        given.is_valid(raise_exception=True)
        asked = given.validated_data
        known = {policy.name: policy for policy in PolicyVersion.objects.filter(project=project)}
        if missing := [name for name in asked["parents"] if name not in known]:
            raise serializers.ValidationError({"parents": [f"there is no version {missing[0]!r}"]})
        try:
            held = register_elsewhere(
                project=project,
                directory=Path(asked["directory"]),
                parents=[known[name] for name in asked["parents"]],
                note=asked["note"],
                evaluate=asked["evaluate"],
                created_by=request.user,  # type: ignore[arg-type]
            )
        except RoundRefused as refused:
            return Response({"detail": [str(refused)]}, status=409)
        return _started(held)


class EvaluatePolicyApi(APIView):
    @extend_schema(request=None, responses={201: OpenApiTypes.OBJECT}, operation_id="evaluate_policy")
    def post(self, request: Request, policy_id: UUID) -> Response:
        policy = PolicyVersion.objects.select_related("project").filter(pk=policy_id).first()
        if policy is None:
            raise Http404
        require_role(request.user, policy.project, Member.Role.MANAGER)
        try:
            held = evaluate_elsewhere(policy=policy, created_by=request.user)  # type: ignore[arg-type]
        except RoundRefused as refused:
            return Response({"detail": [str(refused)]}, status=409)
        return _started(held)


def _started(held: Round) -> Response:
    ring_round(held.pk)
    return Response(round_as_json(held=held), status=201)
