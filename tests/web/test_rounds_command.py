"""start_round and seed from the command line."""

import json
from collections.abc import Iterator
from io import StringIO
from pathlib import Path

import pytest
from django.core.management import CommandError, call_command
from pytest_django import Settings

from feedback_app.annotation.models import Prompt, Task
from feedback_app.projects.models import Project
from feedback_app.rounds.management.commands import start_round
from feedback_app.rounds.models import Round
from feedback_app.rounds.recipes import parse_recipe
from feedback_app.rounds.services import publish_recipe
from feedback_app.serving.models import PolicyVersion
from tests.factories import make_project
from tests.web.endpoint import FakeEndpoint, run_endpoint
from tests.web.rounds import GOOD, LAUNCHER, judged_project

pytestmark = pytest.mark.django_db


@pytest.fixture
def endpoint(settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeEndpoint]:
    settings.BASE_MODEL = str(tmp_path)
    monkeypatch.setenv("FAKE_METRICS", json.dumps({"evaluate": GOOD}))
    monkeypatch.setattr(start_round, "WORKER_ANSWERS_WITHIN_S", 0.0)
    with run_endpoint() as fake:
        settings.SERVING_URL = fake.url
        yield fake


def ready_project(**recipe: object) -> Project:
    project = judged_project(40)
    publish_recipe(project=project, recipe=parse_recipe({"launcher": LAUNCHER, **recipe}, by_operator=True))
    return project


def test_where_no_worker_answers_the_command_does_the_round_itself_and_prints_it(endpoint: FakeEndpoint) -> None:
    project, out, told = ready_project(), StringIO(), StringIO()
    call_command("start_round", project.slug, "--wait", stdout=out, stderr=told)
    shown = json.loads(out.getvalue())
    assert (shown["state"], shown["policy"]) == ("succeeded", f"{project.slug}-v1")
    assert [step["progress"] for step in shown["steps"] if step["name"] == "ppo"] == [1]  # how many, not the curve
    assert "No worker answers" in told.getvalue()


def test_a_round_that_does_not_go_live_is_printed_and_ends_the_command_with_an_error(endpoint: FakeEndpoint) -> None:
    project, out = ready_project(gate={"max_kl": 5.0}), StringIO()
    with pytest.raises(CommandError, match=r"the round is rejected: KL to the parent: 9.0 nats"):
        call_command("start_round", project.slug, "--wait", stdout=out, stderr=StringIO())
    assert json.loads(out.getvalue())["state"] == "rejected"


def test_without_wait_the_round_is_queued_and_its_id_printed() -> None:
    project, out = ready_project(), StringIO()
    call_command("start_round", project.slug, stdout=out)
    assert Round.objects.get(pk=out.getvalue().strip()).state == "queued"
    with pytest.raises(CommandError, match="active already"):
        call_command("start_round", project.slug)
    with pytest.raises(CommandError, match="no judgments to learn from"):
        call_command("start_round", make_project().slug)
    with pytest.raises(CommandError, match="no project 'nowhere'"):
        call_command("start_round", "nowhere")


def test_seed_makes_the_shipped_projects_once() -> None:
    out = StringIO()
    call_command("seed", stdout=out)
    assert out.getvalue().split() == ["chinese", "english"]
    counts = (Project.objects.count(), Prompt.objects.count(), Task.objects.count())
    english = Project.objects.get(slug="english")
    # The English one is sampled live, from at least 60 prompts; the Chinese one ships its responses.
    assert Prompt.objects.filter(project=english).count() >= 60
    assert PolicyVersion.objects.filter(project=english, number=0).exists()
    assert Task.objects.filter(project__slug="chinese").exists()
    again = StringIO()
    call_command("seed", stdout=again)
    assert again.getvalue() == ""
    assert (Project.objects.count(), Prompt.objects.count(), Task.objects.count()) == counts
