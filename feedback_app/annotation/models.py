"""Prompts, responses, and the tasks, assignments and judgments made of them.

The counters on Task and the constraints here carry the promise that no task is judged more often than asked and no
work is lost; every write to them goes through services.py, which locks the task before its assignments.
"""

import uuid

from django.conf import settings
from django.contrib.postgres.fields import ArrayField
from django.db import models
from django.db.models import F, Func, Q, Value
from django.utils.translation import gettext_lazy as _

from feedback_app.leases import Job
from feedback_app.projects.models import GuidelinesVersion, Project, ProtocolVersion
from feedback_app.serving.models import PolicyVersion


class NextPosition(Func):
    """The next place in the queue; a sequence, so that two transactions never share one."""

    function = "nextval"
    output_field = models.BigIntegerField()

    def __init__(self) -> None:
        super().__init__(Value("annotation_task_position"))

    def deconstruct(self) -> tuple[str, tuple[object, ...], dict[str, object]]:
        return ("feedback_app.annotation.models.NextPosition", (), {})


class Prompt(models.Model):
    """A conversation that waits for its next answer."""

    class Split(models.TextChoices):
        TRAIN = "train", _("train")
        VALIDATION = "validation", _("validation")
        TEST = "test", _("test")

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    # Unique constraints and wider indexes that begin with it serve a key as well: no index of its own.
    project = models.ForeignKey(Project, on_delete=models.CASCADE, related_name="prompts", db_index=False)
    messages = models.JSONField(help_text=_('list of {"role", "content"}'))
    # Hex digits are compared byte by byte: by the rules of a language, an index of digests cost twice as much.
    content_sha256 = models.CharField(
        max_length=64, db_collation="C", help_text=_("of the whole conversation, normalised")
    )
    root_sha256 = models.CharField(max_length=64, help_text=_("of the conversation's root: decides the split"))
    split = models.CharField(max_length=10, choices=Split.choices)
    language = models.CharField(max_length=16, blank=True)
    source = models.CharField(max_length=100, blank=True)
    external_id = models.CharField(max_length=200, blank=True)
    # Sampling goes round the active prompts, least often sampled first.
    active = models.BooleanField(default=True)
    times_sampled = models.PositiveIntegerField(default=0)
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        db_table = "annotation_prompt"
        constraints = [models.UniqueConstraint(fields=["project", "content_sha256"], name="prompt_once")]
        indexes = [
            models.Index(fields=["project", "times_sampled", "id"], condition=Q(active=True), name="prompt_to_sample")
        ]

    def __str__(self) -> str:
        return str(self.messages[-1]["content"])[:80] if self.messages else str(self.id)


class Response(models.Model):
    """One answer to a prompt, with where it came from."""

    class Source(models.TextChoices):
        POLICY = "policy", _("sampled from a policy")
        IMPORTED = "imported", _("imported")
        REWRITE = "rewrite", _("written by an annotator")

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    prompt = models.ForeignKey(Prompt, on_delete=models.CASCADE, related_name="responses")
    text = models.TextField(blank=True)
    source = models.CharField(max_length=16, choices=Source.choices)
    # Most rows have no policy, or no writer: their index is of the rows that do.
    policy = models.ForeignKey(
        PolicyVersion, null=True, blank=True, on_delete=models.PROTECT, related_name="responses", db_index=False
    )
    model_name = models.CharField(max_length=200, blank=True, help_text=_("as the import named it"))
    sampling = models.JSONField(default=dict, blank=True)
    seed = models.BigIntegerField(null=True, blank=True)
    token_count = models.PositiveIntegerField(null=True, blank=True)
    finish_reason = models.CharField(max_length=32, blank=True)
    written_by = models.ForeignKey(
        settings.AUTH_USER_MODEL, null=True, blank=True, on_delete=models.SET_NULL, related_name="+", db_index=False
    )
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        db_table = "annotation_response"
        constraints = [
            models.CheckConstraint(
                condition=~Q(source="policy") | Q(policy__isnull=False, seed__isnull=False),
                name="response_from_policy_has_origin",
            )
        ]
        indexes = [
            models.Index(fields=["policy"], condition=Q(policy__isnull=False), name="response_of_policy"),
            models.Index(fields=["written_by"], condition=Q(written_by__isnull=False), name="response_of_writer"),
        ]

    def __str__(self) -> str:
        return self.text[:80]


class Task(models.Model):
    """A prompt and 2 to 9 responses to judge, and how many more judgments it takes."""

    class Kind(models.TextChoices):
        NORMAL = "normal", _("normal")
        GOLD = "gold", _("gold")
        QUALIFICATION = "qualification", _("qualification")
        REPEAT = "repeat", _("repeat")
        GATE = "gate", _("old against new")

    class State(models.TextChoices):
        ACTIVE = "active", _("active")
        ARCHIVED = "archived", _("archived")
        RETIRED = "retired", _("retired")
        REPORTED = "reported", _("reported as broken")

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    project = models.ForeignKey(Project, on_delete=models.CASCADE, related_name="tasks", db_index=False)
    prompt = models.ForeignKey(Prompt, on_delete=models.CASCADE, related_name="tasks")
    responses: models.ManyToManyField[Response, "TaskResponse"] = models.ManyToManyField(
        Response, through="TaskResponse", related_name="tasks"
    )
    kind = models.CharField(max_length=16, choices=Kind.choices, default=Kind.NORMAL)
    state = models.CharField(max_length=16, choices=State.choices, default=State.ACTIVE)
    overlap = models.PositiveSmallIntegerField(null=True, blank=True, help_text=_("empty: no limit (gold)"))
    reserved = models.PositiveSmallIntegerField(default=0)
    counted = models.PositiveIntegerField(default=0)
    # Highest priority first, then by position; position is renewed whenever the task opens again or moves.
    open = models.BooleanField(default=True)
    priority = models.SmallIntegerField(default=0)
    position = models.BigIntegerField(db_default=NextPosition())
    addressed_to = models.ForeignKey(
        settings.AUTH_USER_MODEL, null=True, blank=True, on_delete=models.CASCADE, related_name="+", db_index=False
    )
    # The judgment that a repeat asks for once more, responses in the opposite order.
    repeat_of = models.OneToOneField(
        "annotation.Judgment", null=True, blank=True, on_delete=models.CASCADE, related_name="repeat"
    )
    language = models.CharField(
        max_length=16, blank=True, db_default="", help_text=_("of the prompt; empty: anybody's")
    )
    identity_sha256 = models.CharField(
        max_length=64, null=True, blank=True, db_collation="C", help_text=_("of an imported row")
    )
    round_id = models.UUIDField(null=True, blank=True, help_text=_("of the round whose gate asks for a blind task"))
    external_id = models.CharField(max_length=200, blank=True)
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        db_table = "annotation_task"
        constraints = [
            models.CheckConstraint(
                condition=Q(overlap__isnull=True) | Q(overlap__gte=F("reserved") + F("counted")),
                name="task_overlap_never_exceeded",
            ),
            models.CheckConstraint(condition=Q(open=False) | Q(state="active"), name="task_open_only_while_active"),
            models.UniqueConstraint(fields=["project", "identity_sha256"], name="task_imported_once"),
            models.UniqueConstraint(
                fields=["round_id", "prompt"], condition=Q(kind="gate"), name="task_blind_once_a_round_and_prompt"
            ),
            models.CheckConstraint(
                condition=Q(kind="gate", round_id__isnull=False) | ~Q(kind="gate") & Q(round_id__isnull=True),
                name="task_blind_belongs_to_a_round",
            ),
        ]
        indexes = [
            models.Index(fields=["project", "-priority", "position"], condition=Q(open=True), name="task_queue"),
            models.Index(fields=["project", "-position"], name="task_list"),
            models.Index(
                fields=["project", "kind"], condition=Q(kind__in=["gold", "qualification"]), name="task_with_answer"
            ),
            models.Index(fields=["addressed_to"], condition=Q(addressed_to__isnull=False), name="task_addressed"),
        ]

    def __str__(self) -> str:
        return str(self.id)


class TaskResponse(models.Model):
    """A response's place in a task: the canonical order that ranks and kappas are written in."""

    task = models.ForeignKey(Task, on_delete=models.CASCADE, related_name="task_responses", db_index=False)
    response = models.ForeignKey(Response, on_delete=models.CASCADE, related_name="task_responses", db_index=False)
    position = models.PositiveSmallIntegerField()

    class Meta:
        db_table = "annotation_task_response"
        ordering = ["position"]
        constraints = [
            models.UniqueConstraint(fields=["task", "position"], name="task_response_position_once"),
            models.UniqueConstraint(fields=["response", "task"], name="task_response_once"),
            models.CheckConstraint(condition=Q(position__lte=8), name="task_response_at_most_9"),
        ]

    def __str__(self) -> str:
        return f"{self.task_id}[{self.position}]"


class Assignment(models.Model):
    """One annotator's reservation of a task, and what exactly was shown."""

    class State(models.TextChoices):
        RESERVED = "reserved", _("reserved")
        EXPIRED = "expired", _("expired")
        SKIPPED = "skipped", _("skipped")
        REPORTED = "reported", _("reported")
        SUBMITTED = "submitted", _("submitted")

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    task = models.ForeignKey(Task, on_delete=models.CASCADE, related_name="assignments", db_index=False)
    annotator = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.PROTECT, related_name="assignments")
    state = models.CharField(max_length=16, choices=State.choices, default=State.RESERVED)
    created_at = models.DateTimeField(auto_now_add=True)
    expires_at = models.DateTimeField(null=True, blank=True)
    shown_order = ArrayField(
        models.PositiveSmallIntegerField(), help_text=_("canonical positions, in the order they were shown")
    )
    protocol = models.ForeignKey(ProtocolVersion, on_delete=models.PROTECT, related_name="+")
    guidelines = models.ForeignKey(GuidelinesVersion, null=True, on_delete=models.PROTECT, related_name="+")
    draft = models.JSONField(null=True, blank=True)
    draft_saved_at = models.DateTimeField(null=True, blank=True)
    active_seconds = models.FloatField(default=0, help_text=_("bounded by the server from heartbeats"))
    last_seen_at = models.DateTimeField(null=True, blank=True)
    reason = models.CharField(max_length=300, blank=True, help_text=_("why skipped or reported"))

    class Meta:
        db_table = "annotation_assignment"
        constraints = [models.UniqueConstraint(fields=["task", "annotator"], name="assignment_once_an_annotator")]
        indexes = [
            models.Index(fields=["expires_at"], condition=Q(state="reserved"), name="assignment_to_expire"),
            models.Index(fields=["annotator", "created_at"], condition=Q(state="reserved"), name="assignment_held"),
        ]

    def __str__(self) -> str:
        return f"{self.annotator_id} on {self.task_id}: {self.state}"


class Judgment(models.Model):
    """A stored verdict; edits keep what was there before in JudgmentRevision, voiding keeps the row."""

    class Origin(models.TextChoices):
        HUMAN = "human", _("human")
        SIMULATED = "simulated", _("simulated")
        IMPORTED = "imported", _("imported")

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    assignment = models.OneToOneField(Assignment, on_delete=models.PROTECT, related_name="judgment")
    project = models.ForeignKey(Project, on_delete=models.CASCADE, related_name="judgments", db_index=False)
    task = models.ForeignKey(Task, on_delete=models.CASCADE, related_name="judgments")
    annotator = models.ForeignKey(
        settings.AUTH_USER_MODEL, on_delete=models.PROTECT, related_name="judgments", db_index=False
    )
    origin = models.CharField(max_length=16, choices=Origin.choices, default=Origin.HUMAN)
    # By canonical position: 0 is the best tier, equal numbers tie, null is unranked. Empty: no ranking was asked.
    ranks = ArrayField(models.PositiveSmallIntegerField(null=True), default=list)
    all_bad = models.BooleanField(default=False)
    strength = models.PositiveSmallIntegerField(null=True, blank=True)
    ratings = models.JSONField(default=dict, blank=True, help_text=_("response id -> attribute -> number"))
    flags = models.JSONField(default=dict, blank=True, help_text=_("response id -> names"))
    rewrites = models.JSONField(default=dict, blank=True, help_text=_("response id -> text"))
    rationale = models.TextField(blank=True)
    lead_time = models.FloatField(null=True, blank=True, help_text=_("seconds, as the page measured them"))
    active_seconds = models.FloatField(null=True, blank=True)
    surplus = models.BooleanField(default=False, help_text=_("came when no place was free: kept, never counted"))
    revision = models.PositiveIntegerField(default=1)
    body_sha256 = models.CharField(max_length=64, blank=True, help_text=_("of the first submit: answers a repeat"))
    created_at = models.DateTimeField(auto_now_add=True)
    updated_at = models.DateTimeField(auto_now=True)
    voided_at = models.DateTimeField(null=True, blank=True)
    voided_by = models.ForeignKey(
        settings.AUTH_USER_MODEL, null=True, blank=True, on_delete=models.SET_NULL, related_name="+", db_index=False
    )
    void_reason = models.CharField(max_length=300, blank=True)

    class Meta:
        db_table = "annotation_judgment"
        indexes = [
            models.Index(fields=["project", "created_at", "id"], name="judgment_by_project"),
            models.Index(fields=["annotator", "project", "-created_at"], name="judgment_history"),
            models.Index(fields=["voided_by"], condition=Q(voided_by__isnull=False), name="judgment_voided_by"),
            models.Index(fields=["project", "voided_at"], condition=Q(voided_at__isnull=False), name="judgment_voided"),
        ]

    def __str__(self) -> str:
        return f"{self.annotator_id} on {self.task_id}"


class JudgmentRevision(models.Model):
    """What a judgment said before an edit."""

    judgment = models.ForeignKey(Judgment, on_delete=models.CASCADE, related_name="revisions")
    revision = models.PositiveIntegerField()
    verdict = models.JSONField()
    replaced_at = models.DateTimeField(auto_now_add=True)
    replaced_by = models.ForeignKey(settings.AUTH_USER_MODEL, null=True, on_delete=models.SET_NULL, related_name="+")

    class Meta:
        db_table = "annotation_judgment_revision"
        ordering = ["revision"]
        constraints = [models.UniqueConstraint(fields=["judgment", "revision"], name="judgment_revision_once")]

    def __str__(self) -> str:
        return f"{self.judgment_id} revision {self.revision}"


class AnnotatorPosition(models.Model):
    """How far an annotator has come in a project's queue at one priority: what makes the next task cheap to find."""

    project = models.ForeignKey(Project, on_delete=models.CASCADE, related_name="+")
    annotator = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.CASCADE, related_name="+")
    priority = models.SmallIntegerField()
    position = models.BigIntegerField(default=0)

    class Meta:
        db_table = "annotation_annotator_position"
        constraints = [
            models.UniqueConstraint(fields=["project", "annotator", "priority"], name="annotator_position_once")
        ]

    def __str__(self) -> str:
        return f"{self.annotator_id} at {self.position}"


class ExpiryTotal(models.Model):
    """How many reservations of a project have run out in all; a verdict that comes late does not lower it."""

    project = models.OneToOneField(Project, on_delete=models.CASCADE, primary_key=True, related_name="+")
    total = models.BigIntegerField(default=0)

    class Meta:
        db_table = "annotation_expiry_total"

    def __str__(self) -> str:
        return f"{self.project_id}: {self.total}"


class IdempotentAnswer(models.Model):
    """What was answered to a request with an Idempotency-Key, so that repeating it answers the same."""

    user = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.CASCADE, related_name="+")
    key = models.CharField(max_length=200)
    request_sha256 = models.CharField(max_length=64)
    status = models.PositiveSmallIntegerField()
    body = models.JSONField()
    created_at = models.DateTimeField(auto_now_add=True, db_index=True)

    class Meta:
        db_table = "annotation_idempotent_answer"
        constraints = [models.UniqueConstraint(fields=["user", "key"], name="idempotency_key_once")]

    def __str__(self) -> str:
        return self.key


class SampleJob(Job):
    """A request to sample responses from the live policy and make tasks of them; the row is the queue."""

    project = models.ForeignKey(Project, on_delete=models.CASCADE, related_name="sample_jobs")
    prompts_wanted = models.PositiveIntegerField()
    responses_per_prompt = models.PositiveSmallIntegerField()
    automatic = models.BooleanField(default=False)
    tasks_made = models.PositiveIntegerField(default=0)
    prompts_given_up = models.PositiveIntegerField(default=0)

    class Meta(Job.Meta):
        db_table = "annotation_sample_job"
        constraints = [
            models.UniqueConstraint(
                fields=["project"],
                condition=Q(automatic=True, state__in=["queued", "running"]),
                name="sample_job_one_automatic_at_a_time",
            )
        ]

    def __str__(self) -> str:
        return f"{self.project}: {self.tasks_made}/{self.prompts_wanted} {self.state}"


class GoldAnswer(models.Model):
    """The verdict that a gold or qualification task is checked against; none of it ever reaches an annotator's page."""

    task = models.OneToOneField(Task, on_delete=models.CASCADE, related_name="gold_answer")
    ranks = ArrayField(models.PositiveSmallIntegerField(null=True), default=list)
    ratings = models.JSONField(default=dict, blank=True, help_text=_("response id -> attribute -> number"))
    tolerance = models.PositiveSmallIntegerField(default=1, help_text=_("steps that a rating may be off"))
    explanation = models.TextField(blank=True)
    created_by = models.ForeignKey(settings.AUTH_USER_MODEL, null=True, on_delete=models.SET_NULL, related_name="+")
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        db_table = "annotation_gold_answer"

    def __str__(self) -> str:
        return f"gold answer of {self.task_id}"


class Check(models.Model):
    """How a judgment on a gold, qualification or repeated task compares with what was expected of it."""

    judgment = models.OneToOneField(Judgment, on_delete=models.CASCADE, related_name="check_result")
    project = models.ForeignKey(Project, on_delete=models.CASCADE, related_name="+")
    annotator = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.CASCADE, related_name="+")
    kind = models.CharField(max_length=16, choices=Task.Kind.choices)
    score = models.FloatField(help_text=_("share of what was expected that the judgment says, 0 to 1"))
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        db_table = "annotation_check"
        constraints = [
            models.CheckConstraint(condition=Q(score__gte=0, score__lte=1), name="check_score_is_a_share"),
        ]
        indexes = [models.Index(fields=["project", "annotator", "kind", "-created_at"], name="check_newest")]

    def __str__(self) -> str:
        return f"{self.kind} {self.score:.2f}"


class Review(models.Model):
    """What a reviewer said of a judgment, once; a judgment sent back and edited waits for its reviewer again."""

    class Outcome(models.TextChoices):
        ACCEPTED = "accepted", _("accepted")
        OVERRULED = "overruled", _("overruled")
        SENT_BACK = "sent_back", _("sent back")
        REVISED = "revised", _("revised since it was sent back")

    judgment = models.OneToOneField(Judgment, on_delete=models.CASCADE, related_name="review")
    reviewer = models.ForeignKey(settings.AUTH_USER_MODEL, null=True, on_delete=models.SET_NULL, related_name="+")
    outcome = models.CharField(max_length=16, choices=Outcome.choices)
    comment = models.TextField(blank=True)
    created_at = models.DateTimeField(auto_now_add=True)
    updated_at = models.DateTimeField(auto_now=True)

    class Meta:
        db_table = "annotation_review"

    def __str__(self) -> str:
        return f"{self.judgment_id}: {self.outcome}"


class Adjudication(models.Model):
    """A reviewer's own verdict on a task, which stands above its judgments where an export asks for it."""

    task = models.OneToOneField(Task, on_delete=models.CASCADE, related_name="adjudication")
    ranks = ArrayField(models.PositiveSmallIntegerField(null=True), default=list)
    all_bad = models.BooleanField(default=False)
    strength = models.PositiveSmallIntegerField(null=True, blank=True)
    ratings = models.JSONField(default=dict, blank=True)
    flags = models.JSONField(default=dict, blank=True)
    rationale = models.TextField(blank=True)
    adjudicated_by = models.ForeignKey(settings.AUTH_USER_MODEL, null=True, on_delete=models.SET_NULL, related_name="+")
    created_at = models.DateTimeField(auto_now_add=True)
    updated_at = models.DateTimeField(auto_now=True)

    class Meta:
        db_table = "annotation_adjudication"

    def __str__(self) -> str:
        return f"adjudication of {self.task_id}"
