"""Edits: a stored verdict changes only by adding a revision, and an unfinished one is kept with its assignment."""

from collections.abc import Mapping, Sequence
from typing import Any
from uuid import UUID

from django.core.exceptions import PermissionDenied
from django.db import transaction
from django.utils import timezone
from django.utils.translation import gettext as _

from feedback_app.accounts.models import User
from feedback_app.annotation.errors import NotAssigned, VerdictDiffers
from feedback_app.annotation.models import Assignment, Judgment, JudgmentRevision, Review
from feedback_app.annotation.services.judging import judgment_as_json, response_ids, verdict_of
from feedback_app.annotation.services.reservations import draft_text
from feedback_app.annotation.services.rewrites import keep_rewrites
from feedback_app.annotation.verdicts import Verdict, parse_verdict
from feedback_app.projects.protocols import parse_protocol
from feedback_app.projects.selectors import role_in


@transaction.atomic
def revise_judgment(*, judgment_id: UUID, editor: User, body: Mapping[str, Any]) -> dict[str, Any]:
    """Put a new verdict in a judgment's place, keep the old one as a revision, and return the API's judgment.

    The protocol is the one the judgment was made under. The same verdict again changes nothing. A draft of it is done
    with either way. Locks the judgment.

    Raises:
        NotAssigned: there is no such judgment in a project of the editor's.
        PermissionDenied: it is somebody else's.
        VerdictDiffers: it was voided.
        VerdictInvalid: names the fields that the protocol does not take.
    """
    judgment = _lock_own(judgment_id, editor)
    responses = response_ids(judgment.task_id)
    verdict = parse_verdict(body, protocol=parse_protocol(judgment.assignment.protocol.spec), responses=responses)
    if verdict != verdict_of(judgment):
        _replace(judgment, verdict, responses, editor)
    _drop_draft(judgment)
    return judgment_as_json(judgment=judgment, responses=responses)


@transaction.atomic
def save_revision_draft(*, judgment_id: UUID, editor: User, draft: dict[str, Any]) -> None:
    """Keep an unfinished revision as it is, checked only when it is stored. Locks the judgment.

    It names, as "revision", the verdict that it was begun on: a window that was left open writes nothing over a newer
    one.

    Raises:
        NotAssigned, PermissionDenied: as for the revision itself.
        VerdictDiffers: the judgment was voided, or has been revised since.
        VerdictInvalid: the draft is too large or cannot be stored.
    """
    draft_text(draft)
    judgment = _lock_own(judgment_id, editor)
    if draft.get("revision") != judgment.revision:
        raise VerdictDiffers({"revision": [_("This draft was begun on an earlier verdict than the one stored now.")]})
    Assignment.objects.filter(pk=judgment.assignment_id).update(draft=draft, draft_saved_at=timezone.now())


@transaction.atomic
def discard_revision_draft(*, judgment_id: UUID, editor: User) -> None:
    """Leave a judgment as it is: its draft goes, if there is one. Locks the judgment; raises as the revision does."""
    _drop_draft(_lock_own(judgment_id, editor))


def _lock_own(judgment_id: UUID, editor: User) -> Judgment:
    judgment = (
        Judgment.objects.select_for_update(no_key=True, of=("self",))
        .select_related("assignment__protocol", "project")
        .filter(pk=judgment_id)
        .first()
    )
    if judgment is None or role_in(user=editor, project=judgment.project) is None:
        raise NotAssigned({"judgment": [_("No such judgment of yours.")]})
    if judgment.annotator_id != editor.pk:
        raise PermissionDenied(_("Only its author edits a judgment."))
    if judgment.voided_at is not None:
        raise VerdictDiffers({"judgment": [_("This judgment was voided.")]})
    return judgment


def _drop_draft(judgment: Judgment) -> None:
    drafted = Assignment.objects.filter(pk=judgment.assignment_id, draft__isnull=False)
    drafted.update(draft=None, draft_saved_at=None)


def _replace(judgment: Judgment, verdict: Verdict, responses: Sequence[str], editor: User) -> None:
    before = judgment_as_json(judgment=judgment, responses=responses)
    JudgmentRevision.objects.create(
        judgment=judgment,
        revision=judgment.revision,
        verdict={name: before[name] for name in _CONTENT},
        replaced_by=editor,
    )
    for name in _CONTENT:
        setattr(judgment, _attribute(name), getattr(verdict, _attribute(name)))
    judgment.revision += 1
    judgment.save(update_fields=[_attribute(name) for name in _CONTENT] + ["revision", "updated_at"])
    if verdict.rewrites or before["rewrites"]:
        keep_rewrites(judgment_id=judgment.pk)
    # One that was sent back waits for its reviewer again.
    Review.objects.filter(judgment=judgment, outcome=Review.Outcome.SENT_BACK).update(outcome=Review.Outcome.REVISED)


_CONTENT = ("ranking", "all_bad", "strength", "ratings", "flags", "rewrites", "rationale", "lead_time")


def _attribute(name: str) -> str:
    return "ranks" if name == "ranking" else name
