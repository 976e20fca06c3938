"""Every page, walked by everybody: signed out, of another project, annotator, reviewer, manager, administrator.

A page of a project says its least role by project_page, and what is written here for it must say the same. A page that
says neither fails the test: give it its least role below.
"""

import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from django.test import Client
from django.urls import URLPattern, URLResolver, get_resolver

from feedback_app.accounts.models import User
from feedback_app.accounts.services import create_user
from feedback_app.datasets.services import create_dataset_version, request_version
from feedback_app.projects.invitations import create_invitation, token_of
from feedback_app.projects.models import Member, Project
from feedback_app.projects.pages import ROOMS
from feedback_app.projects.permissions import RANK
from tests.factories import make_project, make_user
from tests.web.judged import judged_row, run_rows

pytestmark = pytest.mark.django_db

# Open to anybody, signed in or not: they ask nothing of a project, or, as join does, something else than a role.
PUBLIC = {
    "accounts/login/", "accounts/logout/", "accounts/theme/", "accounts/language/", "join/<str:token>/", "health/",
}  # fmt: skip
# Open to whoever is signed in.
SIGNED_IN = {
    "", "p/", "accounts/me/", "accounts/me/password/", "accounts/me/tokens/",
    "accounts/me/tokens/<int:token_id>/revoke/",
}  # fmt: skip
ADMINISTRATORS = {"projects/new/", "hosts/"}
ANNOTATOR, REVIEWER, MANAGER = Member.Role.ANNOTATOR, Member.Role.REVIEWER, Member.Role.MANAGER
# Least roles below p/<slug:slug>/, where they are written twice on purpose.
LEAST = {
    "judge/": ANNOTATOR, "history/": ANNOTATOR, "work/": ANNOTATOR,
    "tasks/": REVIEWER, "tasks/<uuid:task_id>/": REVIEWER, "tasks/change/": MANAGER, "tasks/sample/": MANAGER,
    "tasks/prompts/": MANAGER, "tasks/<uuid:task_id>/judgments/<uuid:judgment_id>/void/": MANAGER,
    "review/": REVIEWER, "review/<uuid:task_id>/": REVIEWER, "review/<uuid:task_id>/decide/": REVIEWER,
    "review/<uuid:task_id>/gold/": MANAGER,
    "quality/": REVIEWER, "quality/fitted/": REVIEWER, "quality/void/": MANAGER,
    "data/": REVIEWER, "data/versions/<int:number>/": REVIEWER, "data/export/": MANAGER,
    "data/browse/": REVIEWER, "data/figures/": REVIEWER, "data/figures/duplicates/": MANAGER, "data/erase/": MANAGER,
    "data/versions/jobs/<uuid:version_job_id>/": MANAGER,
    "data/import/": MANAGER, "data/import/<uuid:job_id>/": MANAGER, "data/import/<uuid:job_id>/act/": MANAGER,
    "settings/": MANAGER, "settings/protocol/": MANAGER, "settings/protocol/preview/": MANAGER,
    "settings/guidelines/": MANAGER, "settings/guidelines/preview/": MANAGER, "settings/people/": MANAGER,
    "settings/people/add/": MANAGER, "settings/people/new/": MANAGER, "settings/people/invite/": MANAGER,
    "settings/people/links/<uuid:invitation_id>/": MANAGER, "settings/people/<int:member_id>/": MANAGER,
    "settings/notifications/": REVIEWER, "settings/notifications/mine/": REVIEWER,
    "settings/notifications/webhooks/": MANAGER, "settings/notifications/webhooks/<uuid:webhook_id>/": MANAGER,
}  # fmt: skip
# These answer JSON to a script of the page, by the API's own rules and codes.
SCRIPTS = ("p/<slug:slug>/judge/",)
PROJECT = "p/<slug:slug>/"


@dataclass(frozen=True)
class Page:
    """A route of the site and its view."""

    route: str
    view: Any


def pages(patterns: Any = None, above: str = "") -> Iterator[Page]:
    """Yield every page, Django's admin and the API apart."""
    for pattern in get_resolver().url_patterns if patterns is None else patterns:
        route = above + str(pattern.pattern)
        if route.startswith(("admin/", "api/")):
            continue
        if isinstance(pattern, URLResolver):
            yield from pages(pattern.url_patterns, route)
        elif isinstance(pattern, URLPattern):
            yield Page(route, pattern.callback)


@pytest.fixture
def project() -> Project:
    return make_project("walked")


@pytest.fixture
def values(project: Project) -> dict[str, str]:
    """What stands in the addresses: real things, so that whoever may see them sees them."""
    job = run_rows(project, [judged_row(number) for number in range(3)])
    task = project.tasks.first()
    assert task is not None
    judgment = task.judgments.first()
    assert judgment is not None
    invitation = create_invitation(project=project, role=ANNOTATOR, days=1, uses=1, created_by=None)
    create_dataset_version(project=project, format="judgments")
    return {
        "<slug:slug>": project.slug,
        "<uuid:task_id>": str(task.pk),
        "<uuid:judgment_id>": str(judgment.pk),
        "<uuid:job_id>": str(job.pk),
        "<uuid:version_job_id>": str(request_version(project=project, format="ranked").pk),
        "<uuid:invitation_id>": str(invitation.pk),
        "<str:token>": token_of(invitation),
        "<int:member_id>": str(Member.objects.filter(project=project).values_list("pk", flat=True)[0]),
        "<int:number>": "1",
    }


@pytest.fixture
def people(project: Project) -> dict[str, Client]:
    """Everybody who may come, each with a browser of their own."""
    found: dict[str, User | None] = {
        "nobody": None,
        "stranger": make_user(make_project(), MANAGER),
        **{str(role): make_user(project, role) for role in (ANNOTATOR, REVIEWER, MANAGER)},
        "administrator": create_user(username="root", is_superuser=True),
    }
    return {name: signed_in(user) for name, user in found.items()}


def signed_in(user: User | None) -> Client:
    """Return a browser, signed in as a user where one is given; what a view throws is the test's failure."""
    client = Client(raise_request_exception=True)
    if user is not None:
        client.force_login(user)
    return client


def address(route: str, values: dict[str, str]) -> str:
    """Return a route's address; an object that this test does not know is one that is not there."""
    parts = [
        values.get(part) or (str(uuid.uuid4()) if part.startswith("<uuid") else "1" if part.startswith("<") else part)
        for part in route.split("/")
    ]
    return "/" + "/".join(parts)


def statuses(url: str, client: Client) -> dict[str, int]:
    """Return what GET and an empty POST are answered (PUT, where neither is known); unknown methods are left out."""
    answers = {"GET": client.get(url), "POST": client.post(url)}
    if all(answer.status_code == 405 for answer in answers.values()):
        answers["PUT"] = client.put(url, content_type="application/json")
    found = {
        method: 401 if answer.status_code == 302 and _to_sign_in(answer["location"]) else answer.status_code
        for method, answer in answers.items()
        if answer.status_code != 405
    }
    assert found, f"{url} answers no method"
    return found


def _to_sign_in(location: str) -> bool:
    return location.startswith("/accounts/login/")


def least_role(page: Page) -> Member.Role | None:
    """Return the least role of a project's page: what it declares, which is what is written here."""
    declared: Member.Role | None = getattr(page.view, "at_least", None)
    written = LEAST.get(page.route.removeprefix(PROJECT))
    if declared is not None and written is not None:
        assert declared == written, page.route
    return declared or written


def test_every_page_opens_for_its_roles_and_for_nobody_else(values: dict[str, str], people: dict[str, Client]) -> None:
    walked = 0
    for page in pages():
        if not page.route.startswith(PROJECT) or page.route.startswith(SCRIPTS):
            continue
        least = least_role(page)
        assert least is not None, f"{page.route}: say its least role by project_page"
        url = address(page.route, values)
        for name, client in people.items():
            expected = {"nobody": 401, "stranger": 404}.get(name)
            if name in RANK and RANK[Member.Role(name)] < RANK[least]:
                expected = 403
            for method, status in statuses(url, client).items():
                assert status < 500, (url, name, method, status)
                if expected is not None:
                    assert status == expected, (url, name, method, status)
                elif method == "GET" or name in (str(MANAGER), "administrator"):
                    # A page that many may read may keep its form for managers.
                    assert status not in (401, 403), (url, name, method, status)
        walked += 1
    assert walked >= len(LEAST) - len(SCRIPTS)


def test_what_the_judging_page_asks_is_closed_to_strangers(values: dict[str, str], people: dict[str, Client]) -> None:
    for page in pages():
        if not page.route.startswith(SCRIPTS):
            continue
        url = address(page.route, values)
        for name, closed in (("nobody", {401, 403}), ("stranger", {404})):
            assert set(statuses(url, people[name]).values()) <= closed, (url, name)


def test_pages_of_no_project_are_known_one_by_one(values: dict[str, str], people: dict[str, Client]) -> None:
    others = {page.route for page in pages() if not page.route.startswith(PROJECT)}
    assert others <= PUBLIC | SIGNED_IN | ADMINISTRATORS
    for route in others - PUBLIC:
        url = address(route, values)
        assert set(statuses(url, people["nobody"]).values()) == {401}, url
        for name in ("stranger", str(MANAGER)):
            # An empty form is refused, and a token of somebody else is not there.
            expected = {403} if route in ADMINISTRATORS else {200, 422, 404}
            assert set(statuses(url, people[name]).values()) <= expected, (url, name)
    assert statuses("/projects/new/", people["administrator"])["GET"] == 200


@pytest.mark.parametrize("role", [ANNOTATOR, REVIEWER, MANAGER])
def test_every_link_of_the_bar_opens_and_says_where_one_is(
    values: dict[str, str], people: dict[str, Client], project: Project, role: Member.Role
) -> None:
    client = people[str(role)]
    routes = {page.route for page in pages()}
    for room in ROOMS:
        if f"{PROJECT}{room.path}" not in routes:
            continue  # a room that is still being built leads nowhere for anybody
        answer = client.get(f"/p/{project.slug}/{room.path}")
        assert answer.status_code == (200 if RANK[role] >= RANK[room.at_least] else 403), room.path
        if answer.status_code == 200:
            links = [shown["url"] for shown in answer.context["rooms"]]
            assert f"/p/{project.slug}/{room.path}" in links
            assert len(links) == sum(RANK[role] >= RANK[other.at_least] for other in ROOMS)
            assert b'aria-current="page"' in answer.content
