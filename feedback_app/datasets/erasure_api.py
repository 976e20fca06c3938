"""The HTTP face of erasure."""

from collections.abc import Mapping
from typing import Any
from uuid import UUID

from django.core.exceptions import ValidationError
from django.utils.translation import gettext as _
from drf_spectacular.utils import extend_schema
from rest_framework.request import Request
from rest_framework.response import Response

from feedback_app.datasets import selectors, services
from feedback_app.datasets.api import DatasetsView, caller, manager_project
from feedback_app.datasets.exporting.options import read_flag
from feedback_app.datasets.schemas import ErasureRequestShape, ErasureShape, PastErasureShape


class ErasuresView(DatasetsView):
    @extend_schema(operation_id="erasures_create", request=ErasureRequestShape, responses={201: ErasureShape})
    def post(self, request: Request, slug: str) -> Response:
        """Erase what an annotator judged, or a prompt with all that hangs on it; there is no way back."""
        project = manager_project(request, slug)
        outcome = services.erase_from_project(project=project, erased_by=caller(request), **_asked(request.data))
        return Response(selectors.erasure_as_json(outcome), status=201)

    @extend_schema(operation_id="erasures_list", responses={200: PastErasureShape(many=True)})
    def get(self, request: Request, slug: str) -> Response:
        """What was erased when; of whom or what, only a hash is kept."""
        return Response(selectors.erasures_of(project=manager_project(request, slug)))


def _asked(data: Any) -> dict[str, Any]:
    if not isinstance(data, Mapping):
        raise ValidationError({"non_field_errors": [_("a JSON object is needed")]})
    if unknown := [str(name) for name in data if name not in ("annotator", "prompt", "withdraw")]:
        raise ValidationError({name: [_("unknown field")] for name in unknown})
    annotator, prompt = data.get("annotator") or "", data.get("prompt")
    if not isinstance(annotator, str):
        raise ValidationError({"annotator": [_("a text is needed")]})
    try:
        prompt = UUID(str(prompt)) if prompt else None
    except ValueError:
        raise ValidationError({"prompt": [_("an id is needed")]}) from None
    return {"annotator": annotator, "prompt": prompt, "withdraw": read_flag("withdraw", data.get("withdraw", False))}
