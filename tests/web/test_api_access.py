"""Every route and method of the API, walked by everybody: signed out, of another project, annotator, reviewer, manager,
administrator.

What is below /api/v1/ says its least role in LEAST; a route or a method that is not there fails the test.
"""

from collections.abc import Iterator
from typing import Any

import pytest
from django.test import Client
from django.urls import URLPattern, URLResolver

from feedback_app.accounts.models import User
from feedback_app.accounts.services import create_user
from feedback_app.annotation.models import Judgment, SampleJob
from feedback_app.annotation.services import create_prompts
from feedback_app.datasets.services import create_dataset_version, request_version
from feedback_app.projects.models import Member, Project
from feedback_app.projects.permissions import RANK
from feedback_app.urls import api_v1
from tests.factories import make_judgment, make_project, make_task, make_token, make_user
from tests.web.judged import judged_row, run_rows
from tests.web.round_rows import policy_of, round_at

pytestmark = pytest.mark.django_db

ANNOTATOR, REVIEWER, MANAGER = Member.Role.ANNOTATOR, Member.Role.REVIEWER, Member.Role.MANAGER
LEAST = {
    ("post", "projects/<slug:slug>/tasks/next/"): ANNOTATOR,
    ("get", "projects/<slug:slug>/work/"): ANNOTATOR,
    ("get", "projects/<slug:slug>/quality/"): REVIEWER,
    ("get", "projects/<slug:slug>/trust/"): REVIEWER,
    ("get", "projects/<slug:slug>/reviews/"): REVIEWER,
    ("post", "judgments/<uuid:judgment_id>/review/"): REVIEWER,
    ("post", "tasks/<uuid:task_id>/gold/"): MANAGER,
    ("post", "projects/<slug:slug>/tasks/change/"): MANAGER,
    ("post", "projects/<slug:slug>/judgments/void/"): MANAGER,
    ("post", "projects/<slug:slug>/sample/"): MANAGER,
    ("get", "samples/<uuid:job_id>/"): REVIEWER,
    ("get", "projects/<slug:slug>/imports/"): MANAGER,
    ("post", "projects/<slug:slug>/imports/"): MANAGER,
    ("get", "imports/<uuid:job_id>/"): MANAGER,
    ("get", "imports/<uuid:job_id>/report/"): MANAGER,
    ("get", "projects/<slug:slug>/export/"): MANAGER,
    ("get", "projects/<slug:slug>/datasets/"): MANAGER,
    ("post", "projects/<slug:slug>/datasets/"): MANAGER,
    ("get", "datasets/jobs/<uuid:version_job_id>/"): MANAGER,
    ("get", "datasets/<uuid:dataset_id>/"): MANAGER,
    ("get", "datasets/<uuid:dataset_id>/diff/"): MANAGER,
    ("get", "datasets/<uuid:dataset_id>/download/"): MANAGER,
    ("get", "projects/<slug:slug>/erasures/"): MANAGER,
    ("post", "projects/<slug:slug>/erasures/"): MANAGER,
    ("get", "projects/<slug:slug>/policies/"): REVIEWER,
    ("post", "policies/<uuid:policy_id>/push/"): MANAGER,
    ("post", "projects/<slug:slug>/policies/register/"): MANAGER,
    ("post", "policies/<uuid:policy_id>/evaluate/"): MANAGER,
    ("post", "projects/<slug:slug>/rollback/"): MANAGER,
    ("post", "projects/<slug:slug>/rounds/"): MANAGER,
    ("get", "rounds/<uuid:round_id>/"): REVIEWER,
    **{
        ("post", f"rounds/<uuid:round_id>/{act}/"): MANAGER
        for act in ("cancel", "pause", "resume", "retry", "approve", "reject", "settle")
    },
}
# Open to whose it is alone, whatever the role; and what the other members are answered.
OWN = {
    ("put", "tasks/<uuid:task_id>/draft/"): 404,
    ("post", "tasks/<uuid:task_id>/renew/"): 404,
    ("post", "tasks/<uuid:task_id>/skip/"): 404,
    ("post", "tasks/<uuid:task_id>/report/"): 404,
    ("post", "tasks/<uuid:task_id>/judgments/"): 404,
    ("put", "judgments/<uuid:judgment_id>/"): 403,
    ("put", "judgments/<uuid:judgment_id>/draft/"): 403,
    ("delete", "judgments/<uuid:judgment_id>/draft/"): 403,
}
METHODS = ("get", "post", "put", "patch", "delete")


def routes(patterns: Any = None, above: str = "") -> Iterator[tuple[str, str]]:
    """Yield (method, route) of everything below /api/v1/; a choice of acts in an address is a route each."""
    for pattern in api_v1 if patterns is None else patterns:
        route = above + str(pattern.pattern)
        if isinstance(pattern, URLResolver):
            yield from routes(pattern.url_patterns, route)
        elif isinstance(pattern, URLPattern):
            view: Any = pattern.callback
            for spelled in _spelled(route):
                yield from ((method, spelled) for method in METHODS if hasattr(view.view_class, method))


def _spelled(route: str) -> list[str]:
    if not route.startswith("^"):
        return [route]
    start, acts = route.removeprefix("^").removesuffix(")/$").split("(?P<act>")
    return [start.replace("(?P<round_id>[0-9a-f-]{36})", "<uuid:round_id>") + f"{act}/" for act in acts.split("|")]


@pytest.fixture
def project() -> Project:
    return make_project("walked")


@pytest.fixture
def people(project: Project) -> dict[str, Client]:
    """Everybody who may come, from the least to the most."""
    found: dict[str, User | None] = {
        "nobody": None,
        "stranger": make_user(make_project(), MANAGER),
        **{str(role): make_user(project, role) for role in (ANNOTATOR, REVIEWER, MANAGER)},
        "administrator": create_user(username="root", is_superuser=True),
    }
    return {
        name: Client(headers={"Authorization": f"Token {make_token(user)}"} if user else {})
        for name, user in found.items()
    }


@pytest.fixture
def values(project: Project) -> dict[str, str]:
    """What stands in the addresses: real things, so that whoever may reach them reaches them."""
    task = make_task(project)
    judgment = make_judgment(task, make_user(project))
    job = run_rows(project, [judged_row(number) for number in range(2)])
    held = round_at(project, "succeeded")
    create_prompts(project=project, prompts=["Fresh?"])
    sampling = SampleJob.objects.create(project=project, prompts_wanted=1, responses_per_prompt=2, state="done")
    return {
        "<slug:slug>": project.slug,
        "<uuid:task_id>": str(task.pk),
        "<uuid:judgment_id>": str(judgment.pk),
        "<uuid:round_id>": str(held.pk),
        "<uuid:policy_id>": str(policy_of(held, 1).pk),
        "<uuid:dataset_id>": str(create_dataset_version(project=project, format="judgments").pk),
        "<uuid:version_job_id>": str(request_version(project=project, format="ranked").pk),
        "imports": str(job.pk),
        "samples": str(sampling.pk),
    }


def address(route: str, values: dict[str, str]) -> str:
    """Return a route's address."""
    parts = route.split("/")
    return "/api/v1/" + "/".join(values[parts[0]] if part == "<uuid:job_id>" else values.get(part, part)
                                 if part.startswith("<") else part for part in parts)  # fmt: skip


def ask(client: Client, method: str, url: str) -> int:
    """Return what an empty request is answered; what a view throws is the test's failure."""
    body: dict[str, Any] = {} if method == "get" else {"data": {}, "content_type": "application/json"}
    return int(getattr(client, method)(url, **body).status_code)


def test_every_route_of_the_api_is_known_with_its_least_role() -> None:
    assert sorted(routes()) == sorted([*LEAST, *OWN])


@pytest.mark.parametrize(("method", "route"), sorted(LEAST))
def test_a_route_opens_for_its_roles_and_for_nobody_else(
    values: dict[str, str], people: dict[str, Client], method: str, route: str
) -> None:
    url, least = address(route, values), LEAST[method, route]
    for name, client in people.items():
        status = ask(client, method, url)
        if name in ("nobody", "stranger"):
            assert status == {"nobody": 401, "stranger": 404}[name], (url, name)
        elif name in RANK and RANK[Member.Role(name)] < RANK[least]:
            assert status == 403, (url, name)
        else:
            # An empty request may be refused for what it says, or by the state of things, but not for who asks.
            assert status in (200, 201, 202, 204, 400, 409), (url, name)


@pytest.mark.parametrize(("method", "route"), sorted(OWN))
def test_what_is_somebodys_own_opens_for_no_other_role(
    values: dict[str, str], people: dict[str, Client], method: str, route: str
) -> None:
    url = address(route, values)
    for name, client in people.items():
        expected = {"nobody": 401, "stranger": 404}.get(name, OWN[method, route])
        assert ask(client, method, url) == expected, (url, name)
    owner = Judgment.objects.get(pk=values["<uuid:judgment_id>"]).annotator
    mine = Client(headers={"Authorization": f"Token {make_token(owner)}"})
    assert ask(mine, method, url) in (204, 400, 409)  # submitted already, or an empty verdict


def test_the_description_of_the_api_is_open_and_names_every_route() -> None:
    answer = Client().get("/api/v1/schema/", headers={"Accept": "application/json"})
    assert answer.status_code == 200
    text = answer.content.decode()
    for _method, route in routes():
        assert "/" + route.split("<")[0].strip("/") in text, route
