"""Reads for the data browser: examples by words and filters, in any script."""

from dataclasses import dataclass
from typing import Any

from django.db.models import Exists, Func, OuterRef, Q, QuerySet, TextField
from django.db.models.functions import Cast, Lower

from feedback_app.annotation.models import Judgment, Response, Task
from feedback_app.datasets.exporting.options import read_moment
from feedback_app.datasets.tokens import exact_runs, query_tokens
from feedback_app.projects.models import Project


class _Folded(Func):
    """A text as the index knows it: NFKC."""

    function = "normalize"
    template = "%(function)s(%(expressions)s, NFKC)"
    output_field = TextField()


@dataclass(frozen=True, kw_only=True)
class ExampleFilter:
    """Which examples to show; what is empty narrows nothing. Dates are ISO 8601, until is not included."""

    words: str = ""
    split: str = ""
    language: str = ""
    policy: str = ""
    annotator: str = ""
    flag: str = ""
    since: str = ""
    until: str = ""
    judged: bool = True


def search_examples(*, project: Project, chosen: ExampleFilter) -> QuerySet[Task]:
    """Return the tasks that hold every word of the search and pass the filters, newest first, with their prompts.

    A word of a script with spaces is found whole; of others any part is found, one character too. New tasks are found
    once services.index_examples has been there: beat calls it each minute, an import when it is done.

    Raises:
        OptionsError: since or until is no time.
    """
    tasks = Task.objects.filter(project=project).select_related("prompt").order_by("-created_at", "pk")
    plain = {"prompt__split": chosen.split, "prompt__language": chosen.language}
    tasks = tasks.filter(**{name: value for name, value in plain.items() if value})
    if chosen.policy:
        by_policy = Q(policy__name=chosen.policy) | Q(policy=None, model_name=chosen.policy)
        answers = Response.objects.filter(by_policy, task_responses__task=OuterRef("pk"))
        tasks = tasks.filter(Exists(answers))
    if judgments := _judgments(chosen):
        tasks = tasks.filter(Exists(Judgment.objects.filter(judgments, task=OuterRef("pk"))))
    elif chosen.judged:
        tasks = tasks.filter(counted__gt=0)
    return _with_words(tasks, chosen.words)


def _judgments(chosen: ExampleFilter) -> Q:
    """Return what a judgment of an example must be; nothing where nothing is asked of it."""
    wanted = Q()
    if chosen.annotator:
        imported = Q(annotator__display_name=chosen.annotator, origin=Judgment.Origin.IMPORTED)
        wanted &= Q(annotator__username=chosen.annotator) | imported
    if chosen.since:
        wanted &= Q(created_at__gte=read_moment("since", chosen.since))
    if chosen.until:
        wanted &= Q(created_at__lt=read_moment("until", chosen.until))
    if chosen.flag:
        # Flags are kept by response: {"id": ["name", ...]}.
        wanted &= Q(pk__in=_flagged(chosen.flag))
    return wanted & Q(voided_at=None) if wanted else wanted


def _flagged(flag: str) -> QuerySet[Judgment, dict[str, Any]]:
    path = "$.* ? (@ == $name)"
    return Judgment.objects.extra(  # the ORM has no JSON path
        where=["jsonb_path_exists(flags, %s::jsonpath, jsonb_build_object('name', %s::text))"], params=[path, flag]
    ).values("pk")


def _with_words(tasks: QuerySet[Task], words: str) -> QuerySet[Task]:
    tokens = query_tokens(words)
    if not tokens:
        return tasks.none() if words.strip() else tasks
    tasks = tasks.filter(search_index__tokens__contains=sorted(tokens))
    for run in exact_runs(words):
        answers = Response.objects.annotate(folded=Lower(_Folded("text")))
        tasks = tasks.annotate(said=Lower(_Folded(Cast("prompt__messages", TextField())))).filter(
            Q(said__contains=run) | Exists(answers.filter(task_responses__task=OuterRef("pk"), folded__contains=run))
        )
    return tasks
