"""After a push: the version is watched beside the one before it, and rolled back by itself where it does worse."""

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from django.utils import timezone

from feedback_app.accounts.models import AuditEntry
from feedback_app.annotation.sampling import claim_sample_job, request_sample, run_sample_job
from feedback_app.annotation.services import create_prompts
from feedback_app.projects.models import Member, Project
from feedback_app.rounds.recipes import RecipeError, parse_recipe
from feedback_app.serving.models import Deployment, Endpoint, Observation, PolicyVersion, Push, Soak
from feedback_app.serving.services import (
    PushRefused,
    ensure_base_policy,
    push_policy,
    register_policy,
    roll_back,
    watch_soaks,
    watching,
)
from feedback_app.serving.services.pushing import take_back
from feedback_app.serving.services.soaks import Takeback
from feedback_app.serving.services.watching import broken_bound
from feedback_app.serving.soak_rules import SoakRules
from tests.factories import make_project
from tests.web.endpoint import FakeEndpoint, run_endpoint
from tests.web.round_rows import browser_of, page, policy_of, round_at

pytestmark = pytest.mark.django_db
OVERLOADED = (424, {"error": "Request failed during generation", "error_type": "generation"})
EMPTY = (200, {"generated_text": "", "details": {"tokens": [], "policy_version": "loop-v1"}})


@pytest.fixture
def endpoint(settings: Any) -> Iterator[FakeEndpoint]:
    with run_endpoint() as fake:
        settings.SERVING_URL = fake.url
        yield fake


@pytest.fixture
def project(endpoint: FakeEndpoint, tmp_path: Path) -> Project:
    project = make_project("loop")
    (tmp_path / "base").mkdir()
    ensure_base_policy(project=project, directory=str(tmp_path / "base"))
    return project


@pytest.fixture
def pushed(project: Project, tmp_path: Path) -> Soak:
    """Return the soak of version 1, which has just gone live in place of the base."""
    (tmp_path / "new").mkdir()
    policy = register_policy(
        project=project, directory=tmp_path / "new", parent=None, source=PolicyVersion.Source.REGISTERED
    )
    push = push_policy(policy=policy, rules=SoakRules(minutes=5))
    assert policy.name == "loop-v1"
    return Soak.objects.get(push=push)


def live(project: Project) -> str:
    return Deployment.objects.select_related("live").get(project=project).live.name


def look(times: int = 1) -> Soak:
    """Let so many ticks go by, and return how the only soak stands."""
    for _ in range(times):
        watch_soaks()
    return Soak.objects.get()


def test_a_version_that_answers_as_well_is_let_go_when_its_time_is_over(pushed: Soak, project: Project) -> None:
    soak = look(2)
    # Two probes a tick, of each version.
    assert (soak.state, soak.figures["live"]["requests"], soak.figures["previous"]["requests"]) == ("watching", 4, 4)
    Soak.objects.update(until=timezone.now())
    assert look().state == Soak.State.PASSED
    assert watch_soaks() == []
    assert live(project) == "loop-v1"
    # What was asked is counted for the endpoint: 3 ticks of 2 probes of 2 versions.
    assert Endpoint.objects.get().requests_total == 12


def test_a_version_that_fails_is_rolled_back_within_two_ticks_and_says_so(
    pushed: Soak, project: Project, endpoint: FakeEndpoint
) -> None:
    endpoint.broken["loop-v1"] = OVERLOADED
    # 2 of 2 are fewer than may decide; 4 of 4 failing lie between 51 and 100 %, far above a tenth.
    assert look().state == Soak.State.WATCHING
    soak = look()
    assert (soak.state, soak.cause, live(project)) == (Soak.State.ROLLED_BACK, "errors", "loop-v0")
    assert soak.rollback is not None
    assert (soak.rollback.kind, soak.rollback.state, soak.rollback.requested_by) == ("rollback", "live", None)
    entry = AuditEntry.objects.get(action="policy.rollback")
    assert (entry.actor, entry.subject, entry.detail["cause"]) == (None, "loop-v0", "errors")
    assert entry.detail["live"]["errors"] == 4
    # The one gone back to is not watched: nothing swings to and fro.
    assert watch_soaks() == []


def test_empty_answers_are_as_good_a_reason(pushed: Soak, project: Project, endpoint: FakeEndpoint) -> None:
    endpoint.broken["loop-v1"] = EMPTY
    assert look(2).cause == Soak.Cause.EMPTY
    assert live(project) == "loop-v0"


def test_answers_many_times_as_slow_are_too(
    pushed: Soak, project: Project, endpoint: FakeEndpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watching, "FEWEST_PROBES", 4)
    monkeypatch.setattr(watching, "LATENCY_FLOOR_S", 0.1)
    endpoint.slow["loop-v1"] = 0.4
    assert look(2).cause == Soak.Cause.LATENCY
    assert live(project) == "loop-v0"


def test_a_server_that_fails_for_both_speaks_against_neither(
    pushed: Soak, project: Project, endpoint: FakeEndpoint
) -> None:
    endpoint.broken = {"loop-v1": OVERLOADED, "loop-v0": OVERLOADED}
    assert look(3).state == Soak.State.WATCHING
    assert live(project) == "loop-v1"
    assert not Observation.objects.exists()


def test_an_endpoint_that_is_away_is_waited_for_and_then_taken_to_have_fallen_by_the_version(
    pushed: Soak, project: Project, endpoint: FakeEndpoint, settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watching, "AWAY_TICKS", 2)
    at = settings.SERVING_URL
    Endpoint.objects.update(url="http://127.0.0.1:9")
    soak = look(2)
    assert (soak.state, soak.figures["live"]["requests"]) == (Soak.State.WATCHING, 0)
    # The third and fourth tick count; the rollback cannot be done either, says so, and is tried again.
    settings.SERVING_URL = "http://127.0.0.1:9"
    soak = look(2)
    assert (soak.state, live(project)) == (Soak.State.WATCHING, "loop-v1")
    assert soak.trouble.startswith("stage: endpoint embedded: ")
    assert watch_soaks() == []  # not before RETRY_AFTER
    settings.SERVING_URL = at
    Endpoint.objects.update(url=at)
    Soak.objects.update(next_at=timezone.now())
    assert look().state == Soak.State.ROLLED_BACK
    assert live(project) == "loop-v0"


def test_requests_of_sampling_count(
    pushed: Soak, project: Project, endpoint: FakeEndpoint
) -> None:  # fmt: skip
    create_prompts(project=project, prompts=["One?", "Two?"])
    job = request_sample(project=project, prompts=2)
    endpoint.answer = lambda prompt, seed: "" if seed % 2 else f"answer {seed}"
    held = claim_sample_job(job_id=job.pk)
    assert held is not None
    run_sample_job(job=held)
    rows = Observation.objects.filter(policy=pushed.policy, source="sampling")
    assert sum(row.requests for row in rows) >= 4
    assert sum(row.requests for row in rows) == len(endpoint.asked)
    assert sum(row.empty for row in rows) == sum(body["seed"] % 2 for body in endpoint.asked)


def test_another_push_or_a_rollback_by_hand_ends_the_watching(pushed: Soak, project: Project) -> None:
    roll_back(project=project)
    soak = Soak.objects.get()
    assert (soak.state, soak.rollback) == (Soak.State.ENDED, None)
    # A take-back decided a moment before moves nothing any more.
    with pytest.raises(PushRefused, match="not watched any more"):
        take_back(takeback=Takeback(soak, Soak.Cause.ERRORS))
    assert live(project) == "loop-v0"
    assert Push.objects.latest("created_at").state == Push.State.FAILED


def test_a_look_that_died_is_taken_up_again(pushed: Soak) -> None:
    Soak.objects.update(next_at=timezone.now() + timedelta(minutes=1))  # as a look under way leaves it
    assert look().figures == {}
    Soak.objects.update(next_at=timezone.now() - timedelta(seconds=1))
    assert look().figures["live"]["requests"] == 2


def figures(live: dict[str, Any], previous: dict[str, Any]) -> dict[str, dict[str, Any]]:
    usual = {"requests": 100, "errors": 0, "empty": 0, "probes": 40, "p95": 1.0}
    return {"live": usual | live, "previous": usual | previous}


@pytest.mark.parametrize(
    ("mine", "theirs", "cause"),
    [
        ({}, {}, None),
        # 10 of 100: the interval begins at 5.5 %, below a tenth; 20 of 100 at 13.3 %.
        ({"errors": 10}, {}, None),
        ({"errors": 20}, {}, Soak.Cause.ERRORS),
        # The version before failed as often: 13.3 % is not a tenth above its 10 %.
        ({"errors": 20}, {"errors": 10}, None),
        ({"empty": 20}, {}, Soak.Cause.EMPTY),
        ({"requests": 2, "errors": 2}, {}, None),
        ({"p95": 3.1}, {}, Soak.Cause.LATENCY),
        ({"p95": 2.9}, {}, None),
        ({"p95": 3.1, "probes": 19}, {}, None),
        # Ten times as slow, and still by less than a quarter of a second.
        ({"p95": 0.2}, {"p95": 0.02}, None),
        ({"p95": 3.1}, {"p95": None, "probes": 0}, None),
    ],
)
def test_a_bound_is_passed_beyond_chance_and_beside_the_version_before(
    mine: dict[str, Any], theirs: dict[str, Any], cause: Soak.Cause | None
) -> None:
    assert broken_bound(figures(mine, theirs), SoakRules(minutes=1)) == cause
    off = SoakRules(minutes=1, max_errors=0, max_empty=0, max_latency_ratio=0)
    assert broken_bound(figures(mine, theirs), off) is None


def test_a_recipe_says_how_long_and_by_what(settings: Any) -> None:
    settings.SOAK_MINUTES = 7
    assert parse_recipe({}).soak == SoakRules(minutes=7)
    assert parse_recipe({"soak": {"minutes": 60, "max_errors": 0.5}}).as_json()["soak"] == {
        "minutes": 60, "max_errors": 0.5, "max_empty": 0.1, "max_latency_ratio": 3.0
    }  # fmt: skip
    with pytest.raises(RecipeError, match=r"^soak.max_empty: 0 or more"):
        parse_recipe({"soak": {"max_empty": -1}})
    with pytest.raises(RecipeError, match=r"^soak.hours: unknown key"):
        parse_recipe({"soak": {"hours": 1}})


def test_the_pages_say_what_was_found(pushed: Soak, project: Project, endpoint: FakeEndpoint) -> None:
    held = round_at(project, "succeeded")
    PolicyVersion.objects.filter(pk=pushed.policy_id).update(number=9)
    policy_of(held, 8)
    held.policy = pushed.policy
    held.save(update_fields=["policy"])
    client = browser_of(project, Member.Role.REVIEWER)
    assert "beside loop-v0" in page(client, "policies/")
    endpoint.broken["loop-v1"] = OVERLOADED
    look(2)
    said = "Rolled back by itself to loop-v0: 4 of 4 requests failed, against 0 of 4."
    assert said in page(client, "policies/")
    assert said in page(client, f"rounds/{held.number}/")
