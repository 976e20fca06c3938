"""A task shown to the same annotator once more, responses swapped: what consistency and position bias are read from."""

from datetime import timedelta

from django.utils import timezone

from feedback_app.accounts.models import User
from feedback_app.annotation.models import Judgment, Task, TaskResponse

# Long enough ago to be judged again and not remembered.
OLD_ENOUGH = timedelta(minutes=10)
NEWEST_LEFT_OUT = 10
CHOSEN_FROM = 50


def make_repeat(*, project_id: int, annotator: User) -> Task | None:
    """Make a repeat of one of the annotator's judgments, addressed to them; None where none is old enough.

    The caller holds the annotator's advisory lock. A repeat that was made before and never picked is returned first.
    """
    waiting = Task.objects.filter(
        project_id=project_id, kind=Task.Kind.REPEAT, addressed_to=annotator, state=Task.State.ACTIVE,
        assignments=None,
    ).first()  # fmt: skip
    if waiting is not None:
        return waiting
    judged = _repeatable(project_id, annotator)
    if judged is None:
        return None
    original = judged.task
    repeat = Task.objects.create(
        project_id=project_id, prompt_id=original.prompt_id, kind=Task.Kind.REPEAT, overlap=1, open=False,
        addressed_to=annotator, repeat_of=judged, language=original.language,
    )  # fmt: skip
    TaskResponse.objects.bulk_create(
        TaskResponse(task=repeat, response_id=place.response_id, position=place.position)
        for place in original.task_responses.all()
    )
    return repeat


def _repeatable(project_id: int, annotator: User) -> Judgment | None:
    mine = Judgment.objects.filter(project_id=project_id, annotator=annotator).order_by("-created_at")
    newest = list(mine.values_list("pk", flat=True)[:NEWEST_LEFT_OUT])
    candidates = (
        mine.filter(
            task__kind=Task.Kind.NORMAL, voided_at=None, repeat=None, created_at__lt=timezone.now() - OLD_ENOUGH
        )
        .exclude(pk__in=newest)
        .select_related("task")[:CHOSEN_FROM]
    )
    # The oldest of the newest fifty: far enough away, and still of the same working day.
    return list(candidates)[-1] if candidates else None
