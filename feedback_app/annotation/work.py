"""What an annotator's own pages show: what waits for them, what they did today, and every judgment of theirs."""

from collections.abc import Collection
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from typing import Any
from uuid import UUID

from django.db import connection
from django.db.models import Count, Q, QuerySet, Sum
from django.utils import timezone

from feedback_app.accounts.models import User
from feedback_app.annotation.models import Assignment, Judgment, Review
from feedback_app.annotation.services.judging import judgment_as_json, response_ids
from feedback_app.projects.models import GuidelinesVersion, Project

# Nobody plans by the exact number beyond this, and counting stops here whatever the size of the queue.
WAITING_AT_MOST = 100


@dataclass(frozen=True, kw_only=True)
class Work:
    """One person's work in one project: today's judgments and active time, what waits, was begun, was sent back."""

    judged: int = 0
    active_seconds: float = 0.0
    waiting: int = 0
    begun: bool = False
    sent_back: int = 0


def work_by_project(*, user: User, projects: Collection[Project]) -> dict[int, Work]:
    """Return the user's work by project id, in a number of queries that does not grow with the projects."""
    ids = [project.pk for project in projects]
    waiting = _waiting(user, ids)
    begun = set(
        Assignment.objects.filter(
            annotator=user, state=Assignment.State.RESERVED, expires_at__gt=timezone.now(), task__project__in=ids
        ).values_list("task__project_id", flat=True)
    )
    own = Judgment.objects.filter(annotator=user, project__in=ids)
    today = {
        row["project_id"]: row
        for row in own.filter(created_at__gte=start_of_day())
        .values("project_id")
        .annotate(judged=Count("id"), active=Sum("active_seconds"))
    }
    sent_back = dict(
        own.filter(review__outcome=Review.Outcome.SENT_BACK, voided_at=None)
        .values_list("project_id")
        .annotate(number=Count("id"))
    )
    return {
        pk: Work(
            judged=today.get(pk, {}).get("judged", 0),
            active_seconds=today.get(pk, {}).get("active") or 0.0,
            waiting=waiting.get(pk, 0),
            begun=pk in begun,
            sent_back=sent_back.get(pk, 0),
        )
        for pk in ids
    }


def start_of_day(day: date | None = None) -> datetime:
    """Return midnight of a day, today's if none is given, where the reader is."""
    midnight = datetime.combine(day or timezone.localdate(), time.min)
    return timezone.make_aware(midnight, timezone.get_current_timezone())


def judged_today(*, user: User, project: Project) -> int:
    """Return how many judgments the user has submitted in the project since midnight."""
    return Judgment.objects.filter(annotator=user, project=project, created_at__gte=start_of_day()).count()


def _waiting(user: User, projects: list[int]) -> dict[int, int]:
    with connection.cursor() as cursor:
        cursor.execute(_WAITING, {"annotator": user.pk, "projects": projects, "most": WAITING_AT_MOST})
        return dict(cursor.fetchall())


# From where the queue has come for this annotator, as next_task does, so that much work done costs nothing here.
# Gold and repeats come unseen among the others and are counted for nobody.
_WAITING = """
SELECT p.id, (
    SELECT count(*) FROM (
        SELECT FROM annotation_task t
        WHERE t.project_id = p.id AND t.open AND t.kind NOT IN ('gold', 'qualification', 'repeat')
          AND (t.addressed_to_id IS NULL OR t.addressed_to_id = %(annotator)s)
          AND (t.language = '' OR m.languages IS NULL OR m.languages = '{}' OR t.language = ANY(m.languages))
          AND t.position > coalesce((
              SELECT seen.position FROM annotation_annotator_position seen
              WHERE seen.project_id = p.id AND seen.annotator_id = %(annotator)s AND seen.priority = t.priority
          ), 0)
          AND (SELECT true FROM annotation_assignment a
               WHERE a.task_id = t.id AND a.annotator_id = %(annotator)s) IS NOT TRUE
        LIMIT %(most)s
    ) AS found
)
FROM unnest(%(projects)s::bigint[]) AS p (id)
LEFT JOIN projects_member m ON m.project_id = p.id AND m.user_id = %(annotator)s
"""


def sent_back_to(*, user: User, project: Project) -> int:
    """Return how many judgments of the user's a reviewer has sent back and they have not revised yet."""
    return Judgment.objects.filter(
        annotator=user, project=project, review__outcome=Review.Outcome.SENT_BACK, voided_at=None
    ).count()


def history_of(*, user: User, project: Project, day: date | None = None) -> QuerySet[Judgment]:
    """Return the user's judgments in a project, newest first; of one day where one is given."""
    found = Judgment.objects.filter(annotator=user, project=project)
    if day is not None:
        found = found.filter(created_at__gte=start_of_day(day), created_at__lt=start_of_day(day + timedelta(days=1)))
    return found.select_related("task__prompt", "assignment", "review").order_by("-created_at", "-id")


def unread_guidelines(*, user: User, project: Project) -> bool:
    """Return whether the project's newest guidelines say something that the user has not read yet."""
    newest = newest_guidelines(slug=project.slug, user=user)
    return newest is not None and not newest["read"]


def newest_guidelines(*, slug: str, user: User) -> dict[str, Any] | None:
    """Return the id and number of a project's newest guidelines and whether the user has read them; None: no words."""
    newest = (
        GuidelinesVersion.objects.filter(pk__in=Project.objects.filter(slug=slug).values("guidelines"))
        .exclude(text="", translations={})
        .annotate(times_read=Count("readings", filter=Q(readings__user=user)))
        .values("id", "number", "times_read")
        .first()
    )
    return newest and {"id": str(newest["id"]), "number": newest["number"], "read": newest["times_read"] > 0}


def judgment_to_revise(*, user: User, project: Project, judgment_id: UUID) -> dict[str, Any] | None:
    """Return a judgment of the user's with its task as it was shown, or None where they have no such judgment."""
    judgment = (
        Judgment.objects.select_related("assignment__protocol", "task__prompt", "review")
        .filter(pk=judgment_id, annotator=user, project=project)
        .first()
    )
    if judgment is None:
        return None
    ids = response_ids(judgment.task_id)
    texts = {str(pk): text for pk, text in judgment.task.responses.values_list("id", "text")}
    assignment = judgment.assignment
    review = getattr(judgment, "review", None)
    return {
        "id": str(judgment.task_id),
        "assignment": {"id": str(assignment.pk), "expires_at": None},
        "prompt": {"messages": judgment.task.prompt.messages},
        "responses": [{"id": ids[place], "text": texts[ids[place]]} for place in assignment.shown_order],
        "protocol": assignment.protocol.spec,
        "draft": assignment.draft,
        "judgment": judgment_as_json(judgment=judgment, responses=ids),
        "voided": judgment.void_reason if judgment.voided_at else None,
        "sent_back": review.comment if review and review.outcome == Review.Outcome.SENT_BACK else None,
    }
