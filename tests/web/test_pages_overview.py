"""The overview: what it tells of a project, and the levers that set things going."""

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from django.test import Client
from django.utils import timezone

from feedback_app.annotation.models import Judgment, SampleJob
from feedback_app.projects.models import Member, Project
from feedback_app.rounds.models import Simulation
from feedback_app.rounds.overview import days_of
from feedback_app.rounds.services.scheduling import add_schedule
from tests.factories import make_judgment, make_project, make_prompt, make_tasks, make_user
from tests.web.judged import judged_rows, run_rows
from tests.web.round_rows import browser_of, page, press, round_at

pytestmark = pytest.mark.django_db


@pytest.fixture
def project() -> Project:
    return make_project("loop")


@pytest.fixture
def manager(project: Project) -> Client:
    return browser_of(project, Member.Role.MANAGER)


def test_an_empty_project_says_what_to_do_first(manager: Client) -> None:
    text = page(manager)
    assert "No policy answers yet" in text
    assert "Agreement shows once two people have judged the same task" in text
    assert "There are no prompts to sample" in text
    assert "rounds start when somebody starts them" in text


def test_the_overview_tells_agreement_and_judgments_to_learn_from(manager: Client, project: Project) -> None:
    run_rows(project, judged_rows(10))
    text = page(manager)
    assert "of two verdicts on the same pair agree" in text
    # Ten rows of three annotators each; no round has begun with any of them.
    assert '<b class="number">30</b> judgments to learn from' in text


def test_reviewers_see_the_overview_without_its_levers(project: Project) -> None:
    text = page(browser_of(project, Member.Role.REVIEWER))
    assert "/p/loop/simulate/" not in text
    assert "/p/loop/rounds/start/" not in text


def test_days_count_people_and_simulated_apart_and_leave_imports_out(project: Project) -> None:
    run_rows(project, judged_rows(3))
    judge = make_user(project)
    old, _new = (make_judgment(task, judge) for task in make_tasks(project, 2))
    Judgment.objects.filter(pk=old.pk).update(
        created_at=timezone.now() - timedelta(days=3), origin=Judgment.Origin.SIMULATED
    )
    days = days_of(project=project)
    assert [(day.people, day.simulated) for day in days if day.people or day.simulated] == [(0, 1), (1, 0)]
    # One judgment is the most of a day: both bars are as high as the drawing.
    assert [day.simulated_height for day in days if day.simulated] == [80]
    assert days[-1].people_height == 80


def test_the_active_round_and_its_time_left_stand_on_the_overview(manager: Client, project: Project) -> None:
    round_at(project, "running", "ppo", ppo=5)
    text = page(manager)
    assert "Round 1" in text
    assert "5 / 10" in text
    # Five updates of six seconds are left, and nothing is known of the steps after.
    assert "less than a minute left of this step" in text
    assert "every 4s" in text
    part = manager.get("/p/loop/", headers={"hx-request": "true"})
    assert b"<html" not in part.content
    assert "HX-Request" in part["vary"]  # or the browser's way back would show the part as a page


def test_the_overview_asks_no_more_queries_as_judgments_grow(
    manager: Client, project: Project, django_assert_max_num_queries: Callable[[int], Any]
) -> None:
    run_rows(project, judged_rows(30))
    round_at(project, "running", "ppo", ppo=5)
    for _ in range(3):
        add_schedule(project=project, kind="judgments", every=100)
    with django_assert_max_num_queries(45):
        page(manager)


def test_sampling_from_the_overview_queues_a_job(manager: Client, project: Project) -> None:
    make_prompt(project)
    assert press(manager, "sample/", prompts=3).status_code == 302
    assert SampleJob.objects.get(project=project).prompts_wanted == 3
    refused = press(manager, "sample/", prompts=0)
    assert refused.status_code == 422
    assert "prompts" in refused.context["sample_form"].errors


def test_a_simulation_is_queued_by_a_preset_and_never_by_code(manager: Client, project: Project) -> None:
    make_tasks(project, 2)
    given = {"judgments": 10, "annotators": 2, "preference": "concise", "noise": "0.5"}
    code = press(manager, "simulate/", **given | {"preference": "os:getcwd"})
    assert code.status_code == 422
    assert "preference" in code.context["simulate_form"].errors
    assert press(manager, "simulate/", **given).status_code == 302
    job = Simulation.objects.get(project=project)
    assert (job.judgments, job.annotators, job.preference, job.noise) == (10, 2, "concise", 0.5)
    second = press(manager, "simulate/", **given)
    assert second.status_code == 422
    assert "under way already" in second.content.decode()
    assert "have judged 0 of 10" in page(manager)


def test_a_simulation_of_nothing_to_judge_says_so(manager: Client) -> None:
    refused = press(manager, "simulate/", judgments=10, annotators=2, preference="concise", noise=1)
    assert refused.status_code == 422
    assert "no task is waiting to be judged" in refused.content.decode()
