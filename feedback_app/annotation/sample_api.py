"""Ask for fresh tasks over HTTP."""

from typing import Any
from uuid import UUID

from django.http import Http404
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import extend_schema
from kombu.exceptions import OperationalError
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from feedback_app.annotation.models import SampleJob
from feedback_app.annotation.sampling import SamplingRefused, request_sample
from feedback_app.annotation.tasks import sample
from feedback_app.projects.models import Member
from feedback_app.projects.permissions import get_project_for, require_role


class SampleInput(serializers.Serializer[Any]):
    prompts = serializers.IntegerField(default=20, min_value=1, max_value=10_000)
    responses_per_prompt = serializers.IntegerField(required=False, min_value=2, max_value=9)


def sample_job_as_json(job: SampleJob) -> dict[str, Any]:
    """Return a sampling as the API shows it."""
    return {
        "id": str(job.pk), "project": job.project.slug, "state": job.state, "prompts": job.prompts_wanted,
        "tasks_made": job.tasks_made, "prompts_given_up": job.prompts_given_up,
        "responses_per_prompt": job.responses_per_prompt, "automatic": job.automatic, "error": job.error,
        "created_at": job.created_at, "finished_at": job.finished_at,
    }  # fmt: skip


class SampleApi(APIView):
    @extend_schema(request=SampleInput, responses={202: OpenApiTypes.OBJECT}, operation_id="sample")
    def post(self, request: Request, slug: str) -> Response:
        project = get_project_for(request.user, slug, Member.Role.MANAGER)
        given = SampleInput(data=request.data or {})
        given.is_valid(raise_exception=True)
        try:
            job = request_sample(project=project, requested_by=request.user, **given.validated_data)  # type: ignore[arg-type]
        except SamplingRefused as refused:
            return Response({"detail": [str(refused)]}, status=409)
        try:
            sample.delay(str(job.pk))
        except OperationalError:
            pass  # no broker: the row waits, and the next tick rings for it
        return Response(sample_job_as_json(job), status=202)


class SampleJobApi(APIView):
    @extend_schema(responses=OpenApiTypes.OBJECT, operation_id="get_sample")
    def get(self, request: Request, job_id: UUID) -> Response:
        job = SampleJob.objects.select_related("project").filter(pk=job_id).first()
        if job is None:
            raise Http404
        require_role(request.user, job.project, Member.Role.REVIEWER)
        return Response(sample_job_as_json(job))
