"""Recipes, and the training rounds that run by them; a round's row is its own queue."""

import uuid
from typing import Any

from django.conf import settings
from django.db import models
from django.db.models import Q
from django.utils.translation import gettext_lazy as _

from feedback_app.datasets.models import DatasetVersion
from feedback_app.leases import Job
from feedback_app.projects.models import Project
from feedback_app.serving.models import PolicyVersion


class Recipe(models.Model):
    """How a project's rounds are made; never changed, only followed by the next number."""

    project = models.ForeignKey(Project, on_delete=models.CASCADE, related_name="recipes")
    number = models.PositiveIntegerField()
    config = models.JSONField()
    created_by = models.ForeignKey(settings.AUTH_USER_MODEL, null=True, on_delete=models.SET_NULL, related_name="+")
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        db_table = "rounds_recipe"
        ordering = ["-number"]
        constraints = [models.UniqueConstraint(fields=["project", "number"], name="recipe_number_once")]

    def __str__(self) -> str:
        return f"{self.project} recipe {self.number}"


class Round(models.Model):
    """One turn of the loop: judgments in, a policy version out."""

    class State(models.TextChoices):
        QUEUED = "queued", _("queued")
        RUNNING = "running", _("running")
        PAUSED = "paused", _("paused")
        WAITING_FOR_JUDGMENTS = "waiting_for_judgments", _("waiting for judgments")
        WAITING_FOR_APPROVAL = "waiting_for_approval", _("waiting for approval")
        SUCCEEDED = "succeeded", _("succeeded")
        REJECTED = "rejected", _("rejected")
        FAILED = "failed", _("failed")
        CANCELLED = "cancelled", _("cancelled")

    ACTIVE = [
        State.QUEUED,
        State.RUNNING,
        State.PAUSED,
        State.WAITING_FOR_JUDGMENTS,
        State.WAITING_FOR_APPROVAL,
    ]

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    project = models.ForeignKey(Project, on_delete=models.CASCADE, related_name="rounds")
    number = models.PositiveIntegerField()
    recipe = models.ForeignKey(Recipe, null=True, on_delete=models.PROTECT, related_name="rounds")
    config = models.JSONField(help_text=_("the recipe as frozen at the start"))
    elsewhere = models.JSONField(
        default=dict, blank=True, help_text=_("where a policy made elsewhere is taken from; empty: it trains one")
    )
    parent = models.ForeignKey(PolicyVersion, null=True, on_delete=models.PROTECT, related_name="rounds_from")
    dataset = models.ForeignKey(DatasetVersion, null=True, blank=True, on_delete=models.PROTECT, related_name="rounds")
    policy = models.ForeignKey(PolicyVersion, null=True, blank=True, on_delete=models.PROTECT, related_name="made_by")
    needs = models.JSONField(default=dict, blank=True, help_text=_("what a host must have to take it"))
    state = models.CharField(max_length=24, choices=State.choices, default=State.QUEUED)
    fence = models.PositiveIntegerField(default=0, help_text=_("only the holder of the newest writes"))
    lease_owner = models.CharField(max_length=200, blank=True)
    lease_until = models.DateTimeField(null=True, blank=True)
    cancel_requested = models.BooleanField(default=False)
    pause_requested = models.BooleanField(default=False)
    gate = models.JSONField(default=dict, blank=True)
    error = models.TextField(blank=True)
    why = models.JSONField(default=dict, blank=True, help_text=_("what the error was made of, for any language"))
    simulated = models.BooleanField(default=False, help_text=_("trains on simulated judgments too"))
    created_by = models.ForeignKey(settings.AUTH_USER_MODEL, null=True, on_delete=models.SET_NULL, related_name="+")
    created_at = models.DateTimeField(auto_now_add=True)
    started_at = models.DateTimeField(null=True, blank=True)
    finished_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        db_table = "rounds_round"
        ordering = ["-number"]
        constraints = [
            models.UniqueConstraint(fields=["project", "number"], name="round_number_once"),
            models.UniqueConstraint(
                fields=["project"],
                condition=Q(state__in=["queued", "running", "paused", "waiting_for_judgments", "waiting_for_approval"]),
                name="round_one_active_a_project",
            ),
        ]

    def __str__(self) -> str:
        return f"{self.project} round {self.number}"


class RoundStep(models.Model):
    """One step of a round, with what its trainer reported while it ran."""

    class Name(models.TextChoices):
        ADOPT = "adopt", _("taking in")
        EXPORT = "export", _("export")
        SFT = "sft", _("supervised fine-tuning")
        REWARD = "reward", _("reward model")
        PPO = "ppo", _("PPO")
        EVALUATE = "evaluate", _("evaluation")
        GATE = "gate", _("gate")
        PUSH = "push", _("push")

    class State(models.TextChoices):
        PENDING = "pending", _("pending")
        RUNNING = "running", _("running")
        DONE = "done", _("done")
        FAILED = "failed", _("failed")

    round = models.ForeignKey(Round, on_delete=models.CASCADE, related_name="steps")
    name = models.CharField(max_length=16, choices=Name.choices)
    position = models.PositiveSmallIntegerField()
    state = models.CharField(max_length=16, choices=State.choices, default=State.PENDING)
    attempt = models.PositiveIntegerField(default=0)
    first_fence = models.PositiveIntegerField(default=1, help_text=_("what older fences left is not taken up again"))
    directory = models.CharField(max_length=500, blank=True, help_text=_("below DATA_DIR; holds the manifest"))
    progress = models.JSONField(default=list, help_text=_("lines of progress.jsonl, as copied"))
    metrics = models.JSONField(default=dict)
    usage = models.JSONField(default=dict, help_text=_("what the trainer took of its machine when last looked at"))
    started_at = models.DateTimeField(null=True, blank=True)
    finished_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        db_table = "rounds_round_step"
        ordering = ["position"]
        constraints = [models.UniqueConstraint(fields=["round", "name"], name="round_step_once")]

    def __str__(self) -> str:
        return f"{self.round} {self.name}: {self.state}"


class Schedule(models.Model):
    """When a round starts by itself."""

    class Kind(models.TextChoices):
        JUDGMENTS = "judgments", _("every N judgments")
        INTERVAL = "interval", _("every interval")
        CRON = "cron", _("by the calendar")

    project = models.ForeignKey(Project, on_delete=models.CASCADE, related_name="schedules")
    kind = models.CharField(max_length=16, choices=Kind.choices)
    every = models.PositiveIntegerField(null=True, blank=True, help_text=_("judgments, or seconds"))
    cron = models.CharField(max_length=100, blank=True)
    minimum_judgments = models.PositiveIntegerField(default=1)
    enabled = models.BooleanField(default=True)
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        db_table = "rounds_schedule"

    def __str__(self) -> str:
        return f"{self.project}: {self.kind} {self.every or self.cron}"


class ScheduleSlot(models.Model):
    """A start that was due; unique, so that two beats start one round."""

    schedule = models.ForeignKey(Schedule, on_delete=models.CASCADE, related_name="slots")
    slot = models.CharField(max_length=64)
    round = models.ForeignKey(Round, null=True, on_delete=models.SET_NULL, related_name="+")
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        db_table = "rounds_schedule_slot"
        constraints = [models.UniqueConstraint(fields=["schedule", "slot"], name="schedule_slot_once")]

    def __str__(self) -> str:
        return self.slot


class Simulation(Job):
    """Judgments that simulated annotators are asked for; the row is the queue."""

    project = models.ForeignKey(Project, on_delete=models.CASCADE, related_name="simulations")
    annotators = models.PositiveSmallIntegerField()
    judgments = models.PositiveIntegerField(help_text=_("wanted in all"))
    preference = models.CharField(max_length=40, help_text=_("one of ours; code is for the command line alone"))
    noise = models.FloatField()
    judged = models.PositiveIntegerField(default=0)

    class Meta(Job.Meta):
        db_table = "rounds_simulation"
        constraints = [
            models.UniqueConstraint(
                fields=["project"],
                condition=Q(state__in=["queued", "running"]),
                name="simulation_one_active_a_project",
            )
        ]

    def __str__(self) -> str:
        return f"{self.project}: {self.judged} of {self.judgments} {self.preference}"


class Host(models.Model):
    """A machine that trains, as its worker says it is; sizes in bytes."""

    name = models.CharField(max_length=200, unique=True)
    torch = models.CharField(max_length=40, blank=True, help_text=_("its version, empty where it is not installed"))
    devices = models.JSONField(default=list, help_text=_("GPUs, as torch finds them"))
    cpus = models.PositiveIntegerField()
    memory = models.BigIntegerField()
    disk_free = models.BigIntegerField()
    load = models.JSONField(default=dict)
    started_at = models.DateTimeField()
    seen_at = models.DateTimeField()
    gone_at = models.DateTimeField(null=True, blank=True, help_text=_("when it was found to be silent"))

    class Meta:
        db_table = "rounds_host"
        ordering = ["name"]

    def __str__(self) -> str:
        return self.name

    @property
    def gpus(self) -> list[dict[str, Any]]:
        """Return its GPUs that CUDA drives."""
        return [device for device in self.devices if device["kind"] == "cuda"]

    def memory_for(self, kind: str) -> int:
        """Return the bytes that a trainer has there: its largest GPU's, or the machine's where it computes itself."""
        if kind == "cpu" or not self.devices:
            return self.memory
        return max(int(device["memory"]) for device in self.devices)

    @property
    def devices_with_load(self) -> list[dict[str, Any]]:
        """Return its devices, each with what nvidia-smi says it is used for; None where that says nothing."""
        loads = {gpu["index"]: gpu for gpu in self.load.get("gpus", [])}
        none = {"used": None, "load": None}
        return [{**none, **loads.get(device["index"], {}), **device} for device in self.devices]


class Trial(Job):
    """Two steps of each trainer by a recipe that need not be saved, to know what a round would take; its own queue."""

    class State(models.TextChoices):
        QUEUED = "queued", _("queued")
        RUNNING = "running", _("running")
        DONE = "done", _("done")
        FAILED = "failed", _("failed")
        CANCELLED = "cancelled", _("cancelled")

    ACTIVE = [State.QUEUED, State.RUNNING]

    project = models.ForeignKey(Project, on_delete=models.CASCADE, related_name="trials")
    config = models.JSONField(help_text=_("the recipe as it was tried"))
    needs = models.JSONField(default=dict, blank=True, help_text=_("what a host must have to take it"))
    state = models.CharField(max_length=16, choices=State.choices, default=State.QUEUED)
    stage = models.CharField(max_length=16, blank=True, help_text=_("the trainer that runs"))
    results = models.JSONField(default=list, help_text=_("what each trainer took"))
    lease_owner = models.CharField(max_length=200, blank=True)
    cancel_requested = models.BooleanField(default=False)
    started_at = models.DateTimeField(null=True, blank=True)

    class Meta(Job.Meta):
        db_table = "rounds_trial"
        constraints = [
            models.UniqueConstraint(
                fields=["project"], condition=Q(state__in=["queued", "running"]), name="trial_one_active_a_project"
            )
        ]

    def __str__(self) -> str:
        return f"{self.project}: try {self.state}"

    @property
    def is_active(self) -> bool:
        """Say whether a worker has it or will have it."""
        return self.state in self.ACTIVE

    @property
    def used_gpu(self) -> bool:
        """Say whether any of its trainers took memory of a GPU."""
        return any(row.get("gpu_memory") for row in self.results)
