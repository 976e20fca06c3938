"""How near an endpoint comes to itself and to the trainer sets how near a pushed version must come."""

import itertools
import json
from collections.abc import Callable, Iterator
from datetime import datetime
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from django.utils import timezone

from feedback_app.projects.models import Member, Project
from feedback_app.serving.backends import BackendError
from feedback_app.serving.models import Deployment, Endpoint, PolicyVersion
from feedback_app.serving.services import ensure_base_policy, measure_endpoint, roll_back
from feedback_app.serving.services.canaries import (
    PLAIN_PROMPTS,
    REPEATS,
    TIGHTEST,
    UNCOMPARED,
    WIDEST,
    calibrate_endpoint,
    can_be_measured,
)
from tests.factories import make_project
from tests.inference_server import write_manifest
from tests.web.endpoint import FakeEndpoint, run_endpoint
from tests.web.round_rows import browser_of

pytestmark = pytest.mark.django_db
EXPECTED = [(5, -0.5), (6, -0.7)]
Tokens = list[tuple[int, float]]


@pytest.fixture
def server() -> Iterator[FakeEndpoint]:
    with run_endpoint() as fake:
        yield fake


@pytest.fixture
def project(tmp_path: Path) -> Project:
    """Return a project whose base model a trainer has measured: one prompt of two tokens."""
    project, directory = make_project("loop"), tmp_path / "base"
    directory.mkdir()
    prompt = {"inputs": "Hi", "tokens": [t for t, _ in EXPECTED], "logprobs": [p for _, p in EXPECTED]}
    (directory / "canary.json").write_text(json.dumps({"max_new_tokens": 2, "prompts": [prompt]}))
    ensure_base_policy(project=project, directory=str(directory))
    return project


def answering(server: FakeEndpoint, answer: Callable[[int], Tokens]) -> None:
    """Have the server answer greedily by a function of how often it was asked before."""
    count = itertools.count()

    def greedy(body: dict[str, Any]) -> dict[str, Any]:
        tokens = [{"id": token, "logprob": logprob} for token, logprob in answer(next(count))]
        return {"details": {"tokens": tokens, "policy_version": body["parameters"]["adapter_id"]}}

    server.greedy = greedy  # type: ignore[method-assign]


def register(server: FakeEndpoint, *projects: str) -> Endpoint:
    arguments = [argument for slug in projects for argument in ("--project", slug)]
    call_command("set_endpoint", "ours", "--backend", "embedded", "--url", server.url, *arguments, stdout=StringIO())
    return Endpoint.objects.get(name="ours")


def farther(by: float) -> Tokens:
    return [(token, logprob - by) for token, logprob in EXPECTED]


@pytest.mark.parametrize(
    ("apart", "tolerance"),
    [
        (0.05, 0.15),  # three times as far as it was found to be
        (0.0, TIGHTEST),
        (0.03, TIGHTEST),  # 0.09
        (0.3, WIDEST),  # 0.9
    ],
)
def test_the_tolerance_is_three_times_the_distance_to_the_trainer_within_bounds(
    server: FakeEndpoint, project: Project, apart: float, tolerance: float
) -> None:
    answering(server, lambda _: farther(apart))
    endpoint = register(server, "loop")
    assert endpoint.canary_tolerance == pytest.approx(tolerance)
    assert endpoint.calibration["from_trainer"] == pytest.approx(apart)
    assert (endpoint.calibration["repeats"], endpoint.calibration["policy"]) == (0.0, "loop-v0")
    assert timezone.now() >= datetime.fromisoformat(endpoint.calibration["at"])
    assert Deployment.objects.get(project=project).endpoint == endpoint


def test_what_it_wavers_by_counts_as_well(server: FakeEndpoint, project: Project) -> None:
    # The first answer is the trainer's, each repeat 0.06 beside it: 3 * 0.06.
    answering(server, lambda number: farther(0.06 if number else 0.0))
    assert register(server, "loop").canary_tolerance == pytest.approx(0.18)


def test_without_a_trainers_measure_the_usual_tolerance_is_the_tightest(server: FakeEndpoint) -> None:
    ensure_base_policy(project=make_project("loop"), directory="/data/models/base")
    asked: list[int] = []

    def waver(number: int) -> Tokens:
        asked.append(number)
        # Each prompt is asked once alone, and then all of them at once.
        return [(5, -0.5 if number < len(PLAIN_PROMPTS) else -0.6)]

    answering(server, waver)
    endpoint = register(server, "loop")
    assert len(asked) == len(PLAIN_PROMPTS) * (1 + REPEATS)
    assert endpoint.canary_tolerance == pytest.approx(0.3)  # 3 * 0.1
    answering(server, lambda _: [(5, -0.5)])
    assert register(server, "loop").canary_tolerance == UNCOMPARED
    assert endpoint.calibration["from_trainer"] is None


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (lambda number: [(5, -0.5), (6 + number, -0.7 - number)], "does not repeat itself: .* another one 1.000"),
        (lambda number: farther(0.6 * (number % 2)), "does not repeat itself: .* the same one 0.600 apart"),
        (lambda number: EXPECTED[: 1 + number % 2], "does not repeat itself: 1 tokens came, and 2"),
        (lambda number: [(5, float("nan"))], "does not repeat itself: .* nan apart"),
        (lambda number: [], "answers nothing"),
        (lambda number: farther(0.51), r"does not answer with loop-v0 as the trainer measured it: .* 0.510 from"),
    ],
)  # fmt: skip
def test_an_endpoint_that_cannot_be_relied_on_is_not_given_a_project(
    server: FakeEndpoint, project: Project, answer: Callable[[int], Tokens], said: str
) -> None:
    answering(server, answer)
    with pytest.raises(CommandError, match=f"^endpoint ours: {said}"):
        register(server, "loop")
    assert Deployment.objects.get(project=project).endpoint.name == "embedded"


def test_two_tokens_that_are_nearly_as_likely_may_take_each_others_place(
    server: FakeEndpoint, project: Project
) -> None:
    answering(server, lambda number: [(5, -0.5), (6, -0.7)] if number % 2 else [(5, -0.5), (9, -0.71)])
    assert register(server, "loop").canary_tolerance == TIGHTEST


def test_an_endpoint_that_serves_already_is_measured_again_when_it_is_changed(
    server: FakeEndpoint, project: Project
) -> None:
    answering(server, lambda _: farther(0.04))
    register(server, "loop")
    Endpoint.objects.filter(name="ours").update(requests_total=7)
    answering(server, lambda _: farther(0.08))
    endpoint = register(server)
    assert endpoint.canary_tolerance == pytest.approx(0.24)
    assert endpoint.requests_total == 7
    assert not measure_endpoint(endpoint=Endpoint.objects.create(name="new", backend="tgi", url="http://nobody"))


def test_an_endpoint_that_was_compared_with_no_trainer_is_measured_again_once_it_can_be(
    server: FakeEndpoint, project: Project, tmp_path: Path
) -> None:
    (tmp_path / "base" / "canary.json").rename(tmp_path / "kept.json")
    answering(server, lambda _: farther(0.0))
    endpoint, live = register(server, "loop"), Deployment.objects.get(project=project).live
    assert endpoint.canary_tolerance == UNCOMPARED
    assert not can_be_measured(endpoint=endpoint, policy=live)
    (tmp_path / "kept.json").rename(tmp_path / "base" / "canary.json")
    assert can_be_measured(endpoint=endpoint, policy=live)
    assert calibrate_endpoint(endpoint=endpoint, policy=live).canary_tolerance == TIGHTEST
    assert not can_be_measured(endpoint=endpoint, policy=live)


def test_going_back_does_not_wait_for_a_measure_of_what_is_live(
    server: FakeEndpoint, project: Project, tmp_path: Path, settings: Any
) -> None:
    """The version that is live is what is ill; the one before it answers as its trainer measured it."""
    settings.SERVING_URL = server.url
    base = Deployment.objects.get(project=project).live
    write_manifest(tmp_path / "base")
    ill = PolicyVersion.objects.create(
        project=project, number=1, name="loop-v1", source="round", parent=base, directory=str(tmp_path / "ill")
    )
    Deployment.objects.update(live=ill, previous=base)
    count = itertools.count()

    def greedy(body: dict[str, Any]) -> dict[str, Any]:
        name, chance = body["parameters"]["adapter_id"], next(count)
        tokens = EXPECTED if name == base.name else [(chance, -2.0 - chance)]
        return {"details": {"tokens": [{"id": t, "logprob": p} for t, p in tokens], "policy_version": name}}

    server.greedy = greedy  # type: ignore[method-assign]
    roll_back(project=project)
    assert Deployment.objects.get(project=project).live == base
    Deployment.objects.update(live=ill)
    with pytest.raises(BackendError, match="does not repeat itself"):
        measure_endpoint(endpoint=Endpoint.objects.get(name="embedded"))


def test_the_page_says_what_the_tolerance_came_of(server: FakeEndpoint, project: Project) -> None:
    manager = browser_of(project, Member.Role.MANAGER)
    assert "not measured yet" in manager.get("/p/loop/policies/endpoint/").content.decode()
    answering(server, lambda _: farther(0.05))
    register(server, "loop")
    text = manager.get("/p/loop/policies/endpoint/").content.decode()
    assert "0.15 of the trainer" in text
    assert "measured with loop-v0: it repeats itself within 0.000" in text
    assert "comes within 0.050 of the trainer" in text
