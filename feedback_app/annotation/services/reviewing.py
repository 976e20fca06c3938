"""Review: a judgment is accepted, overruled by a verdict of the reviewer's own, or sent back with a comment."""

from collections.abc import Mapping
from typing import Any
from uuid import UUID

from django.core.exceptions import PermissionDenied, ValidationError
from django.db import transaction
from django.utils.translation import gettext as _

from feedback_app.accounts.models import User
from feedback_app.accounts.services import record_audit
from feedback_app.annotation.errors import NotAssigned, VerdictDiffers
from feedback_app.annotation.models import Adjudication, Judgment, Review
from feedback_app.annotation.services.judging import response_ids
from feedback_app.annotation.verdicts import Verdict, parse_verdict
from feedback_app.projects.protocols import parse_protocol

LONGEST_COMMENT = 4000


@transaction.atomic
def review_judgment(
    *,
    judgment_id: UUID,
    reviewer: User,
    outcome: str,
    comment: str = "",
    verdict: Mapping[str, Any] | None = None,
) -> Review:
    """Say what becomes of a judgment; a second review of it takes the first one's place. Locks the judgment.

    Overruling takes the reviewer's own verdict on the task, which becomes the task's adjudication.

    Raises:
        NotAssigned: there is no such judgment.
        PermissionDenied: it is the reviewer's own.
        VerdictDiffers: it was voided.
        ValidationError: the outcome is unknown, or what it needs is missing.
        VerdictInvalid: names the fields of the verdict that the protocol does not take.
    """
    judgment = _lock(judgment_id)
    if judgment.annotator_id == reviewer.pk:
        raise PermissionDenied(_("Nobody reviews a judgment of their own."))
    if judgment.voided_at is not None:
        raise VerdictDiffers({"judgment": [_("This judgment was voided.")]})
    _check(outcome, comment, verdict)
    if outcome == Review.Outcome.OVERRULED:
        assert verdict is not None  # _check has seen to it
        _adjudicate(judgment, reviewer, verdict, comment)
    review, _made = Review.objects.update_or_create(
        judgment=judgment, defaults={"reviewer": reviewer, "outcome": outcome, "comment": comment}
    )
    record_audit(
        actor=reviewer, action=f"judgment.{outcome}", subject=str(judgment.pk), project_slug=judgment.project.slug,
        detail={"comment": comment} if comment else {},
    )  # fmt: skip
    return review


def _lock(judgment_id: UUID) -> Judgment:
    found = (
        Judgment.objects.select_for_update(no_key=True, of=("self",))
        .select_related("assignment__protocol", "project")
        .filter(pk=judgment_id)
        .first()
    )
    if found is None:
        raise NotAssigned({"judgment": [_("No such judgment.")]})
    return found


def _check(outcome: str, comment: str, verdict: Mapping[str, Any] | None) -> None:
    asked = (Review.Outcome.ACCEPTED, Review.Outcome.OVERRULED, Review.Outcome.SENT_BACK)
    if outcome not in asked:
        raise ValidationError({"outcome": [_("one of %(names)s") % {"names": ", ".join(asked)}]})
    if len(comment) > LONGEST_COMMENT or "\0" in comment:
        raise ValidationError({"comment": [_("a text of at most %(most)d characters") % {"most": LONGEST_COMMENT}]})
    if outcome == Review.Outcome.SENT_BACK and not comment.strip():
        raise ValidationError({"comment": [_("is required: say what to look at again")]})
    if (outcome == Review.Outcome.OVERRULED) != (verdict is not None):
        raise ValidationError({"verdict": [_("is given with the outcome overruled, and only then")]})


def _adjudicate(judgment: Judgment, reviewer: User, body: Mapping[str, Any], comment: str) -> None:
    protocol = parse_protocol(judgment.assignment.protocol.spec)
    read = parse_verdict(body, protocol=protocol, responses=response_ids(judgment.task_id))
    Adjudication.objects.update_or_create(
        task_id=judgment.task_id, defaults=_content(read, comment) | {"adjudicated_by": reviewer}
    )


def _content(verdict: Verdict, comment: str) -> dict[str, Any]:
    return {
        "ranks": verdict.ranks, "all_bad": verdict.all_bad, "strength": verdict.strength, "ratings": verdict.ratings,
        "flags": verdict.flags, "rationale": verdict.rationale or comment,
    }  # fmt: skip
