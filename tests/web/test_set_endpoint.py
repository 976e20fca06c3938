"""Registering servers of language models, and moving a project to one that holds its live version."""

from io import StringIO
from pathlib import Path

import pytest
from django.core.management import CommandError, call_command

from feedback_app.projects.models import Project
from feedback_app.projects.services import create_project
from feedback_app.serving.backends import BackendError
from feedback_app.serving.backends.tgi import TGIBackend
from feedback_app.serving.models import Deployment, Endpoint
from feedback_app.serving.services import ensure_base_policy

pytestmark = pytest.mark.django_db
TGI = '{"blue": {"url": "http://blue", "current_file": "%s"}, "green": {"url": "http://green", "current_file": "%s"}}'


@pytest.fixture
def project() -> Project:
    project = create_project(slug="demo")
    ensure_base_policy(project=project, directory="/data/models/base")
    return project


@pytest.fixture
def serving(monkeypatch: pytest.MonkeyPatch) -> dict[str, str | None]:
    """What each colour says that it serves: the containers lie outside of this machine."""
    served: dict[str, str | None] = {"blue": None, "green": None}
    monkeypatch.setattr(TGIBackend, "_serving", lambda self, colour: served[colour])
    answer = {"tokens": [5], "logprobs": [-0.1]}
    monkeypatch.setattr(TGIBackend, "greedy", lambda self, policy, prompt, count: {**prompt, **answer})
    return served


def set_endpoint(*arguments: str) -> str:
    out = StringIO()
    call_command("set_endpoint", "gpus", "--backend", "tgi", "--url", "http://blue", *arguments, stdout=out)
    return out.getvalue().strip()


def test_an_endpoint_is_made_once_and_changed_after(tmp_path: Path) -> None:
    assert set_endpoint("--options", TGI % (tmp_path / "b", tmp_path / "g")) == "gpus"
    assert set_endpoint("--options", '{"token": "t"}') == "gpus"
    endpoint = Endpoint.objects.get(name="gpus")
    assert (endpoint.backend, endpoint.settings) == ("tgi", {"token": "t"})


def test_a_project_moves_to_an_endpoint_that_serves_its_live_version(
    project: Project, serving: dict[str, str | None], tmp_path: Path
) -> None:
    serving["blue"] = "/data/models/base"
    set_endpoint("--options", TGI % (tmp_path / "b", tmp_path / "g"), "--project", "demo")
    assert Deployment.objects.get(project=project).endpoint.name == "gpus"


def test_a_project_stays_where_an_endpoint_does_not_take_its_version(
    project: Project, serving: dict[str, str | None], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(self: TGIBackend, policy: object) -> None:
        raise BackendError("endpoint gpus: blue did not come up")

    monkeypatch.setattr(TGIBackend, "stage", refuse)
    monkeypatch.setattr(TGIBackend, "identify", refuse)
    with pytest.raises(CommandError, match="blue did not come up"):
        set_endpoint("--project", "demo")
    assert Deployment.objects.get(project=project).endpoint.name == "embedded"


def test_a_push_makes_the_folder_of_its_current_file(
    project: Project, serving: dict[str, str | None], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    current = tmp_path / "serving" / "CURRENT.blue"
    monkeypatch.setattr("time.sleep", lambda seconds: serving.update(blue=current.read_text()))
    set_endpoint("--options", TGI % (current, tmp_path / "serving" / "CURRENT.green"), "--project", "demo")
    assert current.read_text() == "/data/models/base"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--options", "{"), "--options: "),
        (("--options", "[]"), "--options: a JSON object is needed"),
        (("--project", "nowhere"), "no project 'nowhere'"),
        (("--url", "blue:80"), "url: "),
    ],
)
def test_what_cannot_be_is_said_in_one_line(arguments: tuple[str, ...], words: str) -> None:
    with pytest.raises(CommandError) as caught:
        set_endpoint(*arguments)
    assert str(caught.value).startswith(words)
    assert "\n" not in str(caught.value)
