"""Simulations asked for on a page: claimed once, gone on with by another worker, ended early where nothing waits."""

from datetime import timedelta
from typing import Any

import pytest
from django.utils import timezone
from pytest_django import Settings
from pytest_django.live_server_helper import LiveServer

from feedback_app.annotation.models import Judgment
from feedback_app.projects.models import Project
from feedback_app.rounds.models import Simulation
from feedback_app.rounds.simulation import jobs
from feedback_app.rounds.simulation.jobs import (
    SimulationRefused,
    request_simulation,
    run_simulation,
    waiting_simulations,
)
from tests.factories import make_project, make_tasks

pytestmark = pytest.mark.django_db(transaction=True)
CHOICES: dict[str, Any] = {
    "annotators": 2, "judgments": 6, "preference": "concise", "noise": 0.0, "requested_by": None,
}  # fmt: skip


@pytest.fixture
def project(live_server: LiveServer, settings: Settings) -> Project:
    settings.SITE_URL = live_server.url
    return make_project("rehearsal", overlap=1)


def run(job: Simulation) -> Simulation:
    """Do a simulation as a worker does it, and return it as it is then."""
    run_simulation(simulation_id=job.pk)
    return Simulation.objects.get(pk=job.pk)


def test_simulated_annotators_judge_as_many_as_asked_in_slices(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jobs, "SLICE", 4)  # six judgments are two slices
    make_tasks(project, 10, ("Yes.", "A much longer answer that says no more than the short one does."))
    job = run(request_simulation(project=project, **CHOICES))
    assert (job.state, job.judged, job.error) == ("done", 6, "")
    made = Judgment.objects.filter(project=project)
    assert {judgment.origin for judgment in made} == {"simulated"}
    # Without noise the short one, the first in canonical order, always wins.
    assert [judgment.ranks for judgment in made] == [[0, 1]] * 6
    assert run_simulation(simulation_id=job.pk) is None  # a bell rung twice does nothing


def test_a_queue_that_runs_empty_ends_it_and_says_how_many_were_made(project: Project) -> None:
    make_tasks(project, 3)
    job = run(request_simulation(project=project, **CHOICES))
    assert (job.state, job.judged) == ("done", 3)


def test_another_worker_goes_on_with_the_rest_once_the_first_is_silent(project: Project) -> None:
    make_tasks(project, 10)
    job = request_simulation(project=project, **CHOICES)
    claimed = Simulation.objects.filter(pk=job.pk)
    claimed.update(state="running", fence=1, judged=4, lease_until=timezone.now() + timedelta(minutes=1))
    assert waiting_simulations() == []
    assert run_simulation(simulation_id=job.pk) is None
    claimed.update(lease_until=timezone.now() - timedelta(seconds=1))
    assert waiting_simulations() == [job.pk]
    again = run(job)
    assert (again.state, again.judged, again.fence) == ("done", 6, 2)
    assert Judgment.objects.filter(project=project).count() == 2


def test_pages_that_cannot_be_reached_fail_it_with_the_reason(project: Project, settings: Settings) -> None:
    make_tasks(project, 2)
    settings.SITE_URL = "http://127.0.0.1:9"
    job = run(request_simulation(project=project, **CHOICES))
    assert job.state == "failed"
    assert job.error
    # The next one may be asked for at once.
    assert request_simulation(project=project, **CHOICES).state == "queued"


@pytest.mark.parametrize(
    "given",
    [{"preference": "os:getcwd"}, {"annotators": 0}, {"annotators": 21}, {"judgments": 5001}, {"noise": -0.1}],
)
def test_values_out_of_bounds_and_code_are_refused(project: Project, given: dict[str, Any]) -> None:
    make_tasks(project, 2)
    with pytest.raises(SimulationRefused):
        request_simulation(project=project, **CHOICES | given)
    assert not Simulation.objects.exists()
