"""Import jobs and immutable dataset versions: how preference data comes in and goes out."""

import uuid

from django.conf import settings
from django.db import models
from django.utils.translation import gettext_lazy as _

from feedback_app.projects.models import Project


class ImportJob(models.Model):
    """One file on its way in; the row is the queue, the report lists every refused line.

    A draft is a file that its owner looks at first: nothing takes it from the queue, and it goes after a day. A dry run
    goes through the queue as an import does, stores nothing, and ends as a draft again.
    """

    class State(models.TextChoices):
        DRAFT = "draft", _("looked at first")
        QUEUED = "queued", _("queued")
        RUNNING = "running", _("running")
        DONE = "done", _("done")
        FAILED = "failed", _("failed")

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    project = models.ForeignKey(Project, on_delete=models.CASCADE, related_name="import_jobs")
    format = models.CharField(max_length=32)
    file_name = models.CharField(max_length=255)
    path = models.CharField(max_length=500, help_text=_("below DATA_DIR"))
    options = models.JSONField(default=dict, blank=True)
    dry_run = models.BooleanField(default=False)
    state = models.CharField(max_length=16, choices=State.choices, default=State.QUEUED)
    rows_read = models.PositiveBigIntegerField(default=0)
    rows_new = models.PositiveBigIntegerField(default=0)
    rows_known = models.PositiveBigIntegerField(default=0)
    rows_refused = models.PositiveBigIntegerField(default=0)
    bytes_total = models.PositiveBigIntegerField(default=0)
    bytes_read = models.PositiveBigIntegerField(default=0)
    fence = models.PositiveIntegerField(default=0)
    lease_until = models.DateTimeField(null=True, blank=True)
    error = models.TextField(blank=True)
    requested_by = models.ForeignKey(settings.AUTH_USER_MODEL, null=True, on_delete=models.SET_NULL, related_name="+")
    created_at = models.DateTimeField(auto_now_add=True)
    finished_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        db_table = "datasets_import_job"
        ordering = ["-created_at"]

    def __str__(self) -> str:
        return f"{self.file_name}: {self.state}"


class RefusedRow(models.Model):
    """A line that an import would not take, and why."""

    job = models.ForeignKey(ImportJob, on_delete=models.CASCADE, related_name="refused_rows")
    line = models.PositiveBigIntegerField()
    reason = models.TextField()

    class Meta:
        db_table = "datasets_refused_row"
        ordering = ["line", "id"]
        indexes = [models.Index(fields=["job", "line"], name="refused_row_by_line")]

    def __str__(self) -> str:
        return f"line {self.line}: {self.reason[:80]}"


class DatasetVersion(models.Model):
    """A frozen export: its file, its hash, and everything needed to make it again."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    project = models.ForeignKey(Project, on_delete=models.CASCADE, related_name="dataset_versions")
    number = models.PositiveIntegerField()
    format = models.CharField(max_length=32)
    options = models.JSONField(default=dict)
    directory = models.CharField(max_length=500, help_text=_("below DATA_DIR"))
    content_sha256 = models.CharField(max_length=64)
    manifest = models.JSONField(default=dict)
    tainted_at = models.DateTimeField(null=True, blank=True, help_text=_("when something in it was voided or erased"))
    taint_reason = models.CharField(max_length=300, blank=True)
    created_by = models.ForeignKey(settings.AUTH_USER_MODEL, null=True, on_delete=models.SET_NULL, related_name="+")
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        db_table = "datasets_dataset_version"
        ordering = ["-number"]
        constraints = [models.UniqueConstraint(fields=["project", "number"], name="dataset_number_once")]

    def __str__(self) -> str:
        return f"{self.project} dataset {self.number}"
