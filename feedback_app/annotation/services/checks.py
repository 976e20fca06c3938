"""What happens to a verdict on a task whose answer is known: scored unseen, and acted on by the project's rules."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
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
from feedback_app.annotation.verdicts import Verdict, parse_verdict
from feedback_app.notifications.models import Notification
from feedback_app.notifications.services import announce
from feedback_app.prepared import fetch_prepared
from feedback_app.projects.models import Member, Project
from feedback_app.projects.protocols import parse_protocol
from feedback_app.projects.services import set_paused, set_qualified


@dataclass(frozen=True)
class Expected:
    """What a verdict is checked against: a gold answer, or what its author said before; without ranks, nothing."""

    ranks: list[int | None] | None
    ratings: dict[str, dict[str, int]] | None
    tolerance: int | None

    def score(self, kind: str, verdict: Verdict) -> float | None:
        """Return the share of what is expected that a verdict says; None where nothing can be compared."""
        if self.ranks is None:
            return None
        if kind == Task.Kind.REPEAT:
            return pair_agreement(verdict.ranks, self.ranks)
        ranked = gold_agreement(verdict.ranks, self.ranks)
        rated = rating_agreement(verdict.ratings, self.ratings or {}, self.tolerance or 0)
        known = [share for share in (ranked, rated) if share is not None]
        return fmean(known) if known else None


def act_on_check(*, project_id: int, annotator: User, kind: str | None, pauses: bool) -> None:
    """Apply the project's rules after a verdict; kind is of the task that was checked, None for any other.

    Where there are rules of pausing, the newest work is read after every verdict and acted on after a checked one
    alone: both take as long.
    """
    if kind == Task.Kind.QUALIFICATION:
        _qualify(project_id, annotator)
    elif pauses:
        pause_by_rule(project_id=project_id, annotator=annotator, checked=kind is not None)


def _lock_member(project_id: int, annotator: User) -> Member | None:
    members = Member.objects.select_related("project", "user").select_for_update(of=("self",))
    return members.filter(project=project_id, user=annotator, role=Member.Role.ANNOTATOR).first()


def _qualify(project_id: int, annotator: User) -> None:
    """Decide a qualification once every task of it is judged: open the queue, or pause with the score."""
    member = _lock_member(project_id, annotator)
    if member is None or member.qualified_at is not None:
        return
    project, needed = member.project, member.project.qualification_pass
    if needed is None:
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
    passed = score >= needed
    set_qualified(member=member, score=score, passed=passed)
    if not passed:
        reason = _("Qualification: %(score)d %% reached, %(needed)d %% needed. Your manager can open it again.")
        _pause(member, reason % {"score": round(100 * score), "needed": round(100 * needed)})


def pause_by_rule(*, project_id: int, annotator: User, checked: bool = True) -> None:
    """Pause an annotator whose newest judgments break a rule of the project; read alone where nothing was checked.

    Each rule looks at the newest `pause_after` judgments of its kind and says nothing before there are so many. Of two
    verdicts at the same moment neither may see the other's check; the next one sees both.
    """
    row = fetch_prepared(_NEWEST, {"project": project_id, "annotator": annotator.pk})
    if row is None or not checked:
        return
    after, gold_least, gold, consistency_least, repeats, seconds_least, seconds = row
    reason = (
        _share_rule(after, gold_least, gold, _("tasks with a known answer"))
        or _share_rule(after, consistency_least, repeats, _("tasks that you judged before"))
        or _speed_rule(after, seconds_least, seconds)
    )
    if reason and (member := _lock_member(project_id, annotator)) and member.paused_at is None:
        _pause(member, reason)


_SCORES = """ARRAY(
        SELECT c.score FROM annotation_check c
        WHERE c.project_id = p.id AND c.annotator_id = m.user_id AND c.kind = '{kind}'
        ORDER BY c.created_at DESC, c.id DESC LIMIT p.pause_after)"""
_NEWEST = f"""
SELECT p.pause_after, p.pause_gold_below, {_SCORES.format(kind="gold")},
    p.pause_consistency_below, {_SCORES.format(kind="repeat")},
    p.pause_seconds_below, ARRAY(
        SELECT j.active_seconds FROM annotation_judgment j
        WHERE j.project_id = p.id AND j.annotator_id = m.user_id AND j.active_seconds IS NOT NULL
        ORDER BY j.created_at DESC LIMIT p.pause_after)
FROM projects_project p JOIN projects_member m ON m.project_id = p.id
WHERE p.id = %(project)s AND m.user_id = %(annotator)s AND m.role = 'annotator' AND m.paused_at IS NULL
"""


def _share_rule(after: int, least: float | None, scores: Sequence[float], what: str) -> str:
    if least is None or len(scores) < after or fmean(scores) >= least:
        return ""
    words = _("Agreement of %(share)d %% on the last %(n)d %(what)s; %(least)d %% is needed.")
    return words % {"share": round(100 * fmean(scores)), "n": len(scores), "what": what, "least": round(100 * least)}


def _speed_rule(after: int, least: float | None, seconds: Sequence[float]) -> str:
    if least is None or len(seconds) < after or median(seconds) >= least:
        return ""
    words = _("Half of the last %(n)d judgments took under %(seconds).1f s; %(least).1f s is the least.")
    return words % {"n": len(seconds), "seconds": median(seconds), "least": least}


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
