"""Reads of prompts and tasks for those who look after them: lists, one task whole, what is left to sample."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from django.db.models import Count, F, Min, Q, QuerySet, TextField
from django.db.models.functions import Cast
from django.utils.translation import get_language

from feedback_app.annotation.models import Assignment, Judgment, Prompt, Response, SampleJob, Task
from feedback_app.projects.models import Project
from feedback_app.projects.protocols import parse_protocol

# What a list may be narrowed to by how far its tasks are judged.
JUDGED: Mapping[str, Q] = {
    "none": Q(counted=0),
    "some": Q(counted__gt=0, counted__lt=F("overlap")),
    "all": Q(overlap__isnull=False, counted__gte=F("overlap")),
}


@dataclass(frozen=True, kw_only=True)
class TaskFilter:
    """Which tasks to list; what is empty narrows nothing."""

    state: str = ""
    kind: str = ""
    judged: str = ""
    policy: str = ""
    split: str = ""
    priority: int | None = None
    words: str = ""

    def narrow(self, tasks: QuerySet[Task]) -> QuerySet[Task]:
        """Return the tasks for which every condition holds."""
        plain = {"state": self.state, "kind": self.kind, "prompt__split": self.split}
        tasks = tasks.filter(**{name: value for name, value in plain.items() if value})
        if self.judged:
            tasks = tasks.filter(JUDGED[self.judged])
        if self.priority is not None:
            tasks = tasks.filter(priority=self.priority)
        if self.policy:
            places = Response.objects.filter(policy__name=self.policy).values("task_responses__task")
            tasks = tasks.filter(pk__in=places)
        if self.words:
            # Every word somewhere in the conversation; whole characters, so that Chinese is found as well.
            tasks = tasks.annotate(said=Cast("prompt__messages", TextField()))
            for word in self.words.split():
                tasks = tasks.filter(said__icontains=word)
        return tasks


def tasks_of(*, project: Project, chosen: TaskFilter) -> QuerySet[Task]:
    """Return a project's tasks, newest in the queue first."""
    return chosen.narrow(Task.objects.filter(project=project)).order_by("-position")


def with_prompts(*, tasks: Sequence[Task]) -> QuerySet[Task]:
    """Return the tasks of a page with their prompts: joined before, those of every page passed over were read too."""
    return Task.objects.filter(pk__in=[task.pk for task in tasks]).select_related("prompt").order_by("-position")


def responses_in_order(*, task: Task) -> list[Response]:
    """Return a task's responses in canonical order, with the policies that gave them."""
    places = task.task_responses.select_related("response__policy").order_by("position")
    return [place.response for place in places]


def judgments_behind(*, task: Task) -> QuerySet[Judgment]:
    """Return every judgment of a task, void and surplus ones too, oldest first."""
    related = ("annotator", "voided_by", "assignment__protocol", "assignment__guidelines")
    return Judgment.objects.filter(task=task).select_related(*related).order_by("created_at")


def others_on(*, task: Task) -> QuerySet[Assignment]:
    """Return the assignments of a task that led to no judgment: held now, skipped, reported or expired."""
    return Assignment.objects.filter(task=task, judgment=None).select_related("annotator").order_by("created_at")


def task_counts(*, project: Project) -> dict[str, int]:
    """Return how many tasks stand where in the queue."""
    active = Q(state=Task.State.ACTIVE)
    return Task.objects.filter(project=project).aggregate(
        open=Count("pk", filter=Q(open=True)),
        held=Count("pk", filter=active & Q(reserved__gt=0)),
        judged=Count("pk", filter=Q(overlap__isnull=False, counted__gte=F("overlap"))),
        off=Count("pk", filter=~active),
        reported=Count("pk", filter=Q(state=Task.State.REPORTED)),
    )


def prompt_counts(*, project: Project) -> dict[str, int]:
    """Return how many prompts there are to sample, how many never were, and how often every one was at least."""
    prompts = Prompt.objects.filter(project=project, active=True)
    counts = prompts.aggregate(
        active=Count("pk"), fresh=Count("pk", filter=Q(times_sampled=0)), least=Min("times_sampled")
    )
    return {name: value or 0 for name, value in counts.items()}


def newest_sampling(*, project: Project) -> SampleJob | None:
    """Return the newest request for samples, to say how it goes."""
    return SampleJob.objects.filter(project=project).select_related("requested_by").first()


def policy_names(*, project: Project) -> list[str]:
    """Return the names of the project's policy versions, newest first."""
    return list(project.policy_versions.order_by("-number").values_list("name", flat=True))


def verdict_lines(judgment: Judgment, responses: list[Response], letters: Mapping[Any, str]) -> dict[str, Any]:
    """Return a verdict as a person reads it: tiers of letters, and by letter scores, flags and rewrites.

    letters: what each response's id is called on the page. Scores and flags are called as in the reader's language.
    """
    tiers: dict[int, list[str]] = {}
    unranked = []
    for rank, response in zip(judgment.ranks, responses, strict=False):
        if rank is None:
            unranked.append(letters[str(response.pk)])
        else:
            tiers.setdefault(rank, []).append(letters[str(response.pk)])

    def lettered(values: dict[str, Any]) -> list[tuple[str, Any]]:
        return sorted((letters[key], value) for key, value in values.items() if key in letters)

    protocol, language = parse_protocol(judgment.assignment.protocol.spec), get_language()
    scored = {part.key: protocol.label_of(part, language) for part in protocol.attributes}
    flagged = {flag.name: protocol.label_of(flag, language) for flag in protocol.flags}
    ratings = {
        key: {scored.get(name, name): score for name, score in scores.items()}
        for key, scores in judgment.ratings.items()
    }
    flags = {key: [flagged.get(name, name) for name in names] for key, names in judgment.flags.items()}
    shown = [letters[str(responses[place].pk)] for place in judgment.assignment.shown_order if place < len(responses)]
    return {
        "judgment": judgment,
        "tiers": [tiers[rank] for rank in sorted(tiers)],
        "unranked": unranked,
        "shown": shown,
        "ratings": lettered(ratings),
        "flags": lettered(flags),
        "rewrites": lettered(judgment.rewrites),
    }
