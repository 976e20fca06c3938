"""What happens to a verdict on a task whose answer is known: scored unseen, and acted on by the project's rules."""

from collections.abc import Mapping, Sequence
from statistics import fmean, median
from typing import Any
from uuid import UUID

from django.core.exceptions import ValidationError
from django.db import transaction
from django.utils.translation import gettext as _

from feedback_app.accounts.models import User
from feedback_app.accounts.services import record_audit
from feedback_app.annotation.comparisons import gold_agreement, pair_agreement, rating_agreement
from feedback_app.annotation.models import Check, GoldAnswer, Judgment, NextPosition, Task, TaskResponse
from feedback_app.annotation.verdicts import parse_verdict
from feedback_app.notifications.models import Notification
from feedback_app.notifications.services import announce
from feedback_app.projects.models import Member, Project
from feedback_app.projects.protocols import parse_protocol
from feedback_app.projects.services import set_paused, set_qualified

CHECKED_KINDS = (Task.Kind.GOLD, Task.Kind.QUALIFICATION, Task.Kind.REPEAT)


def record_check(*, judgment_id: UUID) -> Check | None:
    """Score a judgment on a gold, qualification or repeated task and apply the project's rules; the caller locks it.

    None where nothing can be compared (a repeat that ranks none of the same pairs).
    """
    judgment = Judgment.objects.select_related(
        "task__gold_answer", "task__repeat_of", "project", "annotator"
    ).get(pk=judgment_id)  # fmt: skip
    score = _score(judgment)
    if score is None:
        return None
    check = Check.objects.create(
        judgment=judgment, project=judgment.project, annotator=judgment.annotator, kind=judgment.task.kind, score=score
    )
    if not _may_act(judgment):
        return check
    member = Member.objects.select_for_update().filter(project=judgment.project, user=judgment.annotator).first()
    if member is not None and member.role == Member.Role.ANNOTATOR:
        if judgment.task.kind == Task.Kind.QUALIFICATION:
            _qualify(judgment.project, member)
        else:
            pause_by_rule(project=judgment.project, member=member)
    return check


def _may_act(judgment: Judgment) -> bool:
    """Say whether any rule could follow; where none can, a checked submit takes hardly longer than any other."""
    project = judgment.project
    if judgment.task.kind == Task.Kind.QUALIFICATION:
        return project.qualification_pass is not None
    bounds = (project.pause_gold_below, project.pause_consistency_below, project.pause_seconds_below)
    return any(bound is not None for bound in bounds)


def _score(judgment: Judgment) -> float | None:
    if judgment.task.kind == Task.Kind.REPEAT:
        before = judgment.task.repeat_of
        return None if before is None else pair_agreement(judgment.ranks, before.ranks)
    answer: GoldAnswer | None = getattr(judgment.task, "gold_answer", None)  # joined already
    if answer is None:
        return None
    ranked = gold_agreement(judgment.ranks, answer.ranks)
    rated = rating_agreement(judgment.ratings, answer.ratings, answer.tolerance)
    known = [share for share in (ranked, rated) if share is not None]
    return fmean(known) if known else None


def _qualify(project: Project, member: Member) -> None:
    """Decide a qualification once every task of it is judged: open the queue, or pause with the score."""
    if project.qualification_pass is None or member.qualified_at is not None:
        return
    scores = dict(
        Check.objects.filter(project=project, annotator=member.user, kind=Task.Kind.QUALIFICATION).values_list(
            "judgment__task_id", "score"
        )
    )
    wanted = set(
        Task.objects.filter(
            project=project, kind=Task.Kind.QUALIFICATION, state=Task.State.ACTIVE
        ).values_list("pk", flat=True)
    )  # fmt: skip
    if not wanted <= set(scores):
        return
    score = fmean(scores.values())
    passed = score >= project.qualification_pass
    set_qualified(member=member, score=score, passed=passed)
    if not passed:
        reason = _("Qualification: %(score)d %% reached, %(needed)d %% needed. Your manager can open it again.")
        _pause(member, reason % {"score": round(100 * score), "needed": round(100 * project.qualification_pass)})


def pause_by_rule(*, project: Project, member: Member) -> str:
    """Pause a member whose newest judgments break a rule of the project; return the reason, empty where none is broken.

    Each rule looks at the newest `pause_after` judgments of its kind and says nothing before there are so many.
    """
    if member.paused_at is not None:
        return member.pause_reason
    reason = (
        _share_rule(project, member, Task.Kind.GOLD, project.pause_gold_below, _("tasks with a known answer"))
        or _share_rule(
            project, member, Task.Kind.REPEAT, project.pause_consistency_below, _("tasks that you judged before")
        )
        or _speed_rule(project, member)
    )
    if reason:
        _pause(member, reason)
    return reason


def _share_rule(project: Project, member: Member, kind: str, least: float | None, what: str) -> str:
    if least is None:
        return ""
    newest = Check.objects.filter(project=project, annotator=member.user, kind=kind).order_by("-created_at", "-pk")
    scores = list(newest.values_list("score", flat=True)[: project.pause_after])
    if len(scores) < project.pause_after or fmean(scores) >= least:
        return ""
    words = _("Agreement of %(share)d %% on the last %(n)d %(what)s; %(least)d %% is needed.")
    return words % {"share": round(100 * fmean(scores)), "n": len(scores), "what": what, "least": round(100 * least)}


def _speed_rule(project: Project, member: Member) -> str:
    if project.pause_seconds_below is None:
        return ""
    newest = Judgment.objects.filter(
        project=project, annotator=member.user, active_seconds__isnull=False
    ).order_by("-created_at")  # fmt: skip
    seconds = [s for s in newest.values_list("active_seconds", flat=True)[: project.pause_after] if s is not None]
    if len(seconds) < project.pause_after or median(seconds) >= project.pause_seconds_below:
        return ""
    words = _("Half of the last %(n)d judgments took under %(seconds).1f s; %(least).1f s is the least.")
    return words % {"n": len(seconds), "seconds": median(seconds), "least": project.pause_seconds_below}


def _pause(member: Member, reason: str) -> None:
    set_paused(member=member, paused=True, reason=reason[:300])
    record_audit(
        actor=None, action="member.pause", subject=member.user.username, project_slug=member.project.slug,
        detail={"reason": reason},
    )  # fmt: skip
    announce(
        project=member.project, kind=Notification.Kind.ANNOTATOR_PAUSED, key=f"{member.pk}:{member.paused_at}",
        values={"name": member.user.username, "why": reason}, path="settings/people/",
    )  # fmt: skip


def ask_third_judgment(*, task_id: UUID) -> bool:
    """Open a task of two judgments for a third where the two disagree; say whether. The caller locks the task."""
    ranks = list(
        Judgment.objects.filter(task_id=task_id, surplus=False, voided_at=None).values_list("ranks", flat=True)
    )
    if len(ranks) != 2 or pair_agreement(*ranks) in (None, 1.0):
        return False
    Task.objects.filter(pk=task_id, state=Task.State.ACTIVE).update(overlap=3, open=True, position=NextPosition())
    return True


@transaction.atomic
def make_gold(
    *, task: Task, verdict: Mapping[str, Any], kind: Task.Kind, made_by: User | None, explanation: str = "",
    tolerance: int = 1,
) -> Task:  # fmt: skip
    """Make a gold or qualification task of a task's prompt and responses, checked against a verdict on it.

    The original leaves the queue, so that nobody meets both; who holds it may still finish it.

    Raises:
        ValidationError: the kind holds no answers, or the verdict ranks and rates nothing.
        VerdictInvalid: names the fields that the project's protocol does not take.
    """
    if kind not in (Task.Kind.GOLD, Task.Kind.QUALIFICATION):
        raise ValidationError({"kind": [_("gold or qualification")]})
    project = Project.objects.select_related("protocol").get(pk=task.project_id)
    assert project.protocol is not None  # every project is made with one
    places = list(task.task_responses.order_by("position"))
    read = parse_verdict(
        verdict, protocol=parse_protocol(project.protocol.spec), responses=[str(place.response_id) for place in places]
    )
    if not read.ratings and gold_agreement(read.ranks, read.ranks) is None:
        raise ValidationError({"verdict": [_("ranks or rates nothing: there would be nothing to check")]})
    made = _copy(task, places, kind)
    GoldAnswer.objects.create(
        task=made, ranks=read.ranks, ratings=read.ratings, tolerance=tolerance, explanation=explanation,
        created_by=made_by,
    )  # fmt: skip
    Task.objects.filter(pk=task.pk, state=Task.State.ACTIVE).update(state=Task.State.ARCHIVED, open=False)
    record_audit(actor=made_by, action=f"task.{kind}", subject=str(made.pk), project_slug=project.slug)
    return made


def _copy(task: Task, places: Sequence[TaskResponse], kind: Task.Kind) -> Task:
    made = Task.objects.create(
        project_id=task.project_id, prompt_id=task.prompt_id, kind=kind, overlap=None, open=False,
        language=task.language,
    )  # fmt: skip
    TaskResponse.objects.bulk_create(
        TaskResponse(task=made, response_id=place.response_id, position=place.position) for place in places
    )
    return made
