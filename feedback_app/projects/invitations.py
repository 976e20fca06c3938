"""Invitations: a signed link, for a time and so many uses, makes whoever opens it a member, without any mail."""

from datetime import timedelta
from uuid import UUID

from django.core import signing
from django.core.exceptions import ValidationError
from django.db import transaction
from django.db.models import F, Q, QuerySet
from django.utils import timezone
from django.utils.translation import gettext as _

from feedback_app.accounts.models import User
from feedback_app.accounts.services import create_user, record_audit
from feedback_app.projects.models import Invitation, Member, Project
from feedback_app.projects.permissions import RANK
from feedback_app.projects.services import add_member

SALT = "projects.invitation"
LONGEST_DAYS = 90


class InvitationClosed(ValueError):
    """The link opens nothing; the message says why."""


def create_invitation(
    *, project: Project, role: Member.Role, days: int, uses: int | None, created_by: User | None, note: str = ""
) -> Invitation:
    """Make a link that lets people join for some days, so many times (None: as many as come).

    Raises:
        ValidationError: names the field that is out of bounds.
    """
    if not 1 <= days <= LONGEST_DAYS:
        raise ValidationError({"days": [_("from 1 to %(most)d") % {"most": LONGEST_DAYS}]})
    if uses is not None and uses < 1:
        raise ValidationError({"uses": [_("1 or more, or empty")]})
    invitation = Invitation(
        project=project, role=Member.Role(role), note=note, uses_left=uses, created_by=created_by,
        expires_at=timezone.now() + timedelta(days=days),
    )  # fmt: skip
    invitation.full_clean(exclude=["created_by"])
    with transaction.atomic():
        invitation.save(force_insert=True)
        record_audit(
            actor=created_by, action="invitation.create", subject=note or str(invitation.pk),
            project_slug=project.slug, detail={"role": str(role), "days": days, "uses": uses},
        )  # fmt: skip
    return invitation


def token_of(invitation: Invitation) -> str:
    """Return what stands in the link; only our own key makes one that is read back."""
    return signing.dumps(str(invitation.pk), salt=SALT)


def live_invitations(*, project: Project) -> QuerySet[Invitation]:
    """Return the project's links that still open, newest first."""
    usable = Q(uses_left=None) | Q(uses_left__gt=0)
    return Invitation.objects.filter(
        usable, project=project, revoked_at=None, expires_at__gt=timezone.now()
    ).select_related("created_by")


def find_invitation(*, token: str) -> Invitation:
    """Return the invitation of a link; raises InvitationClosed where it opens nothing (any more)."""
    try:
        pk = UUID(signing.loads(token, salt=SALT))
    except (signing.BadSignature, ValueError, TypeError) as error:
        raise InvitationClosed(_("This link is not whole: copy all of it, to its last letter.")) from error
    invitation = Invitation.objects.select_related("project").filter(pk=pk).first()
    if invitation is None or invitation.revoked_at is not None or invitation.project.archived_at is not None:
        raise InvitationClosed(_("This invitation was taken back."))
    if invitation.expires_at <= timezone.now():
        raise InvitationClosed(_("This invitation has run out."))
    if invitation.uses_left == 0:
        raise InvitationClosed(_("This invitation has been used up."))
    return invitation


@transaction.atomic
def accept_invitation(*, invitation: Invitation, user: User) -> Member:
    """Make a user a member, once; who has that role or a higher one already keeps it and uses nothing up.

    Raises:
        InvitationClosed: its last use was taken this very moment.
    """
    held = Member.objects.filter(project=invitation.project, user=user).first()
    if held is not None and RANK[Member.Role(held.role)] >= RANK[Member.Role(invitation.role)]:
        return held
    usable = Q(uses_left=None) | Q(uses_left__gt=0)
    used = Invitation.objects.filter(
        usable, pk=invitation.pk, revoked_at=None, expires_at__gt=timezone.now()
    ).update(uses_left=F("uses_left") - 1, times_used=F("times_used") + 1)  # fmt: skip
    if not used:
        raise InvitationClosed(_("This invitation has been used up."))
    return add_member(
        project=invitation.project, user=user, role=Member.Role(invitation.role), added_by=invitation.created_by
    )


@transaction.atomic
def join_as_new_user(*, invitation: Invitation, username: str, display_name: str, password: str) -> User:
    """Make an account and its membership, both or neither.

    Raises:
        ValidationError: the name is taken or malformed, or the password too weak.
        InvitationClosed: the invitation's last use was taken this very moment.
    """
    user = create_user(username=username, display_name=display_name, password=password)
    accept_invitation(invitation=invitation, user=user)
    return user


def revoke_invitation(*, invitation: Invitation, revoked_by: User | None) -> None:
    """Take a link back; who has joined by it stays."""
    Invitation.objects.filter(pk=invitation.pk, revoked_at=None).update(revoked_at=timezone.now())
    record_audit(
        actor=revoked_by, action="invitation.revoke", subject=invitation.note or str(invitation.pk),
        project_slug=invitation.project.slug,
    )  # fmt: skip
