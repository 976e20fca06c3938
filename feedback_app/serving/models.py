"""Endpoints, the policy versions they serve, and the pointer that says which one is live for a project."""

import uuid

from django.conf import settings
from django.contrib.postgres.fields import ArrayField
from django.db import models
from django.db.models.functions import Now
from django.utils.translation import gettext_lazy as _

from feedback_app.projects.models import Project


class Endpoint(models.Model):
    """A server that answers prompts; the backend says how a version is staged there and read back."""

    class Backend(models.TextChoices):
        EMBEDDED = "embedded", _("embedded inference server")
        TGI = "tgi", _("text-generation-inference, blue and green")
        VLLM = "vllm", _("vLLM")
        EXTERNAL = "external", _("deployed by others")

    name = models.CharField(max_length=63, unique=True)
    backend = models.CharField(max_length=16, choices=Backend.choices)
    url = models.URLField(max_length=300)
    settings = models.JSONField(default=dict, blank=True)
    # Largest difference of a token's log-probability between trainer and endpoint that counts as the same policy.
    canary_tolerance = models.FloatField(default=0.25)
    calibration = models.JSONField(
        default=dict, blank=True, help_text=_("what the tolerance was set by; empty: it serves nothing to measure yet")
    )
    # How it was when it was last looked at, and what it has answered in all.
    looked_at = models.DateTimeField(null=True, blank=True)
    trouble = models.TextField(blank=True, help_text=_("empty: it answered"))
    requests_total = models.BigIntegerField(default=0)
    errors_total = models.BigIntegerField(default=0)
    tokens_total = models.BigIntegerField(default=0)
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        db_table = "serving_endpoint"
        ordering = ["name"]

    def __str__(self) -> str:
        return self.name


class PolicyVersion(models.Model):
    """One immutable set of weights, with its parents and what made it."""

    class Source(models.TextChoices):
        BASE = "base", _("base model")
        ROUND = "round", _("training round")
        REGISTERED = "registered", _("made elsewhere")

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    project = models.ForeignKey(Project, on_delete=models.CASCADE, related_name="policy_versions")
    number = models.PositiveIntegerField()
    name = models.CharField(max_length=80, unique=True, help_text=_("what the endpoint knows it by; never reused"))
    source = models.CharField(max_length=16, choices=Source.choices)
    parent = models.ForeignKey("self", null=True, blank=True, on_delete=models.PROTECT, related_name="children")
    also_from = models.ManyToManyField(
        "self", symmetrical=False, blank=True, related_name="also_children",
        help_text=_("further parents, as of a merge"),
    )  # fmt: skip
    directory = models.CharField(max_length=500)
    manifest_sha256 = models.CharField(max_length=64, blank=True)
    round_id = models.UUIDField(null=True, blank=True, unique=True)
    evaluation = models.JSONField(default=dict, blank=True)
    note = models.TextField(blank=True)
    pinned = models.BooleanField(default=False, help_text=_("its weights stay whatever the rule of keeping says"))
    tainted_at = models.DateTimeField(
        null=True, blank=True, help_text=_("when something was erased of what it, or what it came of, learned from")
    )
    taint_reason = models.CharField(max_length=300, blank=True)
    withheld = models.CharField(
        max_length=300, blank=True, help_text=_("why it may not go live: the round that made it has not let it through")
    )
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        db_table = "serving_policy_version"
        ordering = ["-number"]
        constraints = [models.UniqueConstraint(fields=["project", "number"], name="policy_number_once")]

    def __str__(self) -> str:
        return self.name


class Deployment(models.Model):
    """A project's own pointer to what is live; flipping it is what going live means."""

    project = models.OneToOneField(Project, on_delete=models.CASCADE, primary_key=True, related_name="deployment")
    endpoint = models.ForeignKey(Endpoint, on_delete=models.PROTECT, related_name="deployments")
    live = models.ForeignKey(PolicyVersion, on_delete=models.PROTECT, related_name="+")
    previous = models.ForeignKey(PolicyVersion, null=True, blank=True, on_delete=models.PROTECT, related_name="+")
    flipped_at = models.DateTimeField()

    class Meta:
        db_table = "serving_deployment"

    def __str__(self) -> str:
        return f"{self.project}: {self.live}"


class Push(models.Model):
    """One attempt to make a version live, step by step, kept whether it succeeded or not."""

    class State(models.TextChoices):
        RUNNING = "running", _("running")
        LIVE = "live", _("went live")
        FAILED = "failed", _("failed")

    class Kind(models.TextChoices):
        PUSH = "push", _("push")
        ROLLBACK = "rollback", _("rollback")

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    project = models.ForeignKey(Project, on_delete=models.CASCADE, related_name="pushes")
    policy = models.ForeignKey(PolicyVersion, on_delete=models.CASCADE, related_name="pushes")
    kind = models.CharField(max_length=16, choices=Kind.choices, default=Kind.PUSH)
    state = models.CharField(max_length=16, choices=State.choices, default=State.RUNNING)
    steps = models.JSONField(default=list)
    canary_delta = models.FloatField(
        null=True, blank=True,
        help_text=_("largest difference from the trainer's log-probabilities; empty: none was measured"),
    )  # fmt: skip
    error = models.TextField(blank=True)
    requested_by = models.ForeignKey(settings.AUTH_USER_MODEL, null=True, on_delete=models.SET_NULL, related_name="+")
    created_at = models.DateTimeField(auto_now_add=True)
    lease_until = models.DateTimeField(null=True, blank=True)
    finished_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        db_table = "serving_push"
        ordering = ["-created_at"]
        constraints = [
            models.UniqueConstraint(
                fields=["project"], condition=models.Q(state="running"), name="push_one_running_a_project"
            )
        ]

    def __str__(self) -> str:
        return f"{self.kind} {self.policy}: {self.state}"


class Observation(models.Model):
    """What a version answered to some requests made one after another, counted; kept for as long as it is compared."""

    class Source(models.TextChoices):
        SAMPLING = "sampling", _("sampling")
        PROBE = "probe", _("probe")

    policy = models.ForeignKey(PolicyVersion, on_delete=models.CASCADE, related_name="observations")
    source = models.CharField(max_length=16, choices=Source.choices)
    at = models.DateTimeField(db_default=Now(), db_index=True)
    requests = models.PositiveIntegerField()
    errors = models.PositiveIntegerField(default=0)
    empty = models.PositiveIntegerField(default=0)
    seconds = ArrayField(models.FloatField(), default=list, help_text=_("of each answer that came"))
    said = models.TextField(blank=True, help_text=_("the first error"))

    class Meta:
        db_table = "serving_observation"
        indexes = [models.Index(fields=["policy", "source", "-at"], name="observation_of_policy")]

    def __str__(self) -> str:
        return f"{self.policy} {self.source}: {self.errors} of {self.requests} failed"


class Soak(models.Model):
    """The time after a push in which the version is watched beside the one before it, and taken back if it does worse.

    rules: SoakRules as it was when the version went live. figures: what was compared last.
    """

    class State(models.TextChoices):
        WATCHING = "watching", _("watched")
        PASSED = "passed", _("held")
        ROLLED_BACK = "rolled_back", _("rolled back by itself")
        ENDED = "ended", _("ended by another push or rollback")

    class Cause(models.TextChoices):
        ERRORS = "errors", _("errors")
        EMPTY = "empty", _("empty answers")
        LATENCY = "latency", _("slow answers")

    push = models.OneToOneField(Push, on_delete=models.CASCADE, primary_key=True, related_name="soak")
    project = models.ForeignKey(Project, on_delete=models.CASCADE, related_name="soaks")
    policy = models.ForeignKey(PolicyVersion, on_delete=models.CASCADE, related_name="soaks")
    previous = models.ForeignKey(PolicyVersion, on_delete=models.CASCADE, related_name="+")
    rollback = models.OneToOneField(
        Push, null=True, blank=True, on_delete=models.SET_NULL, related_name="ended_soak"
    )  # fmt: skip
    rules = models.JSONField()
    state = models.CharField(max_length=16, choices=State.choices, default=State.WATCHING)
    cause = models.CharField(max_length=16, choices=Cause.choices, blank=True)
    figures = models.JSONField(default=dict)
    trouble = models.TextField(blank=True, help_text=_("why it could not be taken back, when that was tried last"))
    away = models.PositiveSmallIntegerField(default=0, help_text=_("ticks in a row without any answer"))
    started_at = models.DateTimeField()
    until = models.DateTimeField()
    next_at = models.DateTimeField(help_text=_("when it is looked at next; a look under way has set it later"))
    ended_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        db_table = "serving_soak"
        ordering = ["-started_at"]
        constraints = [
            models.UniqueConstraint(
                fields=["project"], condition=models.Q(state="watching"), name="soak_one_watching_a_project"
            )
        ]

    def __str__(self) -> str:
        return f"{self.policy}: {self.state}"
