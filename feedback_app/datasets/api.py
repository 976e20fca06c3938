"""The HTTP face of datasets: files in, files out, and the versions kept of them."""

from collections.abc import Iterable, Iterator, Mapping
from itertools import chain
from typing import IO, Any
from uuid import UUID

from django.core.exceptions import ValidationError
from django.http import FileResponse, Http404, StreamingHttpResponse
from django.http.response import HttpResponseBase
from django.shortcuts import get_object_or_404
from django.utils.translation import gettext as _
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework.exceptions import ParseError
from rest_framework.parsers import BaseParser, JSONParser, MultiPartParser
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from feedback_app.accounts.models import User
from feedback_app.datasets import selectors, services
from feedback_app.datasets.differences import diff_versions
from feedback_app.datasets.exporting.options import OptionsError, parse_options, read_flag
from feedback_app.datasets.exporting.rows import Export, prepare_export
from feedback_app.datasets.exporting.writing import FILE_TYPES, write_pieces
from feedback_app.datasets.formats.imports import IMPORT_FORMATS
from feedback_app.datasets.models import DatasetVersion, ImportJob, VersionJob
from feedback_app.datasets.schemas import (
    EXPORT_PARAMETERS,
    DatasetRequestShape,
    DatasetShape,
    DifferenceShape,
    ImportShape,
    ReportShape,
    RowsShape,
    VersionJobShape,
)
from feedback_app.datasets.tasks import ring_import, ring_version
from feedback_app.projects.models import Member, Project
from feedback_app.projects.permissions import get_project_for, require_role

# Rows in a JSON body are held in memory; a file is not.
LARGEST_JSON = 16 * 2**20


class BoundedJSONParser(JSONParser):
    """JSON of a size and a depth that a request may cost."""

    def parse(self, stream: Any, media_type: str | None = None, parser_context: Any = None) -> Any:
        length = (parser_context or {})["request"].META.get("CONTENT_LENGTH") or 0
        if int(length) > LARGEST_JSON:
            raise ParseError(_("more than %(most)d bytes of JSON: send the rows as a file") % {"most": LARGEST_JSON})
        try:
            return super().parse(stream, media_type, parser_context)
        except RecursionError as error:
            raise ParseError(_("nested too deeply")) from error


class FileBodyParser(BaseParser):
    """A file as the whole body, of any other content type; it is read where it is kept, piece by piece."""

    media_type = "*/*"

    def parse(self, stream: Any, media_type: str | None = None, parser_context: Any = None) -> Any:
        return {"file": stream}


class DatasetsView(APIView):
    """A view whose services say by ValidationError or OptionsError which field is wrong."""

    parser_classes = [BoundedJSONParser]

    def handle_exception(self, exc: Exception) -> Response:
        if isinstance(exc, OptionsError):
            return Response({exc.field_name: [exc.reason]}, status=400)
        if isinstance(exc, ValidationError):
            return Response(exc.message_dict, status=400)
        return super().handle_exception(exc)


def manager_project(request: Request, slug: str) -> Project:
    """Return a project that the caller manages; raises as get_project_for does."""
    return get_project_for(request.user, slug, at_least=Member.Role.MANAGER)


def caller(request: Request) -> User:
    """Return who calls; the permission classes have let nobody else through."""
    if not isinstance(request.user, User):
        raise TypeError("an anonymous request reached a view that needs a user")
    return request.user


class ImportsView(DatasetsView):
    parser_classes = [BoundedJSONParser, MultiPartParser, FileBodyParser]

    @extend_schema(
        operation_id="imports_start",
        parameters=[
            OpenApiParameter("format", str, enum=list(IMPORT_FORMATS), default="judged"),
            OpenApiParameter("mapping", str, description="their columns by our names: question=prompt,answer=chosen"),
            OpenApiParameter("dry_run", bool, description="report what the import would do, and store nothing"),
        ],
        request={
            "application/json": RowsShape,
            "multipart/form-data": {
                "type": "object",
                "properties": {"file": {"type": "string", "format": "binary"}},
                "required": ["file"],
            },
            "application/octet-stream": OpenApiTypes.BINARY,
        },
        responses={202: ImportShape},
    )
    def post(self, request: Request, slug: str) -> Response:
        """Queue a file, or rows, for import; ask for the job to see how it goes on."""
        project = manager_project(request, slug)
        data: Any = request.data
        content, name = _file_of(data)
        given = {
            name: request.query_params.get(name) or (data.get(name) if isinstance(data, Mapping) else None)
            for name in ("format", "mapping", "dry_run")
        }
        job = services.start_import(
            project=project,
            format=str(given["format"] or "judged"),
            file_name=name,
            content=content,
            requested_by=caller(request),
            mapping=given["mapping"],
            dry_run=read_flag("dry_run", given["dry_run"] or False),
        )
        ring_import(job.pk)
        return Response(selectors.import_as_json(job=job), status=202)

    @extend_schema(operation_id="imports_list", responses={200: ImportShape(many=True)})
    def get(self, request: Request, slug: str) -> Response:
        """The project's newest hundred imports."""
        project = manager_project(request, slug)
        return Response([selectors.import_as_json(job=job) for job in selectors.imports_of(project=project)[:100]])


def _file_of(data: Any) -> tuple[IO[bytes], str]:
    """Return the body's file: one sent as such, or made of the rows of a JSON body."""
    if isinstance(data, Mapping) and hasattr(data.get("file"), "read"):
        return data["file"], getattr(data["file"], "name", "") or "rows.jsonl"
    rows = data.get("rows") if isinstance(data, Mapping) else data
    if not isinstance(rows, list):
        raise ValidationError({"rows": [_("a list of rows, or a file, is needed")]})
    return services.rows_as_file(rows), "rows.jsonl"


def _managed_import(request: Request, job_id: UUID) -> ImportJob:
    job = get_object_or_404(ImportJob.objects.select_related("project"), pk=job_id)
    require_role(request.user, job.project, Member.Role.MANAGER)
    return job


class ImportView(DatasetsView):
    @extend_schema(operation_id="imports_show", responses={200: ImportShape})
    def get(self, request: Request, job_id: UUID) -> Response:
        """One import: its state, its counts, and the first rows it refused."""
        return Response(selectors.import_as_json(job=_managed_import(request, job_id)))


class ImportReportView(DatasetsView):
    @extend_schema(
        operation_id="imports_report",
        parameters=[OpenApiParameter("file", str, enum=["json", "csv"], default="json")],
        responses={(200, "application/json"): ReportShape, (200, "text/csv"): OpenApiTypes.STR},
    )
    def get(self, request: Request, job_id: UUID) -> HttpResponseBase:
        """Every refused row, with line and reason, as one JSON object or as CSV."""
        job = _managed_import(request, job_id)
        file_type = request.query_params.get("file", "json")
        if file_type not in ("json", "csv"):
            raise ValidationError({"file": [_("json or csv")]})
        pieces = selectors.report_as_csv(job=job) if file_type == "csv" else selectors.report_as_json(job=job)
        return _download(
            pieces, f"import-{job.pk}.{file_type}", "text/csv" if file_type == "csv" else "application/json"
        )


class ExportView(DatasetsView):
    @extend_schema(
        operation_id="export", parameters=EXPORT_PARAMETERS, responses={(200, "application/octet-stream"): bytes}
    )
    def get(self, request: Request, slug: str) -> HttpResponseBase:
        """Stream the project's judgments; a trainer's format holds the train split unless split is given."""
        project = manager_project(request, slug)
        given = {name: request.query_params[name] for name in request.query_params}
        format, file_type = given.pop("format", "preference"), given.pop("file", "jsonl")
        if file_type not in FILE_TYPES:
            raise OptionsError("file", _("one of %(names)s") % {"names": ", ".join(FILE_TYPES)})
        export = prepare_export(project=project, format=format, options=parse_options(given))
        return _download(
            _pieces(export, file_type), f"{slug}-{format}-{export.split}.{file_type}", FILE_TYPES[file_type]
        )


def _pieces(export: Export, file_type: str) -> Iterator[bytes]:
    return write_pieces(
        (line for _, line in export.lines()),
        file_type=file_type,
        schema=export.schema,
        as_text=export.format.as_text,
    )


def _download(pieces: Iterator[bytes], name: str, content_type: str) -> StreamingHttpResponse:
    # The first piece is made before the status is sent, so what fails at once fails with an error's status.
    first: Iterable[bytes] = [piece] if (piece := next(pieces, b"")) else []
    response = StreamingHttpResponse(chain(first, pieces), content_type=content_type)
    response["Content-Disposition"] = f'attachment; filename="{name}"'
    return response


class DatasetVersionsView(DatasetsView):
    @extend_schema(
        operation_id="datasets_create", request=DatasetRequestShape, responses={201: DatasetShape, 202: VersionJobShape}
    )
    def post(self, request: Request, slug: str) -> Response:
        """Freeze a dataset version: every split in a file of its own, hashed, with a manifest.

        The answer comes when it is made: a minute or more for a million judgments. With wait false it comes at once,
        with the job by which a worker makes it.
        """
        project = manager_project(request, slug)
        data = request.data
        if not isinstance(data, Mapping):
            raise ValidationError({"non_field_errors": [_("a JSON object is needed")]})
        if unknown := [str(name) for name in data if name not in ("format", "options", "file", "wait")]:
            raise ValidationError({name: [_("unknown field")] for name in unknown})
        options = data.get("options") or {}
        if not isinstance(options, Mapping):
            raise ValidationError({"options": [_("an object is needed")]})
        asked: dict[str, Any] = {
            "format": str(data.get("format") or "preference"),
            "options": options,
            "file_type": str(data.get("file") or "jsonl"),
        }
        if not read_flag("wait", data.get("wait", True)):
            job = services.request_version(project=project, requested_by=caller(request), **asked)
            ring_version(job.pk)
            return Response(selectors.version_job_as_json(job=job), status=202)
        version = services.create_dataset_version(project=project, created_by=caller(request), **asked)
        return Response(selectors.dataset_as_json(version=version), status=201)

    @extend_schema(operation_id="datasets_list", responses={200: DatasetShape(many=True)})
    def get(self, request: Request, slug: str) -> Response:
        """The project's dataset versions, newest first."""
        project = manager_project(request, slug)
        versions = selectors.datasets_of(project=project)
        return Response([selectors.dataset_as_json(version=version) for version in versions])


class VersionJobView(DatasetsView):
    @extend_schema(operation_id="dataset_jobs_show", responses={200: VersionJobShape})
    def get(self, request: Request, version_job_id: UUID) -> Response:
        """A dataset version on its way: how far it is, and the version once it is made."""
        job = get_object_or_404(VersionJob.objects.select_related("project"), pk=version_job_id)
        require_role(request.user, job.project, Member.Role.MANAGER)
        return Response(selectors.version_job_as_json(job=job))


def _managed_dataset(request: Request, dataset_id: UUID) -> DatasetVersion:
    version = get_object_or_404(DatasetVersion.objects.select_related("project"), pk=dataset_id)
    require_role(request.user, version.project, Member.Role.MANAGER)
    return version


class DatasetView(DatasetsView):
    @extend_schema(operation_id="datasets_show", responses={200: DatasetShape})
    def get(self, request: Request, dataset_id: UUID) -> Response:
        """One dataset version with its manifest."""
        return Response(selectors.dataset_as_json(version=_managed_dataset(request, dataset_id)))


class DatasetDiffView(DatasetsView):
    @extend_schema(
        operation_id="datasets_diff",
        parameters=[OpenApiParameter("against", OpenApiTypes.UUID, required=True, description="the earlier version")],
        responses={200: DifferenceShape},
    )
    def get(self, request: Request, dataset_id: UUID) -> Response:
        """What changed from another version of the project to this one."""
        version = _managed_dataset(request, dataset_id)
        try:
            against = version.project.dataset_versions.get(pk=UUID(request.query_params.get("against", "")))
        except (ValueError, DatasetVersion.DoesNotExist):
            raise ValidationError({"against": [_("the id of a dataset version of the project is needed")]}) from None
        return Response(diff_versions(version=version, against=against))


class DatasetDownloadView(DatasetsView):
    @extend_schema(
        operation_id="datasets_download",
        parameters=[OpenApiParameter("file", str, description="one file of the folder; left out: all, as a ZIP")],
        responses={(200, "application/octet-stream"): bytes},
    )
    def get(self, request: Request, dataset_id: UUID) -> HttpResponseBase:
        """The version's folder as a ZIP archive, or one of its files."""
        version = _managed_dataset(request, dataset_id)
        if version.withdrawn_at is not None:
            return Response({"detail": _("Its files were deleted when something in them was erased.")}, status=410)
        if not (name := request.query_params.get("file")):
            title = f"{version.project.slug}-dataset-{version.number}.zip"
            return _download(services.as_zip(version), title, "application/zip")
        path = services.folder_of(version) / name
        if name not in services.file_names(version):
            raise Http404
        return FileResponse(path.open("rb"), as_attachment=True, filename=name)
