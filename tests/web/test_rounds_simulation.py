"""Simulated annotators: over real HTTP, by a stated taste with noise, marked, and never taken for people."""

import json
import math
import random
from collections import Counter
from collections.abc import Callable
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from pytest_django.live_server_helper import LiveServer

from feedback_app.accounts.models import User
from feedback_app.annotation.models import Judgment
from feedback_app.projects.models import Project
from feedback_app.rounds.simulation.annotators import Annotator, SimulationError
from feedback_app.rounds.simulation.preferences import PreferenceError, concise, find_preference, structured, thorough
from feedback_app.rounds.simulation.services import simulate
from tests.factories import make_judgment, make_project, make_task, make_tasks, make_user

Messages = list[dict[str, str]]
PAIRWISE = {"ranking": "required", "strength": "off", "strength_levels": 3, "attributes": [], "rationale": "optional"}


def by_number(messages: object, text: str) -> float:
    """Score a response by the number that it is."""
    return float(text)


def annotator_with(noise: float, preference: Callable[..., float] = by_number) -> Annotator:
    return Annotator("http://nowhere", "p", "token", preference, noise, random.Random(1))


def task_of(*texts: str, **protocol: Any) -> dict[str, Any]:
    responses = [{"id": f"r{index}", "text": text} for index, text in enumerate(texts)]
    return {"prompt": {"messages": []}, "responses": responses, "protocol": {**PAIRWISE, **protocol}}


def test_without_noise_the_order_is_the_scores_and_equal_ones_tie() -> None:
    judged = annotator_with(0).judge(task_of("1", "3", "1", "2"))
    assert judged["ranking"] == [["r1"], ["r3"], ["r0", "r2"]]


@pytest.mark.parametrize(("difference", "noise"), [(1.0, 1.0), (2.0, 1.0), (1.0, 2.0), (0.0, 1.0)])
def test_a_choice_is_drawn_by_bradley_terry(difference: float, noise: float) -> None:
    annotator, task = annotator_with(noise), task_of(str(difference), "0")
    draws = 4000
    won = sum(annotator.judge(task)["ranking"][0] == ["r0"] for _ in range(draws)) / draws
    # 1 / (1 + exp(-difference / noise)); four standard errors of a share among 4000 are at most 0.032.
    assert won == pytest.approx(1 / (1 + math.exp(-difference / noise)), abs=0.032)


def test_a_ranking_of_three_is_drawn_by_plackett_luce() -> None:
    annotator, task = annotator_with(1.0), task_of("1", "0", "-1")
    orders = Counter(tuple(tier[0] for tier in annotator.judge(task)["ranking"]) for _ in range(4000))
    # The best first with e / (e + 1 + 1/e) = 0.665, and of the other two the better one with e / (e + 1) = 0.731.
    e = math.e
    assert orders["r0", "r1", "r2"] / 4000 == pytest.approx(e / (e + 1 + 1 / e) * e / (e + 1), abs=0.032)


def test_a_judgment_has_what_its_protocol_wants_and_no_more() -> None:
    attributes = [{"key": "help", "minimum": 1, "maximum": 5}]
    judged = annotator_with(0).judge(task_of("1", "3", ranking="off", attributes=attributes, rationale="required"))
    assert judged["ratings"] == {"r0": {"help": 1}, "r1": {"help": 5}}
    assert "ranking" not in judged
    assert judged["rationale"] == "simulated"
    strong = annotator_with(0).judge(task_of("9", "3", strength="required"))
    assert strong["strength"] == 3  # a difference above 3
    assert annotator_with(0).judge(task_of("3", "3", strength="required"))["strength"] == 0  # a tie


def test_preferences_are_found_by_name_and_code_by_an_operator_alone() -> None:
    short, long = "Yes.", "Yes, and there is much more to say of it."
    assert concise([], short) > concise([], long) > concise([], " ")
    assert thorough([], long) > thorough([], short)
    assert structured([], "- a\n2. b\nc") == 2
    here = f"{__name__}:by_number"
    assert find_preference(here, by_operator=True)([], "4") == 4
    for name, by_operator in ((here, False), ("kind", True), ("no.module:f", True), (f"{__name__}:nothing", True)):
        with pytest.raises(PreferenceError, match=r"^preference: "):
            find_preference(name, by_operator=by_operator)


def run(project: Project, url: str, **more: Any) -> int:
    choices = {"annotators": 2, "judgments": 10, "preference": by_number, "noise": 0.0}
    return simulate(project=project, url=url, **{**choices, **more})


@pytest.mark.django_db(transaction=True)
def test_simulated_judgments_are_marked_and_never_leave_with_real_ones(live_server: LiveServer, tmp_path: Path) -> None:
    project = make_project(slug="mixed")
    make_judgment(make_task(project, ("1", "2")), make_user(project))
    make_tasks(project, 6, ("1", "2"))
    assert run(project, live_server.url, judgments=4) == 4
    assert Counter(Judgment.objects.values_list("origin", flat=True)) == {"human": 1, "simulated": 4}
    made = Judgment.objects.filter(origin="simulated")
    assert {judgment.annotator.kind for judgment in made} == {User.Kind.SIMULATED}
    # The second response has the higher number, and without noise it always wins.
    assert {tuple(judgment.ranks) for judgment in made} == {(1, 0)}
    counts = {}
    for simulated in (None, "include", "only"):
        file = tmp_path / f"{simulated}.jsonl"
        chosen = [f"--simulated={simulated}"] if simulated else []
        call_command("export_data", "mixed", "--format", "judgments", "--output", str(file), *chosen)
        counts[simulated] = sum(len(json.loads(line)["judgments"]) for line in file.read_text().splitlines())
    assert counts == {None: 1, "include": 5, "only": 4}


@pytest.mark.django_db(transaction=True)
def test_no_more_are_made_than_were_asked_for_and_an_empty_queue_ends_it(live_server: LiveServer) -> None:
    project = make_project()
    make_tasks(project, 5, ("1", "2"))
    assert run(project, live_server.url, annotators=4, judgments=3) == 3
    assert run(project, live_server.url, annotators=4, judgments=100) == 2
    assert User.objects.filter(kind=User.Kind.SIMULATED).count() == 4  # the same four, hired again


@pytest.mark.django_db(transaction=True)
def test_what_the_api_refuses_ends_it_with_its_own_words(live_server: LiveServer) -> None:
    project = make_project()
    make_tasks(project, 1, ("1", "2"))
    with pytest.raises(SimulationError, match=r"POST /api/v1/projects/nowhere/tasks/next/: 404"):
        run(Project(pk=project.pk, slug="nowhere"), live_server.url)


@pytest.mark.django_db(transaction=True)
def test_the_command_prints_how_many_were_stored(live_server: LiveServer) -> None:
    project, out = make_project(), StringIO()
    make_tasks(project, 3, ("Short.", "A longer answer than the other one is."))
    call_command("simulate", project.slug, "--judgments", "3", "--noise", "0", "--url", live_server.url, stdout=out)
    assert out.getvalue() == "3\n"
    assert {tuple(judgment.ranks) for judgment in Judgment.objects.all()} == {(0, 1)}
    for wrong in (["nowhere"], [project.slug, "--judgments", "0"], [project.slug, "--preference", "kind"]):
        with pytest.raises(CommandError):
            call_command("simulate", *wrong, "--url", live_server.url)
