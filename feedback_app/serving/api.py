"""Policies over HTTP: listed for reviewers, pushed and rolled back by managers."""

from typing import Any
from uuid import UUID

from django.http import Http404
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import extend_schema
from rest_framework import serializers
from rest_framework.parsers import FormParser, JSONParser, MultiPartParser
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from feedback_app.projects.models import Member
from feedback_app.projects.permissions import get_project_for, require_role
from feedback_app.serving.models import PolicyVersion, Push
from feedback_app.serving.selectors import deployment_of, policies_of
from feedback_app.serving.services import PushRefused, push_policy, roll_back


def policy_as_json(policy: PolicyVersion, *, live: bool) -> dict[str, Any]:
    """Return a version as the API shows it."""
    return {
        "id": str(policy.pk),
        "name": policy.name,
        "number": policy.number,
        "source": policy.source,
        "parent": policy.parent.name if policy.parent else None,
        "also_from": [other.name for other in policy.also_from.all()],
        "note": policy.note,
        "round": str(policy.round_id) if policy.round_id else None,
        "manifest_sha256": policy.manifest_sha256,
        "evaluation": policy.evaluation,
        "tainted_at": policy.tainted_at,
        "taint_reason": policy.taint_reason,
        "withheld": policy.withheld,
        "created_at": policy.created_at,
        "live": live,
    }


def push_as_json(push: Push) -> dict[str, Any]:
    """Return a push as the API shows it."""
    return {
        "id": str(push.pk), "kind": push.kind, "policy": push.policy.name, "state": push.state, "steps": push.steps,
        "error": push.error, "created_at": push.created_at, "finished_at": push.finished_at,
    }  # fmt: skip


class PoliciesApi(APIView):
    @extend_schema(responses=OpenApiTypes.OBJECT, operation_id="list_policies")
    def get(self, request: Request, slug: str) -> Response:
        project = get_project_for(request.user, slug, Member.Role.REVIEWER)
        deployment = deployment_of(project=project)
        live = deployment.live_id if deployment else None
        return Response(
            {"policies": [policy_as_json(policy, live=policy.pk == live) for policy in policies_of(project=project)]}
        )


class PushApi(APIView):
    @extend_schema(request=None, responses=OpenApiTypes.OBJECT, operation_id="push_policy")
    def post(self, request: Request, policy_id: UUID) -> Response:
        policy = PolicyVersion.objects.select_related("project").filter(pk=policy_id).first()
        if policy is None:
            raise Http404
        require_role(request.user, policy.project, Member.Role.MANAGER)
        try:
            push = push_policy(policy=policy, requested_by=request.user)  # type: ignore[arg-type]
        except PushRefused as refused:
            return Response({"detail": [str(refused)]}, status=409)
        return Response(push_as_json(push))


class RollbackInput(serializers.Serializer[Any]):
    live = serializers.CharField(
        default="", allow_blank=True, help_text="the version to take back; refused where another is live by now"
    )


class RollbackApi(APIView):
    parser_classes = (JSONParser, FormParser, MultiPartParser)  # who sends no body may send it as a form

    @extend_schema(request=RollbackInput, responses=OpenApiTypes.OBJECT, operation_id="roll_back")
    def post(self, request: Request, slug: str) -> Response:
        project = get_project_for(request.user, slug, Member.Role.MANAGER)
        given = RollbackInput(data=request.data or {})
        given.is_valid(raise_exception=True)
        live = given.validated_data["live"]
        try:
            push = roll_back(project=project, requested_by=request.user, live=live)  # type: ignore[arg-type]
        except PushRefused as refused:
            return Response({"detail": [str(refused)]}, status=409)
        return Response(push_as_json(push))
