"""Import jobs and immutable dataset versions: how preference data comes in and goes out."""

import uuid

from django.conf import settings
from django.contrib.postgres.fields import ArrayField
from django.contrib.postgres.indexes import GinIndex
from django.db import models
from django.utils.translation import gettext_lazy as _

from feedback_app.annotation.models import Task
from feedback_app.leases import Job
from feedback_app.projects.models import Project


class ImportJob(Job):
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

    class Meta(Job.Meta):
        db_table = "datasets_import_job"

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
    withdrawn_at = models.DateTimeField(null=True, blank=True, help_text=_("when its files were deleted"))
    created_by = models.ForeignKey(settings.AUTH_USER_MODEL, null=True, on_delete=models.SET_NULL, related_name="+")
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        db_table = "datasets_dataset_version"
        ordering = ["-number"]
        constraints = [models.UniqueConstraint(fields=["project", "number"], name="dataset_number_once")]

    def __str__(self) -> str:
        return f"{self.project} dataset {self.number}"


class VersionJob(Job):
    """A dataset version that was asked for; the row is the queue, and says how far it is."""

    project = models.ForeignKey(Project, on_delete=models.CASCADE, related_name="version_jobs")
    format = models.CharField(max_length=32)
    file_type = models.CharField(max_length=16)
    options = models.JSONField(default=dict, blank=True)
    language = models.CharField(max_length=16, blank=True, help_text=_("of whoever will read its error"))
    tasks_written = models.PositiveBigIntegerField(default=0)
    tasks_judged = models.PositiveBigIntegerField(default=0, help_text=_("of the project: more than it has to write"))
    version = models.OneToOneField(DatasetVersion, null=True, on_delete=models.CASCADE, related_name="job")

    class Meta(Job.Meta):
        db_table = "datasets_version_job"

    def __str__(self) -> str:
        return f"{self.format} of {self.project}: {self.state}"


class Erasure(models.Model):
    """That something was erased, so that no import brings it back; of what it was, only a hash is kept."""

    class Kind(models.TextChoices):
        ANNOTATOR = "annotator", _("an annotator's judgments")
        PROMPT = "prompt", _("a prompt")

    project = models.ForeignKey(Project, on_delete=models.CASCADE, related_name="erasures")
    kind = models.CharField(max_length=16, choices=Kind.choices)
    subject_sha256 = models.CharField(max_length=64, help_text=_("of the annotator's name, or of the conversation"))
    judgments = models.PositiveIntegerField()
    tasks = models.PositiveIntegerField()
    erased_by = models.ForeignKey(settings.AUTH_USER_MODEL, null=True, on_delete=models.SET_NULL, related_name="+")
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        db_table = "datasets_erasure"
        ordering = ["-created_at"]
        indexes = [models.Index(fields=["project", "kind", "subject_sha256"], name="erasure_subject")]

    def __str__(self) -> str:
        return f"{self.kind} erased from {self.project}"


class ExampleIndex(models.Model):
    """What a task's prompt and responses are found by; made after the task, by the application (see tokens)."""

    task = models.OneToOneField(Task, on_delete=models.CASCADE, primary_key=True, related_name="search_index")
    tokens = ArrayField(models.CharField(max_length=64))

    class Meta:
        db_table = "datasets_example_index"
        indexes = [GinIndex(fields=["tokens"], name="example_tokens")]

    def __str__(self) -> str:
        return f"{len(self.tokens)} tokens of {self.task_id}"


class DuplicateReport(models.Model):
    """The near-duplicates last found among a project's prompts, and those on two sides of a split."""

    project = models.OneToOneField(Project, on_delete=models.CASCADE, primary_key=True, related_name="duplicates")
    report = models.JSONField()
    made_at = models.DateTimeField(auto_now=True)

    class Meta:
        db_table = "datasets_duplicate_report"

    def __str__(self) -> str:
        return f"near-duplicates in {self.project}"
