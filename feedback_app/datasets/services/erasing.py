"""Erasure: a person's judgments or a prompt leave the project for good, and what held them says so.

Dataset versions are never altered: a version that held what was erased is marked, a new one is made without it, and on
request its files are deleted. Policies that learned from it, and those that came of them, are marked too.
"""

import shutil
from collections.abc import Iterable
from dataclasses import dataclass, field
from uuid import UUID

from django.core.exceptions import ValidationError
from django.db import connection, transaction
from django.db.models import Value
from django.db.models.functions import Replace
from django.utils import timezone
from django.utils.translation import gettext as _

from feedback_app.accounts.models import User
from feedback_app.accounts.services import record_audit
from feedback_app.annotation.models import Prompt
from feedback_app.annotation.services.erasing import Erased, annotators_called, erase_annotators, erase_prompt
from feedback_app.annotation.splits import storable
from feedback_app.datasets.loading import LOCK_SPACE, subject_of_annotator
from feedback_app.datasets.models import DatasetVersion, DuplicateReport, Erasure, RefusedRow, VersionJob
from feedback_app.datasets.services.held import count_held
from feedback_app.datasets.services.versions import create_dataset_version, folder_of, lock_versions
from feedback_app.notifications.services import forget_person
from feedback_app.projects.models import Project
from feedback_app.serving.models import PolicyVersion
from feedback_app.serving.services.marking import mark_policies


@dataclass
class ErasureOutcome:
    """What was erased, and what was marked, made anew or withdrawn for it."""

    erasure: Erasure
    marked: list[DatasetVersion] = field(default_factory=list)
    renewed: list[DatasetVersion] = field(default_factory=list)
    withdrawn: list[DatasetVersion] = field(default_factory=list)
    policies: list[PolicyVersion] = field(default_factory=list)


def erase_from_project(
    *,
    project: Project,
    erased_by: User | None,
    annotator: str = "",
    prompt: UUID | None = None,
    withdraw: bool = False,
) -> ErasureOutcome:
    """Erase what an annotator judged, or a prompt with all that hangs on it, by the name or id of the exports.

    Imports refuse it from now on. The newest version of each kind that held it is made anew; withdraw deletes the files
    of those that held it, which a round that still reads them will not survive.

    Raises:
        ValidationError: not exactly one of the two is given, or the project has no such annotator or prompt.
    """
    if bool(annotator) == bool(prompt):
        raise ValidationError({"annotator": [_("say which: an annotator, or a prompt")]})
    with transaction.atomic():
        with connection.cursor() as cursor:  # no import brings it back meanwhile
            cursor.execute("SELECT pg_advisory_xact_lock(%s, %s)", [LOCK_SPACE, project.pk & 0x7FFFFFFF])
        kind, subject, erased = _erase_prompt(project, prompt) if prompt else _erase_annotator(project, annotator)
        lock_versions(project)  # what is in the making is made anew, or is there to be marked
        erasure = Erasure.objects.create(
            project=project, kind=kind, subject_sha256=subject, judgments=len(erased.judgments),
            tasks=len(erased.tasks), erased_by=erased_by,
        )  # fmt: skip
        _forget_mentions(project, annotator)
        outcome = ErasureOutcome(erasure)
        outcome.marked = _mark_versions(project, erased)
        outcome.policies = mark_policies(
            policies=PolicyVersion.objects.filter(made_by__dataset__in=outcome.marked).distinct(),
            reason=_("learned from a dataset version of which something was erased since"),
        )
        # The trail says that and when, not whom or what: else it would keep what was to be forgotten.
        record_audit(
            actor=erased_by, action=f"data.erase_{kind}", subject=f"erasure {erasure.pk}", project_slug=project.slug,
            detail={
                "subject_sha256": subject, "judgments": erasure.judgments, "tasks": erasure.tasks, "withdraw": withdraw,
                "datasets": [version.number for version in outcome.marked],
                "policies": [policy.name for policy in outcome.policies],
            },
        )  # fmt: skip
    outcome.renewed = _renew(outcome.marked, erased_by, without=annotator)
    if withdraw:
        outcome.withdrawn = _withdraw(outcome.marked)
    return outcome


def _erase_annotator(project: Project, name: str) -> tuple[str, str, Erased]:
    if not storable(name):
        raise ValidationError({"annotator": [_("holds a NUL or half a surrogate pair")]})
    people = list(annotators_called(project=project, name=name))
    if not people:
        raise ValidationError({"annotator": [_("the project knows nobody called %(name)s") % {"name": name}]})
    return Erasure.Kind.ANNOTATOR, subject_of_annotator(name), erase_annotators(project=project, annotators=people)


def _erase_prompt(project: Project, prompt_id: UUID) -> tuple[str, str, Erased]:
    prompt = Prompt.objects.filter(project=project, pk=prompt_id).first()
    if prompt is None:
        raise ValidationError({"prompt": [_("the project has no such prompt")]})
    return Erasure.Kind.PROMPT, prompt.content_sha256, erase_prompt(prompt=prompt)


def _forget_mentions(project: Project, annotator: str) -> None:
    """Take out what repeats it elsewhere: reasons and events that name the annotator, texts among the duplicates."""
    DuplicateReport.objects.filter(project=project).delete()
    if annotator:
        VersionJob.objects.filter(project=project, options__annotators__contains=annotator).delete()
        forget_person(project=project, name=annotator)
        named = RefusedRow.objects.filter(job__project=project, reason__contains=repr(annotator))
        named.update(reason=Replace("reason", Value(repr(annotator)), Value("(erased)")))


def _mark_versions(project: Project, erased: Erased) -> list[DatasetVersion]:
    """Mark the versions that hold any of it, marked for another reason already or not."""
    held = {*erased.judgments, *erased.decided}
    marked = []
    for version in DatasetVersion.objects.filter(project=project, withdrawn_at=None).order_by("number"):
        if not (count := count_held(folder_of(version), held)):
            continue
        reason = _("%(count)d of its judgments were erased since") % {"count": count}
        version.taint_reason = f"{version.taint_reason}; {reason}".removeprefix("; ")[:300]
        version.tainted_at = version.tainted_at or timezone.now()
        version.save(update_fields=["taint_reason", "tainted_at"])
        marked.append(version)
    return marked


def _renew(versions: Iterable[DatasetVersion], erased_by: User | None, *, without: str) -> list[DatasetVersion]:
    """Make the newest version of each kind anew, whose options no longer name the annotator either."""
    newest = {
        (version.format, version.manifest["file_type"], str(sorted(version.options.items()))): version
        for version in versions
    }
    renewed = []
    for version in newest.values():
        chosen = version.options.get("annotators", [])
        options = version.options | {"annotators": [name for name in chosen if name != without]}
        if chosen and not options["annotators"]:
            continue  # of nobody else: no choice at all would be everybody
        try:
            made = create_dataset_version(
                project=version.project, format=version.format, options=options,
                file_type=version.manifest["file_type"], created_by=erased_by,
            )  # fmt: skip
        except ValidationError as error:
            if "options" not in error.message_dict:
                raise
            continue  # what was erased was all that it held
        renewed.append(made)
    return renewed


def _withdraw(versions: Iterable[DatasetVersion]) -> list[DatasetVersion]:
    """Delete the files of versions; their rows stay, and say what there was and since when it is gone."""
    withdrawn = []
    for version in versions:
        version.withdrawn_at = timezone.now()
        version.save(update_fields=["withdrawn_at"])
        shutil.rmtree(folder_of(version), ignore_errors=False)
        withdrawn.append(version)
    return withdrawn
