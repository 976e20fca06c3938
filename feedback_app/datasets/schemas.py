"""The shapes of the datasets API, for its OpenAPI description alone."""

from dataclasses import fields

from drf_spectacular.utils import OpenApiParameter
from rest_framework import serializers

from feedback_app.datasets.exporting.options import CHOICES, ExportOptions
from feedback_app.datasets.exporting.writing import FILE_TYPES
from feedback_app.datasets.formats.exports import EXPORT_FORMATS


class RefusedShape(serializers.Serializer[dict[str, object]]):
    """A refused row."""

    line = serializers.IntegerField()
    reason = serializers.CharField()


class ReportShape(serializers.Serializer[dict[str, object]]):
    """All refused rows of an import."""

    id = serializers.UUIDField()
    refused = RefusedShape(many=True)


class ImportShape(serializers.Serializer[dict[str, object]]):
    """An import."""

    id = serializers.UUIDField()
    project = serializers.CharField()
    format = serializers.CharField()
    file_name = serializers.CharField()
    state = serializers.ChoiceField(["draft", "queued", "running", "done", "failed"])
    dry_run = serializers.BooleanField()
    mapping = serializers.DictField(child=serializers.CharField())
    rows_read = serializers.IntegerField()
    rows_new = serializers.IntegerField()
    rows_known = serializers.IntegerField()
    rows_refused = serializers.IntegerField()
    bytes_total = serializers.IntegerField()
    bytes_read = serializers.IntegerField()
    error = serializers.CharField(allow_blank=True)
    refused = RefusedShape(many=True)
    created_at = serializers.DateTimeField()
    finished_at = serializers.DateTimeField(allow_null=True)


class RowsShape(serializers.Serializer[dict[str, object]]):
    """Rows to import; a bare list of them is taken too."""

    rows = serializers.ListField(child=serializers.JSONField())


class DatasetRequestShape(serializers.Serializer[dict[str, object]]):
    """What a dataset version is to hold."""

    format = serializers.ChoiceField(list(EXPORT_FORMATS), required=False)
    options = serializers.JSONField(required=False, help_text="the export's parameters, as an object")
    file = serializers.ChoiceField(["jsonl", "parquet"], required=False)
    wait = serializers.BooleanField(required=False, help_text="false: a worker makes it, and the answer is its job")


class VersionJobShape(serializers.Serializer[dict[str, object]]):
    """A dataset version on its way."""

    id = serializers.UUIDField()
    project = serializers.CharField()
    format = serializers.CharField()
    file = serializers.CharField()
    options = serializers.JSONField()
    state = serializers.ChoiceField(["queued", "running", "done", "failed"])
    tasks_written = serializers.IntegerField()
    tasks_judged = serializers.IntegerField(help_text="of the project: filters may leave fewer to be written")
    error = serializers.CharField(allow_blank=True)
    dataset = serializers.UUIDField(allow_null=True)
    created_at = serializers.DateTimeField()
    finished_at = serializers.DateTimeField(allow_null=True)


class DatasetShape(serializers.Serializer[dict[str, object]]):
    """A dataset version."""

    id = serializers.UUIDField()
    project = serializers.CharField()
    number = serializers.IntegerField()
    format = serializers.CharField()
    options = serializers.JSONField()
    content_sha256 = serializers.CharField()
    manifest = serializers.JSONField()
    tainted_at = serializers.DateTimeField(allow_null=True)
    taint_reason = serializers.CharField(allow_blank=True)
    withdrawn_at = serializers.DateTimeField(allow_null=True)
    lineage = serializers.JSONField(help_text="rounds that learned from it, policies they made, and their descendants")
    created_at = serializers.DateTimeField()


class ErasureRequestShape(serializers.Serializer[dict[str, object]]):
    """What to erase: an annotator's judgments, or a prompt."""

    annotator = serializers.CharField(required=False, help_text="as exports name them")
    prompt = serializers.UUIDField(required=False, help_text="an export's prompt_id")
    withdraw = serializers.BooleanField(required=False, help_text="delete the files of versions that held it, too")


class PastErasureShape(serializers.Serializer[dict[str, object]]):
    """An erasure."""

    id = serializers.IntegerField()
    kind = serializers.ChoiceField(["annotator", "prompt"])
    judgments = serializers.IntegerField()
    tasks = serializers.IntegerField()
    created_at = serializers.DateTimeField()


class ErasureShape(PastErasureShape):
    """An erasure just made, with the dataset versions and policies that it concerns."""

    marked = serializers.ListField(child=serializers.IntegerField())
    renewed = serializers.ListField(child=serializers.IntegerField())
    withdrawn = serializers.ListField(child=serializers.IntegerField())
    policies = serializers.ListField(child=serializers.CharField())


class DifferenceShape(serializers.Serializer[dict[str, object]]):
    """What changed from one dataset version to another."""

    version = serializers.IntegerField()
    against = serializers.IntegerField()
    equal = serializers.BooleanField()
    options = serializers.JSONField()
    counts = serializers.JSONField()
    splits = serializers.JSONField()
    judgments = serializers.JSONField()
    rows = serializers.JSONField()


EXPORT_PARAMETERS = [
    OpenApiParameter("format", str, enum=list(EXPORT_FORMATS), default="preference"),
    OpenApiParameter("file", str, enum=list(FILE_TYPES), default="jsonl"),
    *(
        OpenApiParameter(option.name, str, enum=[choice for choice in CHOICES.get(option.name, ()) if choice] or None)
        for option in fields(ExportOptions)
    ),
]
