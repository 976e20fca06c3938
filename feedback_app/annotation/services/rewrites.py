"""A rewrite is a response of its own: of the same prompt, with who wrote it and what it is a rewrite of."""

from collections.abc import Collection
from uuid import UUID

from feedback_app.accounts.models import User
from feedback_app.annotation.models import Judgment, Response
from feedback_app.projects.models import Project


def keep_rewrites(*, judgment_id: UUID) -> None:
    """Store what a judgment rewrites as responses; what an earlier revision wrote goes, unless a task shows it.

    The caller holds the judgment.
    """
    judgment = Judgment.objects.select_related("task").get(pk=judgment_id)
    prompt = judgment.task.prompt_id
    origin = {"judgment": str(judgment.pk)}
    there = Response.objects.filter(prompt_id=prompt, source=Response.Source.REWRITE, sampling__contains=origin)
    known = {(response.sampling["rewrite_of"], response.text): response for response in there}
    said = set(judgment.rewrites.items())
    Response.objects.bulk_create(
        Response(
            prompt_id=prompt, text=text, source=Response.Source.REWRITE, written_by_id=judgment.annotator_id,
            sampling=origin | {"rewrite_of": of},
        )
        for of, text in sorted(said - set(known))
    )  # fmt: skip
    gone = [response.pk for what, response in known.items() if what not in said]
    Response.objects.filter(pk__in=gone, task_responses=None).delete()


def erase_rewrites(*, project: Project, writers: Collection[User]) -> None:
    """Delete what people wrote as responses; one that a task shows is emptied, for others have judged beside it."""
    theirs = Response.objects.filter(
        prompt__project=project, source=Response.Source.REWRITE, written_by__in=writers
    )  # fmt: skip
    shown = list(theirs.exclude(task_responses=None).values_list("pk", flat=True))
    theirs.exclude(pk__in=shown).delete()
    Response.objects.filter(pk__in=shown).update(text="", written_by=None, sampling={})
