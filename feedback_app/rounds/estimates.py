"""How much a round by a recipe would take: counted from the model and the data, timed by what ran here before."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from itertools import combinations
from math import ceil
from typing import Any

from django.db.models import Func, IntegerField, Max, Q, QuerySet, TextField
from django.db.models.functions import Cast
from django.utils.translation import gettext as _

from feedback_app.annotation.models import Judgment, Prompt, Response
from feedback_app.projects.models import Project
from feedback_app.rounds.footprint import Cost, Data, ModelShape, costs_of, read_shape
from feedback_app.rounds.models import Round, RoundStep, Trial
from feedback_app.rounds.recipes import Recipe, RecipeError, parse_recipe
from feedback_app.rounds.selectors import usable_judgments
from feedback_app.serving.selectors import deployment_of
from feedback_app.serving.services import ensure_base_policy

# Counting goes over so many rows at most, and is taken to hold for the rest.
SAMPLE = 5_000
# UTF-8 bytes a token, as few as are usual in English and Chinese alike.
BYTES_A_TOKEN = 3
TIMED = (RoundStep.Name.SFT, RoundStep.Name.REWARD, RoundStep.Name.PPO, RoundStep.Name.EVALUATE)


@dataclass(frozen=True, kw_only=True)
class Pace:
    """How fast a trainer ran here: operations a second, and seconds of loading and saving beside its steps.

    source: the number of a round, 0 is the newest try.
    """

    operations_per_s: float
    overhead_s: float
    source: int
    at: datetime


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A round's costs by trainer; seconds are None for a trainer that has never been timed. shape: None is unknown."""

    shape: ModelShape | None
    data: Data
    costs: list[Cost] = field(default_factory=list)
    seconds: dict[str, float | None] = field(default_factory=dict)
    paces: dict[str, Pace] = field(default_factory=dict)

    @property
    def memory(self) -> float:
        """Return the peak, in bytes: the trainers run one after another."""
        return max((cost.memory for cost in self.costs), default=0.0)

    @property
    def disk(self) -> float:
        """Return the bytes that a round leaves on disk before its checkpoints are cleared away."""
        return sum(cost.disk for cost in self.costs)

    @property
    def total_s(self) -> float | None:
        """Return the seconds of all trainers, None where one has never been timed."""
        known = [seconds for seconds in self.seconds.values() if seconds is not None]
        return sum(known) if known and len(known) == len(self.seconds) else None

    @property
    def sources(self) -> list[str]:
        """Return where the seconds come from, in words."""
        found = {pace.source for pace in self.paces.values()}
        tried = [_("Times are as the newest try took them.")] if 0 in found else []
        rounds = sorted(found - {0})
        return tried + [_("Times are as round %(number)d took them.") % {"number": number} for number in rounds]

    def rows(self) -> list[tuple[Cost, float | None]]:
        """Return each trainer's cost and seconds."""
        return [(cost, self.seconds[cost.key]) for cost in self.costs]


def estimate_round(*, project: Project, recipe: Recipe, on_gpu: bool = False) -> Estimate:
    """Return what a round of the project by the recipe would take."""
    shape, data = shape_of(project=project, recipe=recipe), data_of(project=project, recipe=recipe)
    if shape is None:
        return Estimate(shape=None, data=data)
    costs = costs_of(recipe, shape, data, on_gpu=on_gpu)
    paces = paces_of(project=project, shape=shape)
    seconds: dict[str, float | None] = {}
    for cost in costs:
        pace = paces.get(cost.stage)
        seconds[cost.key] = (
            None if pace is None else cost.steps * cost.operations / pace.operations_per_s + pace.overhead_s
        )
    return Estimate(shape=shape, data=data, costs=costs, seconds=seconds, paces=paces)


def shape_of(*, project: Project, recipe: Recipe) -> ModelShape | None:
    """Return the shape of the model that the recipe starts from, None where its weights are not on this machine."""
    deployment = deployment_of(project=project)
    live = deployment.live if deployment is not None and recipe.start_from == "parent" else None
    return read_shape((live or ensure_base_policy(project=project)).directory)


def data_of(*, project: Project, recipe: Recipe) -> Data:
    """Return what there is to learn from now, as nearly as a look at some of it tells."""
    active = Prompt.objects.filter(project=project, split=Prompt.Split.TRAIN, active=True)
    answers = Response.objects.filter(prompt__project=project)
    return Data(
        prompts=active.count(),
        prompt_tokens=_longest(active.annotate(size=_bytes(Cast("messages", TextField())))[:SAMPLE]),
        pairs=_count_pairs(project, recipe.judgments),
        answer_tokens=_longest(answers.annotate(size=_bytes("text"))[:SAMPLE]),
        rewrites=Judgment.objects.filter(project=project, voided_at=None).exclude(rewrites={}).count(),
    )


def _bytes(text: Any) -> Func:
    return Func(text, function="OCTET_LENGTH", output_field=IntegerField())


def _longest(sized: QuerySet[Any]) -> int:
    return ceil((sized.aggregate(longest=Max("size"))["longest"] or 0) / BYTES_A_TOKEN)


def _count_pairs(project: Project, options: Mapping[str, Any]) -> int:
    """Return about how many pairs the export step would find on the train side; ties and filters are not looked at."""
    judgments = usable_judgments(project=project, simulated=options.get("simulated", "exclude"))
    newest = judgments.order_by("-created_at").values_list("task_id", "ranks", "task__prompt__split")[:SAMPLE]
    some = [(task, ranks) for task, ranks, split in newest if split == Prompt.Split.TRAIN]
    if not newest:
        return 0
    per_judgment = options.get("combine", "per_judgment") == "per_judgment"
    seen = some if per_judgment else list(dict(some).items())
    pairs = sum(_pairs_in(ranks, options.get("pairs", "all")) for _task, ranks in seen)
    return round(pairs * judgments.count() / len(newest))


def _pairs_in(ranks: list[int | None], which: str) -> int:
    placed = [rank for rank in ranks if rank is not None]
    if which == "all":
        return sum(one != other for one, other in combinations(placed, 2))
    return max(0, len(set(placed)) - 1) if which == "adjacent" else int(len(set(placed)) > 1)


def paces_of(*, project: Project, shape: ModelShape) -> dict[str, Pace]:
    """Return how fast each trainer ran when it ran last: in a try, or in a round that went through."""
    found: dict[str, Pace] = {}
    for stage, pace in [*_tried(project), *_ran(project, shape)]:
        if stage not in found or found[stage].at < pace.at:
            found[stage] = pace
    return found


def _tried(project: Project) -> list[tuple[str, Pace]]:
    trial = Trial.objects.filter(project=project, state=Trial.State.DONE).first()
    if trial is None or trial.finished_at is None:
        return []
    return [
        (
            row["stage"],
            Pace(
                operations_per_s=row["operations"] / row["seconds"], overhead_s=row["overhead"], source=0,
                at=trial.finished_at,
            ),
        )
        for row in trial.results
        if row["seconds"]
    ]  # fmt: skip


def _ran(project: Project, shape: ModelShape) -> list[tuple[str, Pace]]:
    done = Round.objects.filter(project=project, state=Round.State.SUCCEEDED).order_by("-number").first()
    if done is None or done.finished_at is None:
        return []
    try:
        recipe = parse_recipe(done.config, by_operator=True)
    except RecipeError:  # by rules of today it could not be run again: it times nothing
        return []
    costs = costs_of(recipe, shape, data_of(project=project, recipe=recipe), on_gpu=False)
    found = []
    for step in RoundStep.objects.filter(Q(name__in=TIMED), round=done, finished_at__isnull=False).defer("progress"):
        made = sum(cost.steps * cost.operations for cost in costs if cost.stage == step.name)
        if made and step.started_at is not None and step.finished_at is not None:
            took = (step.finished_at - step.started_at).total_seconds()
            pace = Pace(
                operations_per_s=made / max(took, 0.001), overhead_s=0.0, source=done.number,
                at=done.finished_at,
            )  # fmt: skip
            found.append((str(step.name), pace))
    return found
