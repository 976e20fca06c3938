"""Who may open a project, and what a project keeps of its own history."""

import pytest
from django.core.exceptions import PermissionDenied, ValidationError
from django.http import Http404
from django.test import Client

from feedback_app.accounts.models import ApiToken, AuditEntry
from feedback_app.accounts.services import create_user, issue_token, revoke_token
from feedback_app.projects.models import Member
from feedback_app.projects.permissions import get_project_for
from feedback_app.projects.services import (
    add_member,
    create_project,
    mark_guidelines_read,
    publish_guidelines,
    publish_protocol,
    remove_member,
    update_settings,
)

pytestmark = pytest.mark.django_db


def test_the_ladder_of_roles_is_kept_and_strangers_learn_nothing() -> None:
    project = create_project(slug="tea")
    annotator, reviewer, stranger = (create_user(username=name) for name in ("ann", "rev", "sid"))
    add_member(project=project, user=annotator, role=Member.Role.ANNOTATOR)
    add_member(project=project, user=reviewer, role=Member.Role.REVIEWER)
    administrator = create_user(username="root", is_superuser=True)

    assert get_project_for(annotator, "tea") == project
    assert get_project_for(reviewer, "tea", Member.Role.REVIEWER) == project
    assert get_project_for(administrator, "tea", Member.Role.MANAGER) == project
    with pytest.raises(PermissionDenied):
        get_project_for(annotator, "tea", Member.Role.REVIEWER)
    with pytest.raises(PermissionDenied):
        get_project_for(reviewer, "tea", Member.Role.MANAGER)
    for slug in ("tea", "no-such-project"):
        with pytest.raises(Http404):
            get_project_for(stranger, slug)


def test_leaving_a_project_closes_it() -> None:
    project = create_project(slug="tea")
    user = create_user(username="ann")
    add_member(project=project, user=user)
    remove_member(project=project, user=user, removed_by=None)
    with pytest.raises(Http404):
        get_project_for(user, "tea")


def test_versions_are_numbered_on_and_the_old_ones_stay() -> None:
    project = create_project(slug="tea", guidelines="first")
    first = project.guidelines
    second = publish_guidelines(project=project, text="second")
    protocol = publish_protocol(project=project, protocol="ranking")
    assert (second.number, protocol.number, project.protocol) == (2, 2, protocol)
    assert first is not None
    first.refresh_from_db()
    assert first.text == "first"


def test_reading_guidelines_twice_is_reading_them_once() -> None:
    project = create_project(slug="tea")
    user = create_user(username="ann")
    assert project.guidelines is not None
    for _ in range(2):
        mark_guidelines_read(guidelines=project.guidelines, user=user)
    assert project.guidelines.readings.count() == 1


def test_settings_out_of_bounds_name_their_field_and_change_nothing() -> None:
    project = create_project(slug="tea")
    with pytest.raises(ValidationError) as caught:
        update_settings(project=project, changed_by=None, responses_per_prompt=10)
    assert list(caught.value.message_dict) == ["responses_per_prompt"]
    project.refresh_from_db()
    assert project.responses_per_prompt == 2
    with pytest.raises(ValidationError) as caught:
        create_project(slug="Not A Slug")
    assert list(caught.value.message_dict) == ["slug"]


def test_acts_are_written_to_the_audit_trail() -> None:
    manager = create_user(username="mia")
    project = create_project(slug="tea", created_by=manager)
    update_settings(project=project, changed_by=manager, overlap=3)
    actions = AuditEntry.objects.filter(project_slug="tea").values_list("action", flat=True)
    assert list(actions) == ["project.settings", "project.create", "member.role"]


def test_a_token_opens_the_api_until_it_is_revoked_and_is_never_stored() -> None:
    user = create_user(username="ann")
    project = create_project(slug="tea")
    add_member(project=project, user=user)
    key = issue_token(user=user)
    assert not ApiToken.objects.filter(key_sha256=key).exists()

    client = Client(headers={"authorization": f"Token {key}"})
    assert client.post("/api/v1/projects/tea/tasks/next/").status_code == 204
    assert Client(headers={"authorization": "Token wrong"}).post("/api/v1/projects/tea/tasks/next/").status_code == 401
    assert Client().post("/api/v1/projects/tea/tasks/next/").status_code == 401
    revoke_token(token=ApiToken.objects.get(), revoked_by=None)
    assert client.post("/api/v1/projects/tea/tasks/next/").status_code == 401
