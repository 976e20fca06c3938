"""A project's people: roles, pauses, accounts for those who have none, and links that invite."""

import secrets
from collections.abc import Callable
from typing import Any
from uuid import UUID

from django import forms
from django.contrib import messages
from django.contrib.auth import login
from django.core.exceptions import ValidationError
from django.db import transaction
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.utils.translation import gettext as _
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_http_methods, require_POST, require_safe

from feedback_app.accounts.models import User
from feedback_app.accounts.services import create_user
from feedback_app.projects import invitations as inviting
from feedback_app.projects.forms import AddMemberForm, InvitationForm, JoinForm, NewUserForm, add_errors
from feedback_app.projects.models import Invitation, Member
from feedback_app.projects.pages import ProjectRequest, project_page
from feedback_app.projects.selectors import members_of
from feedback_app.projects.services import add_member, remove_member, set_paused


@require_safe
@project_page(Member.Role.MANAGER)
def people(request: ProjectRequest) -> HttpResponse:
    """Everybody in the project, the links that are open, and the forms that bring people in."""
    return _people_page(request)


def _people_page(request: ProjectRequest, *, status: int = 200, **more: Any) -> HttpResponse:
    links = inviting.live_invitations(project=request.project)
    context = {
        "members": members_of(project=request.project),
        "roles": Member.Role.choices,
        "invitations": [{"invitation": link, "url": _join_url(request, link)} for link in links],
        "add_form": AddMemberForm(prefix="add"),
        "user_form": NewUserForm(prefix="new"),
        "invite_form": InvitationForm(prefix="invite"),
    }
    return render(request, "projects/people.html", context | more, status=status)


def _join_url(request: HttpRequest, invitation: Invitation) -> str:
    return request.build_absolute_uri(f"/join/{inviting.token_of(invitation)}/")


@require_POST
@project_page(Member.Role.MANAGER)
def add_existing(request: ProjectRequest) -> HttpResponse:
    """Give somebody who has an account a role."""
    form = AddMemberForm(request.POST, prefix="add")
    if form.is_valid():
        user = form.cleaned_data["username"]
        try:
            add_member(
                project=request.project, user=user, role=Member.Role(form.cleaned_data["role"]), added_by=request.user
            )
        except ValidationError as error:
            add_errors(form, error)
        else:
            messages.success(request, _("%(name)s is a member now.") % {"name": user.username})
            return redirect("projects:people", request.project.slug)
    return _people_page(request, status=422, add_form=form)


@never_cache
@require_POST
@project_page(Member.Role.MANAGER)
def add_new(request: ProjectRequest) -> HttpResponse:
    """Make an account with a password that this page alone ever shows."""
    form = NewUserForm(request.POST, prefix="new")
    if form.is_valid():
        given = form.cleaned_data
        password = "-".join(secrets.token_hex(2) for _part in range(4))
        try:
            with transaction.atomic():
                user = create_user(
                    username=given["username"],
                    display_name=given["display_name"],
                    password=password,
                    password_given=True,
                    created_by=request.user,
                )
                add_member(project=request.project, user=user, role=Member.Role(given["role"]), added_by=request.user)
        except ValidationError as error:
            add_errors(form, error)
        else:
            return _people_page(request, made={"username": user.username, "password": password})
    return _people_page(request, status=422, user_form=form)


@require_POST
@project_page(Member.Role.MANAGER)
def invite(request: ProjectRequest) -> HttpResponse:
    """Make a link that lets people join."""
    form = InvitationForm(request.POST, prefix="invite")
    if form.is_valid():
        given = form.cleaned_data
        try:
            inviting.create_invitation(
                project=request.project, role=Member.Role(given["role"]), days=given["days"], uses=given["uses"],
                note=given["note"], created_by=request.user,
            )  # fmt: skip
        except ValidationError as error:
            add_errors(form, error)
        else:
            messages.success(request, _("The link is made: it stands in the list, to be copied."))
            return redirect("projects:people", request.project.slug)
    return _people_page(request, status=422, invite_form=form)


@require_POST
@project_page(Member.Role.MANAGER)
def take_back(request: ProjectRequest, invitation_id: UUID) -> HttpResponse:
    """Close a link."""
    link = get_object_or_404(Invitation, pk=invitation_id, project=request.project)
    inviting.revoke_invitation(invitation=link, revoked_by=request.user)
    messages.success(request, _("The link opens nothing any more."))
    return redirect("projects:people", request.project.slug)


@require_POST
@project_page(Member.Role.MANAGER)
def change(request: ProjectRequest, member_id: int) -> HttpResponse:
    """Change a member's role, pause or resume, or end the membership, as the button says."""
    member = get_object_or_404(Member.objects.select_related("user", "project"), pk=member_id, project=request.project)
    act = _ACTS.get(request.POST.get("do", ""))
    if act is None:
        messages.error(request, _("Nothing was asked for."))
        return redirect("projects:people", request.project.slug)
    try:
        messages.success(request, act(request, member))
    except ValidationError as error:
        return _people_page(request, status=422, refused=member.pk, why=" ".join(error.messages))
    return redirect("projects:people", request.project.slug)


def _set_role(request: ProjectRequest, member: Member) -> str:
    role = request.POST.get("role", "")
    if role not in Member.Role.values:
        raise ValidationError({"role": [_("There is no such role.")]})
    add_member(project=request.project, user=member.user, role=Member.Role(role), added_by=request.user)
    return _("%(name)s has another role now.") % {"name": member.user.username}


def _pause(request: ProjectRequest, member: Member) -> str:
    reason = forms.CharField(max_length=300).clean(request.POST.get("reason"))
    set_paused(member=member, paused=True, reason=reason)
    return _("%(name)s is paused and is shown the reason.") % {"name": member.user.username}


def _resume(request: ProjectRequest, member: Member) -> str:
    set_paused(member=member, paused=False)
    return _("%(name)s may judge again.") % {"name": member.user.username}


def _remove(request: ProjectRequest, member: Member) -> str:
    remove_member(project=request.project, user=member.user, removed_by=request.user)
    return _("%(name)s is no member any more; the judgments stay.") % {"name": member.user.username}


_ACTS: dict[str, Callable[[ProjectRequest, Member], str]] = {
    "role": _set_role,
    "pause": _pause,
    "resume": _resume,
    "remove": _remove,
}


@never_cache
@require_http_methods(["GET", "HEAD", "POST"])
def join(request: HttpRequest, token: str) -> HttpResponse:
    """Follow an invitation: join with the account one has, or make one."""
    try:
        invitation = inviting.find_invitation(token=token)
        form, status = JoinForm(request.POST or None), 200
        if request.method == "POST":
            status = 422
            if isinstance(request.user, User):
                inviting.accept_invitation(invitation=invitation, user=request.user)
                return _welcome(request, invitation)
            if form.is_valid():
                try:
                    user = inviting.join_as_new_user(invitation=invitation, **form.cleaned_data)
                except ValidationError as error:
                    add_errors(form, error)
                else:
                    login(request, user, backend="django.contrib.auth.backends.ModelBackend")
                    return _welcome(request, invitation)
    except inviting.InvitationClosed as closed:
        return render(request, "projects/join_closed.html", {"reason": str(closed)}, status=410)
    return render(request, "projects/join.html", {"form": form, "invitation": invitation}, status=status)


def _welcome(request: HttpRequest, invitation: Invitation) -> HttpResponse:
    messages.success(request, _("Welcome to %(project)s.") % {"project": invitation.project.name})
    return redirect(f"/p/{invitation.project.slug}/judge/")
