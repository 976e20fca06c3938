"""Settings, protocol, guidelines and people: what managers change by pages, and what the pages refuse."""

import re

import pytest
from django.test import Client
from django.utils import timezone

from feedback_app.accounts.models import AuditEntry, User
from feedback_app.accounts.services import create_user
from feedback_app.projects.invitations import (
    InvitationClosed,
    accept_invitation,
    create_invitation,
    find_invitation,
    join_as_new_user,
    revoke_invitation,
    token_of,
)
from feedback_app.projects.models import Invitation, Member, Project
from feedback_app.projects.presets import PRESETS
from feedback_app.projects.protocols import parse_protocol
from feedback_app.projects.services import add_member
from tests.factories import make_project, make_user

pytestmark = pytest.mark.django_db


@pytest.fixture
def project() -> Project:
    return make_project()


@pytest.fixture
def boss(project: Project) -> User:
    return make_user(project, Member.Role.MANAGER, username="boss")


@pytest.fixture
def manager(boss: User) -> Client:
    client = Client()
    client.force_login(boss)
    return client


def filled(client: Client, url: str) -> dict[str, str]:
    """Return what a browser would send of a page's form as it stands."""
    form = client.get(url).context["form"]
    values = {name: form[name].value() for name in form.fields}
    return {
        name: "on" if value is True else str(value)
        for name, value in values.items()
        if value is not None and value is not False
    }


def test_a_setting_is_saved_and_the_audit_names_it_alone(manager: Client, project: Project) -> None:
    url = f"/p/{project.slug}/settings/"
    answer = manager.post(url, filled(manager, url) | {"overlap": "3", "old_tasks": "keep"})
    assert answer.status_code == 302
    project.refresh_from_db()
    assert (project.overlap, project.old_tasks) == (3, "keep")
    entry = AuditEntry.objects.filter(action="project.settings").get()
    assert entry.detail == {"overlap": "3", "old_tasks": "keep"}


def test_a_setting_out_of_bounds_is_named_and_what_was_typed_stays(manager: Client, project: Project) -> None:
    url = f"/p/{project.slug}/settings/"
    page = manager.post(url, filled(manager, url) | {"responses_per_prompt": "12", "name": "Another name"})
    assert page.status_code == 422
    assert list(page.context["form"].errors) == ["responses_per_prompt"]
    assert 'value="Another name"' in page.content.decode()
    project.refresh_from_db()
    assert (project.responses_per_prompt, project.name) == (2, project.slug)


def test_only_administrators_make_projects_and_become_their_managers(manager: Client) -> None:
    assert manager.get("/projects/new/").status_code == 403
    assert Client().get("/projects/new/")["location"] == "/accounts/login/?next=/projects/new/"
    client = Client()
    client.force_login(create_user(username="root", is_superuser=True))
    sent = {"name": "Tea", "slug": "tea", "language": "en", "protocol": "ranking", "overlap": "2"}
    assert client.post("/projects/new/", sent)["location"] == "/p/tea/tasks/"
    made = Project.objects.get(slug="tea")
    assert made.protocol is not None
    assert (made.overlap, made.protocol.spec["name"]) == (2, "ranking")
    assert made.members.get().role == Member.Role.MANAGER
    again = client.post("/projects/new/", sent)
    assert again.status_code == 422
    assert "slug" in again.context["form"].errors


def protocol_fields(client: Client, project: Project, **more: str) -> dict[str, str]:
    """Return what a browser would send of the protocol page, with a preset loaded."""
    editor = client.get(f"/p/{project.slug}/settings/protocol/?preset={more.pop('preset', 'pairwise')}").context[
        "editor"
    ]
    sent: dict[str, str] = {}
    forms = [
        editor.form,
        editor.attributes.management_form,
        editor.flags.management_form,
        *editor.attributes,
        *editor.flags,
    ]
    for form in forms:
        for field in form:
            value = field.value()
            if value is not None and value is not False:  # 0 is a value
                sent[field.html_name] = "on" if value is True else str(value)
    return sent | more


@pytest.mark.parametrize("preset", list(PRESETS))
def test_every_preset_goes_through_the_editor_unchanged(manager: Client, project: Project, preset: str) -> None:
    sent = protocol_fields(manager, project, preset=preset, do="publish")
    answer = manager.post(f"/p/{project.slug}/settings/protocol/", sent)
    assert answer.status_code == 302
    project.refresh_from_db()
    assert project.protocol is not None
    assert project.protocol.number == 2
    assert parse_protocol(project.protocol.spec) == PRESETS[preset]


def test_a_letter_that_the_page_keeps_is_refused_and_nothing_is_published(manager: Client, project: Project) -> None:
    sent = protocol_fields(manager, project, preset="ratings", do="publish") | {"attributes-0-letter": "x"}
    page = manager.post(f"/p/{project.slug}/settings/protocol/", sent)
    assert page.status_code == 422
    assert "x belongs to the page" in page.content.decode()
    assert project.protocol_versions.count() == 1


def test_the_words_of_a_protocol_are_translated_line_by_line(manager: Client, project: Project) -> None:
    url = f"/p/{project.slug}/settings/protocol/"
    sent = protocol_fields(manager, project, do="publish") | {"translations": "zh-hans: better = 更佳\npt: better"}
    page = manager.post(url, sent)
    assert page.status_code == 422
    assert "pt: better" in str(page.context["editor"].form.errors["translations"])
    manager.post(url, sent | {"translations": "zh-hans: better = 更佳"})
    project.refresh_from_db()
    assert project.protocol is not None
    assert project.protocol.spec["translations"] == {"zh-hans": {"better": "更佳"}}
    preview = manager.get(url, headers={"accept-language": "zh-hans"}).content.decode()
    assert '<input type="radio" name="preview-strength"> 更佳' in preview


def test_a_row_is_added_and_nothing_that_was_typed_is_lost(manager: Client, project: Project) -> None:
    sent = protocol_fields(manager, project, name="mine", do="add_attribute")
    page = manager.post(f"/p/{project.slug}/settings/protocol/", sent)
    assert page.status_code == 200
    assert len(page.context["editor"].attributes.forms) == 1
    assert 'value="mine"' in page.content.decode()
    assert project.protocol_versions.count() == 1


def test_a_score_typed_into_the_editor_is_asked_with_its_anchors_and_translations(
    manager: Client, project: Project
) -> None:
    sent = protocol_fields(manager, project, do="publish") | {
        "attributes-TOTAL_FORMS": "1",
        "attributes-0-key": "truth", "attributes-0-label": "Truth", "attributes-0-minimum": "1",
        "attributes-0-maximum": "3", "attributes-0-letter": "T", "attributes-0-required": "on",
        "attributes-0-anchors": "1: wrong\n3: right", "attributes-0-labels": "zh-hans: 真实",
    }  # fmt: skip
    assert manager.post(f"/p/{project.slug}/settings/protocol/", sent).status_code == 302
    project.refresh_from_db()
    assert project.protocol is not None
    attribute = project.protocol.spec["attributes"][0]
    assert (attribute["key"], attribute["letter"], attribute["anchors"]) == ("truth", "t", {"1": "wrong", "3": "right"})
    assert attribute["labels"] == {"zh-hans": "真实"}


def test_the_preview_follows_what_is_typed_and_stores_nothing(manager: Client, project: Project) -> None:
    url = f"/p/{project.slug}/settings/protocol/preview/"
    part = manager.post(url, protocol_fields(manager, project, preset="ratings"))
    assert b"Helpfulness" in part.content
    assert b"<html" not in part.content
    broken = manager.post(url, protocol_fields(manager, project, preset="pairwise") | {"max_responses": "1"})
    assert b"The preview follows once this is mended" in broken.content
    assert project.protocol_versions.count() == 1


def test_guidelines_are_published_with_their_translations_and_previewed_safely(
    manager: Client, project: Project
) -> None:
    url = f"/p/{project.slug}/settings/guidelines/"
    manager.post(url, {"text": "# Be fair", "text_zh-hans": "# 公平", "do": "publish"})
    project.refresh_from_db()
    assert project.guidelines is not None
    assert (project.guidelines.number, project.guidelines.translations) == (2, {"zh-hans": "# 公平"})
    part = manager.post(f"{url}preview/", {"text": "*so* <script>alert(1)</script>"})
    assert b"<em>so</em>" in part.content
    assert b"<script>" not in part.content
    assert manager.get(f"{url}?version=1").context["form"]["text"].value() == ""


def test_somebody_with_an_account_is_added_and_an_unknown_name_is_said(manager: Client, project: Project) -> None:
    make_user(username="ann")
    manager.post(f"/p/{project.slug}/settings/people/add/", {"add-username": "ann", "add-role": "reviewer"})
    assert Member.objects.get(project=project, user__username="ann").role == Member.Role.REVIEWER
    page = manager.post(f"/p/{project.slug}/settings/people/add/", {"add-username": "nobody", "add-role": "reviewer"})
    assert page.status_code == 422
    assert b"Nobody here is called that" in page.content


def test_an_account_is_made_whose_password_is_shown_once_and_opens(manager: Client, project: Project) -> None:
    page = manager.post(
        f"/p/{project.slug}/settings/people/new/",
        {"new-username": "bea", "new-display_name": "Bea", "new-role": "annotator"},
    )
    found = re.search(r'class="secret">([^<]+)<', page.content.decode())
    assert found is not None
    password = found[1]
    assert Client().login(username="bea", password=password)
    assert password not in manager.get(f"/p/{project.slug}/settings/people/").content.decode()
    taken = manager.post(f"/p/{project.slug}/settings/people/new/", {"new-username": "bea", "new-role": "annotator"})
    assert taken.status_code == 422
    assert User.objects.filter(username="bea").count() == 1


def test_roles_change_people_pause_with_a_reason_and_leave(manager: Client, project: Project) -> None:
    user = make_user(project, username="ann")
    member = Member.objects.get(project=project, user=user)
    url = f"/p/{project.slug}/settings/people/{member.pk}/"

    manager.post(url, {"do": "role", "role": "reviewer"})
    member.refresh_from_db()
    assert member.role == Member.Role.REVIEWER
    assert manager.post(url, {"do": "pause", "reason": ""}).status_code == 422
    manager.post(url, {"do": "pause", "reason": "Please read the guidelines again."})
    member.refresh_from_db()
    assert member.pause_reason == "Please read the guidelines again."
    manager.post(url, {"do": "resume"})
    member.refresh_from_db()
    assert member.paused_at is None
    manager.post(url, {"do": "remove"})
    assert not Member.objects.filter(project=project, user=user).exists()


def test_a_project_keeps_its_last_manager(manager: Client, project: Project, boss: User) -> None:
    member = Member.objects.get(project=project, user=boss)
    url = f"/p/{project.slug}/settings/people/{member.pk}/"
    for sent in ({"do": "remove"}, {"do": "role", "role": "annotator"}):
        page = manager.post(url, sent)
        assert page.status_code == 422
        assert b"only manager" in page.content
    make_user(project, Member.Role.MANAGER)
    assert manager.post(url, {"do": "role", "role": "annotator"}).status_code == 302


def invite(project: Project, **more: object) -> Invitation:
    given = {"role": Member.Role.ANNOTATOR, "days": 7, "uses": 1, "created_by": None} | more
    return create_invitation(project=project, **given)  # type: ignore[arg-type]


def test_an_invited_person_makes_an_account_and_is_signed_in(manager: Client, project: Project) -> None:
    manager.post(
        f"/p/{project.slug}/settings/people/invite/",
        {"invite-role": "reviewer", "invite-days": "3", "invite-uses": "1", "invite-note": "Bea"},
    )
    page = manager.get(f"/p/{project.slug}/settings/people/").content.decode()
    link = re.search(r'value="http://testserver(/join/[^"]+)"', page)
    assert link is not None

    guest = Client()
    weak = guest.post(link[1], {"username": "bea", "password": "short"})
    assert weak.status_code == 422
    assert "password" in weak.context["form"].errors
    assert not User.objects.filter(username="bea").exists()
    joined = guest.post(link[1], {"username": "bea", "password": "a long enough one"})
    assert joined["location"] == f"/p/{project.slug}/judge/"
    assert guest.get(f"/p/{project.slug}/data/").status_code == 200  # a reviewer's page

    late = Client().get(link[1])
    assert late.status_code == 410
    assert b"has been used up" in late.content


def test_who_has_an_account_joins_with_it_and_no_role_is_lowered(project: Project) -> None:
    link = f"/join/{token_of(invite(project, uses=2))}/"
    user, boss = make_user(), make_user(project, Member.Role.MANAGER)
    for person in (user, user, boss):
        client = Client()
        client.force_login(person)
        assert client.post(link).status_code == 302
    assert Member.objects.get(project=project, user=user).role == Member.Role.ANNOTATOR
    assert Member.objects.get(project=project, user=boss).role == Member.Role.MANAGER
    assert Invitation.objects.get().uses_left == 1  # the second visit and the manager used nothing up


def test_a_link_opens_nothing_once_revoked_expired_forged_or_used_up(project: Project) -> None:
    revoked, expired, once = invite(project), invite(project), invite(project)
    revoke_invitation(invitation=revoked, revoked_by=None)
    Invitation.objects.filter(pk=expired.pk).update(expires_at=timezone.now())
    for token in (token_of(revoked), token_of(expired), token_of(once)[:-1], "nonsense"):
        with pytest.raises(InvitationClosed):
            find_invitation(token=token)
    accept_invitation(invitation=once, user=make_user())
    with pytest.raises(InvitationClosed):  # found while it still opened, by somebody slower
        accept_invitation(invitation=once, user=make_user())


def test_a_failed_join_leaves_no_account_behind(project: Project) -> None:
    invitation = invite(project)
    accept_invitation(invitation=invitation, user=make_user())
    with pytest.raises(InvitationClosed):
        join_as_new_user(invitation=invitation, username="bea", display_name="", password="a long enough one")
    assert not User.objects.filter(username="bea").exists()


def test_an_invitation_of_another_project_is_not_ours_to_take_back(manager: Client, project: Project) -> None:
    other = invite(make_project())
    answer = manager.post(f"/p/{project.slug}/settings/people/links/{other.pk}/")
    assert answer.status_code == 404
    add_member(project=other.project, user=make_user())
    stranger = Member.objects.get(project=other.project)
    assert manager.post(f"/p/{project.slug}/settings/people/{stranger.pk}/", {"do": "remove"}).status_code == 404
