"""What people and files can do to rounds that nobody would: all at one instant, in circles, and without end."""

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier
from typing import Any

import pytest
from django.db import connection
from django.test import Client
from pytest_django import Settings

from feedback_app.projects.models import Member
from feedback_app.rounds.models import Round
from feedback_app.rounds.services import RoundRefused, register_elsewhere
from feedback_app.rounds.steps.adopt import _check_links
from feedback_app.rounds.trainers import LOG_TAIL, LONGEST_LINE, last_words, log_path, log_tail
from feedback_app.serving import tasks
from feedback_app.serving.models import Deployment, PolicyVersion, Push
from feedback_app.serving.services import ensure_base_policy, push_policy, roll_back
from tests.factories import make_project, make_user
from tests.web.elsewhere import make_output, register
from tests.web.endpoint import FakeEndpoint, run_endpoint
from tests.web.round_rows import round_at
from tests.web.rounds import judged_project
from training.records import DataError


@pytest.fixture
def endpoint(settings: Settings, tmp_path: Path) -> Iterator[FakeEndpoint]:
    settings.BASE_MODEL = str(tmp_path)
    with run_endpoint() as fake:
        settings.SERVING_URL = fake.url
        yield fake


def at_once(*asks: Callable[[], int]) -> list[int]:
    """Return what each of several requests that are made at one instant was answered, in order of their numbers."""
    gate = Barrier(len(asks))

    def ask(one: Callable[[], int]) -> int:
        gate.wait()
        try:
            return one()
        finally:
            connection.close()

    with ThreadPoolExecutor(len(asks)) as pool:
        return sorted(pool.map(ask, asks))


def poster(user: Any, path: str, body: dict[str, Any] | None = None) -> Callable[[], int]:
    """Return a request by somebody, to be made later."""
    client = Client()
    client.force_login(user)
    return lambda: client.post(f"/api/v1/{path}", body or {}, content_type="application/json").status_code


@pytest.mark.django_db(transaction=True)
def test_of_managers_who_do_one_thing_at_one_instant_one_has_done_it(
    endpoint: FakeEndpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("feedback_app.rounds.api.ring_round", lambda round_id: None)
    project = judged_project()
    one, two = (make_user(project, Member.Role.MANAGER) for _ in range(2))
    assert at_once(*(poster(user, f"projects/{project.slug}/rounds/") for user in (one, two))) == [201, 409]
    held = Round.objects.get(project=project)
    for state, acts in (("waiting_for_approval", ("approve", "reject")), ("queued", ("cancel", "cancel"))):
        Round.objects.filter(pk=held.pk).update(state=state)
        asks = [poster(user, f"rounds/{held.pk}/{act}/") for user, act in zip((one, two), acts, strict=True)]
        assert at_once(*asks) == [200, 409]
    # Two take the live version back: it is gone once, and not brought in again by the second.
    base = ensure_base_policy(project=project)
    bad = register(project, make_output(tmp_path, "bad"))
    Deployment.objects.filter(project=project).update(live=bad, previous=base)
    path, body = f"projects/{project.slug}/rollback/", {"live": bad.name}
    assert at_once(*(poster(user, path, body) for user in (one, two))) == [200, 409]
    assert poster(one, path, body)() == 409
    assert Deployment.objects.get(project=project).live == base


@pytest.mark.django_db
def test_a_doubled_message_does_not_push_again_what_was_taken_back_since(
    endpoint: FakeEndpoint, tmp_path: Path
) -> None:
    project = make_project()
    base = ensure_base_policy(project=project)
    new = PolicyVersion.objects.create(project=project, number=1, name="new", source="base", directory=str(tmp_path))
    seen = Push.objects.filter(project=project).count()
    push_policy(policy=new)
    roll_back(project=project)
    tasks.push(str(new.pk), make_user(project).pk, seen)
    assert Deployment.objects.get(project=project).live == base
    tasks.push(str(new.pk), make_user(project).pk, seen + 2)
    assert Deployment.objects.get(project=project).live == new


def test_a_log_without_end_is_read_at_its_end(tmp_path: Path) -> None:
    directory = tmp_path / "ppo"
    with log_path(directory).open("wb") as log:
        log.truncate(20 * 2**30)  # sparse: nothing is written
        log.seek(0, 2)
        log.write(b"\n" + b"x" * 10_000 + b"\nlast \xff\n\n")
    began = time.monotonic()
    assert log_tail(directory)[-2:] == ["last \ufffd", ""]
    assert max(map(len, log_tail(directory))) == LONGEST_LINE
    assert len(log_tail(directory)) <= LOG_TAIL
    assert last_words(log_path(directory)) == "last \ufffd"
    assert time.monotonic() - began < 5


@pytest.mark.django_db
def test_a_model_is_taken_from_no_circle_and_with_no_file_of_others(settings: Settings, tmp_path: Path) -> None:
    settings.MODEL_DIRS = [tmp_path / "models"]
    model, secret = tmp_path / "models" / "theirs", tmp_path / "secret"
    model.mkdir(parents=True)
    secret.write_text("of ours")
    (model / "config.json").write_text("{}")
    (model / "around").symlink_to(model / "around")
    (tmp_path / "models" / "loop").symlink_to(tmp_path / "models" / "loop")
    project = make_project()
    for place in (tmp_path / "models" / "loop", tmp_path / "models" / ("n" * 300)):
        with pytest.raises(RoundRefused, match="is no directory"):
            register_elsewhere(project=project, directory=place, evaluate=False)
    held = register_elsewhere(project=project, directory=model, evaluate=False)  # the circle inside is passed over
    assert held.elsewhere["by_operator"] is False
    (model / "blob.json").symlink_to(tmp_path / "models" / "shared.json")  # as a hub's cache keeps them
    _check_links(model)
    (model / "notes.json").symlink_to(secret)
    with pytest.raises(DataError, match=r"notes\.json is a link that leads out"):
        _check_links(model)


@pytest.mark.django_db
def test_an_approval_keeps_what_the_gate_found_and_comes_once() -> None:
    held = round_at(make_project(), "waiting_for_approval", "gate")
    Round.objects.filter(pk=held.pk).update(gate={"passed": True})
    client = Client()
    client.force_login(make_user(held.project, Member.Role.MANAGER))
    path = f"/api/v1/rounds/{held.pk}/approve/"
    assert [client.post(path, {}, content_type="application/json").status_code for _ in range(2)] == [200, 409]
    held.refresh_from_db()
    assert held.gate["passed"]
    assert held.gate["approved"]
