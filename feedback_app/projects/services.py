"""Writes to projects: made whole with their first protocol and guidelines, changed only by new versions."""

from collections.abc import Mapping
from typing import Any

from django.core.exceptions import ValidationError
from django.db import transaction
from django.db.models import Max
from django.utils import timezone
from django.utils.translation import gettext as _

from feedback_app.accounts.models import User
from feedback_app.accounts.services import record_audit
from feedback_app.projects.models import GuidelinesReading, GuidelinesVersion, Member, Project, ProtocolVersion
from feedback_app.projects.presets import PRESETS
from feedback_app.projects.protocols import Protocol, parse_protocol

SETTINGS = (
    "name", "description", "language", "overlap", "reservation_seconds", "responses_per_prompt", "temperature",
    "top_p", "max_new_tokens", "refill_per_annotator", "old_tasks", "extra_overlap", "extra_overlap_share",
    "third_on_disagreement", "daily_limit", "gold_share", "repeat_share", "qualification_pass", "pause_gold_below",
    "pause_consistency_below", "pause_seconds_below", "pause_after",
)  # fmt: skip


@transaction.atomic
def create_project(
    *,
    slug: str,
    name: str = "",
    protocol: str | Mapping[str, Any] | Protocol = "pairwise",
    guidelines: str = "",
    guidelines_translations: Mapping[str, str] | None = None,
    created_by: User | None = None,
    **settings: Any,
) -> Project:
    """Make a project with protocol 1 and guidelines 1; its maker becomes a manager of it.

    Raises:
        ValidationError: a field is out of bounds or the slug is taken.
        ProtocolError: the protocol is unknown or unusable.
    """
    project = Project(slug=slug, name=name or slug, **_known_settings(settings))
    project.full_clean(exclude=["protocol", "guidelines"])
    project.save(force_insert=True)
    publish_protocol(project=project, protocol=protocol, created_by=created_by)
    publish_guidelines(project=project, text=guidelines, translations=guidelines_translations, created_by=created_by)
    if created_by is not None:
        add_member(project=project, user=created_by, role=Member.Role.MANAGER)
    record_audit(actor=created_by, action="project.create", subject=slug, project_slug=slug)
    return project


@transaction.atomic
def update_settings(*, project: Project, changed_by: User | None, **settings: Any) -> Project:
    """Change a project's settings; raises ValidationError naming the field that is out of bounds."""
    for name, value in _known_settings(settings).items():
        setattr(project, name, value)
    project.full_clean(exclude=["protocol", "guidelines"])
    project.save(update_fields=list(settings))
    record_audit(
        actor=changed_by, action="project.settings", subject=project.slug, project_slug=project.slug,
        detail={name: str(value) for name, value in settings.items()},
    )  # fmt: skip
    return project


def _known_settings(settings: dict[str, Any]) -> dict[str, Any]:
    for name in settings:
        if name not in SETTINGS:
            raise ValidationError({name: ["unknown setting"]})
    return settings


@transaction.atomic
def publish_protocol(
    *, project: Project, protocol: str | Mapping[str, Any] | Protocol, created_by: User | None = None
) -> ProtocolVersion:
    """Make a protocol the project's newest; assignments already given keep the one they were given with."""
    version = ProtocolVersion.objects.create(
        project=project,
        number=_next_number(project, ProtocolVersion),
        spec=resolve_protocol(protocol).as_json(),
        created_by=created_by,
    )
    project.protocol = version
    project.save(update_fields=["protocol"])
    return version


def resolve_protocol(protocol: str | Mapping[str, Any] | Protocol) -> Protocol:
    """Return a preset by its name, or the protocol that a JSON object describes; raises ProtocolError."""
    if isinstance(protocol, Protocol):
        return protocol
    if isinstance(protocol, str):
        if protocol not in PRESETS:
            raise ValidationError({"protocol": [f"no preset {protocol!r}; there are {', '.join(PRESETS)}"]})
        return PRESETS[protocol]
    return parse_protocol(protocol)


@transaction.atomic
def publish_guidelines(
    *, project: Project, text: str, translations: Mapping[str, str] | None = None, created_by: User | None = None
) -> GuidelinesVersion:
    """Make a text the project's newest guidelines; everybody is shown them once more."""
    version = GuidelinesVersion.objects.create(
        project=project,
        number=_next_number(project, GuidelinesVersion),
        text=text,
        translations=dict(translations or {}),
        created_by=created_by,
    )
    project.guidelines = version
    project.save(update_fields=["guidelines"])
    return version


def mark_guidelines_read(*, guidelines: GuidelinesVersion, user: User) -> None:
    """Remember that the user has read a version; a second time changes nothing."""
    GuidelinesReading.objects.get_or_create(guidelines=guidelines, user=user)


def _next_number(project: Project, versions: type[ProtocolVersion] | type[GuidelinesVersion]) -> int:
    # The project's row is the lock: two managers publishing at once get two numbers, one after the other.
    Project.objects.select_for_update().only("id").get(pk=project.pk)
    newest = versions._default_manager.filter(project=project).aggregate(newest=Max("number"))["newest"]
    return (newest or 0) + 1


@transaction.atomic
def add_member(
    *, project: Project, user: User, role: Member.Role = Member.Role.ANNOTATOR, added_by: User | None = None
) -> Member:
    """Give a user a role in a project, or change the role held.

    Raises:
        ValidationError: the project would be left without a manager.
    """
    if Member.Role(role) != Member.Role.MANAGER:
        _keep_a_manager(project, user)
    member, _created = Member.objects.update_or_create(project=project, user=user, defaults={"role": Member.Role(role)})
    record_audit(
        actor=added_by, action="member.role", subject=user.username, project_slug=project.slug,
        detail={"role": str(role)},
    )  # fmt: skip
    return member


@transaction.atomic
def remove_member(*, project: Project, user: User, removed_by: User | None) -> None:
    """End a membership; the judgments stay, with their author.

    Raises:
        ValidationError: the project would be left without a manager.
    """
    _keep_a_manager(project, user)
    Member.objects.filter(project=project, user=user).delete()
    record_audit(actor=removed_by, action="member.remove", subject=user.username, project_slug=project.slug)


def _keep_a_manager(project: Project, user: User) -> None:
    # The project's row is the lock: two managers who remove each other leave one of them.
    Project.objects.select_for_update().only("id").get(pk=project.pk)
    managers = list(
        Member.objects.filter(project=project, role=Member.Role.MANAGER).values_list("user_id", flat=True)[:2]
    )
    if managers == [user.pk]:
        raise ValidationError({"role": [_("This is the project's only manager: make another one first.")]})


def set_languages(*, member: Member, languages: list[str]) -> Member:
    """Say which languages' tasks a member is given; none: all. Raises ValidationError naming what is no tag."""
    member.languages = languages
    member.clean_fields(exclude=["project", "user"])
    member.save(update_fields=["languages"])
    return member


def set_qualified(*, member: Member, score: float, passed: bool) -> Member:
    """Keep the outcome of a qualification."""
    member.qualification_score = score
    member.qualified_at = timezone.now() if passed else None
    member.save(update_fields=["qualification_score", "qualified_at"])
    return member


def set_paused(*, member: Member, paused: bool, reason: str = "") -> Member:
    """Pause or resume a member; the reason is shown to the person."""
    member.paused_at = timezone.now() if paused else None
    member.pause_reason = reason if paused else ""
    member.save(update_fields=["paused_at", "pause_reason"])
    return member
