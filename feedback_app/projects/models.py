"""Projects, who works in them, and the versioned protocol and guidelines that every judgment is pinned to."""

import uuid

from django.conf import settings
from django.contrib.postgres.fields import ArrayField
from django.core.validators import MaxValueValidator, MinValueValidator, RegexValidator
from django.db import models
from django.utils.translation import gettext_lazy as _

SLUG_PATTERN = r"^[a-z0-9][a-z0-9-]{0,62}$"
SHARE = [MinValueValidator(0.0), MaxValueValidator(1.0)]


class Project(models.Model):
    """One body of judging work, with the policy it makes better."""

    class OldTasks(models.TextChoices):
        RETIRE = "retire", _("retire them")
        LOWER = "lower", _("lower their priority")
        KEEP = "keep", _("keep them")

    slug = models.CharField(max_length=63, unique=True, validators=[RegexValidator(SLUG_PATTERN)])
    name = models.CharField(max_length=120)
    description = models.TextField(blank=True)
    language = models.CharField(max_length=16, default="en", help_text=_("of the prompts, as a BCP 47 tag"))
    overlap = models.PositiveSmallIntegerField(default=1, validators=[MinValueValidator(1), MaxValueValidator(100)])
    reservation_seconds = models.PositiveIntegerField(default=1800, validators=[MinValueValidator(30)])
    # Sampling: how responses to judge are drawn from the live policy.
    responses_per_prompt = models.PositiveSmallIntegerField(
        default=2, validators=[MinValueValidator(2), MaxValueValidator(9)]
    )
    temperature = models.FloatField(default=1.0, validators=[MinValueValidator(0.01), MaxValueValidator(5.0)])
    top_p = models.FloatField(default=1.0, validators=[MinValueValidator(0.01), MaxValueValidator(1.0)])
    max_new_tokens = models.PositiveIntegerField(default=96, validators=[MinValueValidator(1)])
    refill_per_annotator = models.PositiveIntegerField(
        default=0, help_text=_("open tasks kept ready for each active annotator; 0 samples only when asked")
    )
    old_tasks = models.CharField(max_length=8, choices=OldTasks.choices, default=OldTasks.RETIRE)
    # Distribution: some tasks get more judgments, and each annotator at most so many a day.
    extra_overlap = models.PositiveSmallIntegerField(
        null=True, blank=True, validators=[MinValueValidator(2), MaxValueValidator(100)],
        help_text=_("judgments of the share of tasks below; empty: all tasks get the same"),
    )  # fmt: skip
    extra_overlap_share = models.FloatField(default=0.0, validators=SHARE)
    third_on_disagreement = models.BooleanField(
        default=False, help_text=_("a task whose two judgments disagree gets a third")
    )
    daily_limit = models.PositiveIntegerField(
        null=True, blank=True, validators=[MinValueValidator(1)], help_text=_("judgments a day of one annotator")
    )
    # Trust: what is mixed into the queue unseen, and when it stops somebody.
    gold_share = models.FloatField(default=0.0, validators=SHARE, help_text=_("of tasks that are gold"))
    repeat_share = models.FloatField(default=0.0, validators=SHARE, help_text=_("of tasks shown again, swapped"))
    qualification_pass = models.FloatField(
        null=True, blank=True, validators=SHARE, help_text=_("score that opens the queue; empty: nobody is tested")
    )
    pause_gold_below = models.FloatField(null=True, blank=True, validators=SHARE)
    pause_consistency_below = models.FloatField(null=True, blank=True, validators=SHARE)
    pause_seconds_below = models.FloatField(null=True, blank=True, validators=[MinValueValidator(0.1)])
    pause_after = models.PositiveSmallIntegerField(
        default=10, validators=[MinValueValidator(3)], help_text=_("the newest so many that a pause is decided by")
    )
    protocol = models.ForeignKey("projects.ProtocolVersion", null=True, on_delete=models.PROTECT, related_name="+")
    guidelines = models.ForeignKey("projects.GuidelinesVersion", null=True, on_delete=models.PROTECT, related_name="+")
    created_at = models.DateTimeField(auto_now_add=True)
    archived_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        db_table = "projects_project"
        ordering = ["name"]
        constraints = [
            models.CheckConstraint(condition=models.Q(overlap__gte=1), name="project_overlap_positive"),
            models.CheckConstraint(
                condition=models.Q(responses_per_prompt__gte=2, responses_per_prompt__lte=9),
                name="project_responses_2_to_9",
            ),
        ]

    def __str__(self) -> str:
        return self.name


class Member(models.Model):
    """A user's role in a project; pausing keeps the person and the reason."""

    class Role(models.TextChoices):
        ANNOTATOR = "annotator", _("annotator")
        REVIEWER = "reviewer", _("reviewer")
        MANAGER = "manager", _("manager")

    project = models.ForeignKey(Project, on_delete=models.CASCADE, related_name="members")
    user = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.CASCADE, related_name="memberships")
    role = models.CharField(max_length=16, choices=Role.choices, default=Role.ANNOTATOR)
    joined_at = models.DateTimeField(auto_now_add=True)
    paused_at = models.DateTimeField(null=True, blank=True)
    pause_reason = models.CharField(max_length=300, blank=True)
    qualified_at = models.DateTimeField(null=True, blank=True)
    qualification_score = models.FloatField(null=True, blank=True)
    languages = ArrayField(
        models.CharField(max_length=16), default=list, blank=True, help_text=_("BCP 47 tags; empty: every language")
    )

    class Meta:
        db_table = "projects_member"
        constraints = [models.UniqueConstraint(fields=["project", "user"], name="member_once")]

    def __str__(self) -> str:
        return f"{self.user} ({self.role})"


class ProtocolVersion(models.Model):
    """What is asked of an annotator; never changed, only followed by the next number."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    project = models.ForeignKey(Project, on_delete=models.CASCADE, related_name="protocol_versions")
    number = models.PositiveIntegerField()
    spec = models.JSONField()
    created_by = models.ForeignKey(settings.AUTH_USER_MODEL, null=True, on_delete=models.SET_NULL, related_name="+")
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        db_table = "projects_protocol_version"
        ordering = ["-number"]
        constraints = [models.UniqueConstraint(fields=["project", "number"], name="protocol_number_once")]

    def __str__(self) -> str:
        return f"{self.project} protocol {self.number}"


class GuidelinesVersion(models.Model):
    """How to judge, in Markdown, by language; never changed, only followed by the next number."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    project = models.ForeignKey(Project, on_delete=models.CASCADE, related_name="guidelines_versions")
    number = models.PositiveIntegerField()
    text = models.TextField(blank=True)
    translations = models.JSONField(default=dict, blank=True)
    created_by = models.ForeignKey(settings.AUTH_USER_MODEL, null=True, on_delete=models.SET_NULL, related_name="+")
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        db_table = "projects_guidelines_version"
        ordering = ["-number"]
        constraints = [models.UniqueConstraint(fields=["project", "number"], name="guidelines_number_once")]

    def __str__(self) -> str:
        return f"{self.project} guidelines {self.number}"


class GuidelinesReading(models.Model):
    """That a user has read a version: until then the judging page shows it."""

    guidelines = models.ForeignKey(GuidelinesVersion, on_delete=models.CASCADE, related_name="readings")
    user = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.CASCADE, related_name="+")
    read_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        db_table = "projects_guidelines_reading"
        constraints = [models.UniqueConstraint(fields=["guidelines", "user"], name="guidelines_read_once")]

    def __str__(self) -> str:
        return f"{self.user} read {self.guidelines}"


class Invitation(models.Model):
    """A link that lets whoever has it join a project; its signature comes from its id, so it can be shown again."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    project = models.ForeignKey(Project, on_delete=models.CASCADE, related_name="invitations")
    role = models.CharField(max_length=16, choices=Member.Role.choices, default=Member.Role.ANNOTATOR)
    note = models.CharField(max_length=100, blank=True, help_text=_("whom it is for"))
    uses_left = models.PositiveIntegerField(null=True, blank=True, help_text=_("empty: as many as come"))
    times_used = models.PositiveIntegerField(default=0)
    expires_at = models.DateTimeField()
    revoked_at = models.DateTimeField(null=True, blank=True)
    created_by = models.ForeignKey(settings.AUTH_USER_MODEL, null=True, on_delete=models.SET_NULL, related_name="+")
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        db_table = "projects_invitation"
        ordering = ["-created_at"]

    def __str__(self) -> str:
        return f"{self.project} {self.role}: {self.note or self.pk}"
