"""Machines that train: they say what they have, take what fits them, and are told apart when they fall silent."""

import threading
from datetime import timedelta
from typing import Any

import pytest
from django.conf import settings as django_settings
from django.utils import timezone
from pytest_django import Settings

from feedback_app.accounts.services import create_user
from feedback_app.projects.models import Member, Project
from feedback_app.rounds import hosts, tasks
from feedback_app.rounds.estimates import estimate_round
from feedback_app.rounds.footprint import RUNTIME_BYTES
from feedback_app.rounds.host_step import keep_host
from feedback_app.rounds.hosts import (
    ask_torch,
    beat_host,
    fits_here,
    living_hosts,
    mark_gone_hosts,
    misfit,
    needs_of,
    queues_for,
    register_host,
    waiting_words,
)
from feedback_app.rounds.leases import claim_round
from feedback_app.rounds.models import Host, Round
from feedback_app.rounds.recipes import parse_recipe
from tests.factories import make_project
from tests.training.tiny import make_tiny_model
from tests.web.round_rows import browser_of, page
from tests.web.rounds import judged_project, start

pytestmark = pytest.mark.django_db
GIB = 2**30
L4 = {"kind": "cuda", "index": 0, "name": "NVIDIA L4", "memory": 24 * GIB}


def host_named(name: str, **more: Any) -> Host:
    """Return a host that lives: two processors, 16 GiB, no GPU."""
    now = timezone.now()
    values = {"torch": "2.13.0", "cpus": 2, "memory": 16 * GIB, "disk_free": 100 * GIB, "started_at": now}
    return Host.objects.create(name=name, seen_at=now, **{**values, **more})


def needs(**more: Any) -> dict[str, Any]:
    return {"devices": 0, "kind": "", "memory": 0.0, "disk": 0.0, "torch": True, **more}


@pytest.mark.parametrize(
    ("given", "asked", "said"),
    [
        ({}, {}, ""),
        ({"torch": ""}, {}, "torch is not installed"),
        ({"torch": ""}, {"torch": False}, ""),  # a launcher brings its own
        ({}, {"devices": 1}, "GPUs there: 0, needed: 1"),
        ({"devices": [L4]}, {"devices": 1}, ""),
        ({"devices": [L4]}, {"devices": 2}, "GPUs there: 1, needed: 2"),
        ({}, {"kind": "cuda"}, "no device of the kind cuda"),
        ({}, {"memory": 20 * GIB}, "16.0 GiB of memory to train in, and 20.0 are needed"),
        ({"devices": [L4]}, {"memory": 20 * GIB}, ""),  # it trains in the GPU's memory
        ({"devices": [L4]}, {"memory": 20 * GIB, "kind": "cpu"}, "16.0 GiB"),
        ({}, {"disk": 200 * GIB}, "100.0 GiB free, and 200.0 are needed"),
    ],
)
def test_a_host_takes_what_fits_it_and_says_what_does_not(
    given: dict[str, Any], asked: dict[str, Any], said: str
) -> None:
    found = misfit(host_named("one", **given), needs(**asked))
    assert said in found
    assert bool(found) == bool(said)


def test_what_has_begun_has_its_disk_already() -> None:
    assert misfit(host_named("one"), needs(disk=200 * GIB), begun=True) == ""


def test_needs_are_frozen_into_the_round_and_are_what_weights_and_optimisers_take(
    settings: Settings, tmp_path: Any
) -> None:
    settings.BASE_MODEL = str(make_tiny_model(tmp_path / "tiny"))
    project = judged_project(30)
    shape = estimate_round(project=project, recipe=parse_recipe({})).shape
    assert shape is not None
    found = needs_of(project=project, recipe=parse_recipe({"devices": 1, "ppo": {"device": "cuda"}}))
    assert (found["devices"], found["kind"], found["torch"]) == (1, "cuda", True)
    # PPO with a separate critic in bfloat16: two learners of 10 bytes a weight (2 in use, 2 of its lower half, 4 of two
    # moments, 2 of the gradient), reference and reward of 2 each.
    assert found["memory"] == RUNTIME_BYTES + (2 * 10 + 2 * 2) * shape.parameters
    held = start(project, devices=3)
    assert (held.needs["devices"], held.needs["torch"]) == (3, False)  # the fake trainer comes by a launcher


def test_torch_is_asked_in_a_process_of_its_own() -> None:
    found = ask_torch()
    assert found["torch"].startswith("2.")
    assert [device["kind"] for device in found["devices"] if device["kind"] not in ("cuda", "mps")] == []


@pytest.mark.parametrize(
    ("script", "version"),
    [
        ("print('a library says hello')", ""),
        ("", ""),
        ("""print('hello'); print('{"torch": "2.9", "devices": []}')""", "2.9"),
    ],
)
def test_what_libraries_say_beside_the_answer_keeps_no_host_from_registering(
    monkeypatch: pytest.MonkeyPatch, script: str, version: str
) -> None:
    monkeypatch.setattr(hosts, "ASK_TORCH", script)
    assert ask_torch() == {"torch": version, "devices": []}


def test_a_bell_is_rung_at_the_hosts_that_fit_and_another_host_does_not_claim(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = start(judged_project(30), devices=1)
    assert queues_for(held) == ["gpu"]  # nobody has registered
    host_named("plain")
    assert queues_for(held) == []
    host_named("large", devices=[L4])
    assert queues_for(held) == ["gpu.large"]
    worked: list[Any] = []
    monkeypatch.setattr(tasks, "work_on_round", lambda round_id: worked.append(round_id))
    settings.HOST_NAME = "plain"
    tasks.kick(str(held.pk))
    assert (worked, fits_here(held)) == ([], False)
    settings.HOST_NAME = "large"
    tasks.kick(str(held.pk))
    assert worked == [held.pk]


def test_the_round_says_which_host_it_waits_for_and_why() -> None:
    held = start(judged_project(30), devices=1)
    assert waiting_words(held) == ""
    host_named("plain")
    assert waiting_words(held) == (
        "Waiting for a host that fits. None does now: plain: GPUs there: 0, needed: 1."
    )  # fmt: skip
    large = host_named("large", devices=[L4])
    assert waiting_words(held) == "Waiting for large, which is free and takes it in a moment."
    other = start(judged_project(30))
    assert claim_round(round_id=other.pk) is not None
    Round.objects.filter(pk=other.pk).update(lease_owner="large:12")
    assert waiting_words(held) == "Waiting for large: busy with other work, and takes it as that ends."
    assert [row.pk for row in hosts.held_by(large)] == [other.pk]
    Host.objects.update(seen_at=timezone.now() - timedelta(minutes=5), gone_at=timezone.now())
    assert "No training host is alive" in waiting_words(held)


def test_a_silent_host_is_marked_once_and_lives_again_with_its_next_beat(settings: Settings) -> None:
    settings.HOST_NAME = "mine"
    host_named("mine")
    assert mark_gone_hosts() == []
    Host.objects.update(seen_at=timezone.now() - timedelta(seconds=61))
    assert mark_gone_hosts() == ["mine"]
    assert mark_gone_hosts() == []
    assert not living_hosts().exists()
    assert beat_host()
    assert [host.name for host in living_hosts()] == ["mine"]
    assert Host.objects.get().load["memory"] > 0
    Host.objects.update(gone_at=timezone.now() - timedelta(days=8), seen_at=timezone.now() - timedelta(days=8))
    mark_gone_hosts()
    assert not Host.objects.exists()


@pytest.mark.django_db(transaction=True)
def test_a_training_worker_registers_its_machine_and_beats_until_it_stops(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings.HOST_NAME = "worker-1"
    monkeypatch.setattr("feedback_app.rounds.host_step.BEAT_EVERY_S", 0.01)
    over = threading.Event()
    thread = threading.Thread(target=keep_host, args=(over,))
    thread.start()
    try:
        first = _seen_after(None)
        assert first.torch.startswith("2.")
        assert first.memory > GIB
        assert _seen_after(first).started_at == first.started_at  # it beat; it did not register again
    finally:
        over.set()
        thread.join(timeout=60)
    assert not thread.is_alive()


def _seen_after(before: Host | None) -> Host:
    """Wait for a host that was seen later."""
    deadline = timezone.now() + timedelta(seconds=60)
    while timezone.now() < deadline:
        found = Host.objects.filter(name="worker-1").first()
        if found is not None and (before is None or found.seen_at > before.seen_at):
            return found
        threading.Event().wait(0.05)
    raise AssertionError("no host was seen")


def test_the_administrator_sees_hosts_what_runs_there_and_what_waits(settings: Settings) -> None:
    project = make_project("loop")
    gpu = {"index": 0, "used": 6 * GIB, "total": 24 * GIB, "load": 87}
    host_named("large", devices=[L4], load={"cpu": 0.5, "memory": 8 * GIB, "gpus": [gpu]})
    gone = host_named("old")
    Host.objects.filter(pk=gone.pk).update(seen_at=timezone.now() - timedelta(hours=2))
    held = _running_on(project, "large")
    client = browser_of(project, Member.Role.MANAGER)
    assert client.get("/hosts/").status_code == 403
    client.force_login(create_user(username="root", is_superuser=True))
    text = client.get("/hosts/").content.decode()
    assert "NVIDIA L4, 24.0 GiB" in text
    assert "6.0 GiB used, 87 % busy" in text
    assert f"/p/loop/rounds/{held.number}/" in text
    assert text.count(">gone<") == 1
    assert text.count(">alive<") == 1
    assert "Hosts" in page(client, "rounds/")


def _running_on(project: Project, name: str) -> Round:
    held = Round.objects.create(project=project, number=1, config={}, state="running", fence=1)
    until = timezone.now() + timedelta(minutes=1)
    Round.objects.filter(pk=held.pk).update(lease_owner=f"{name}:7", lease_until=until)
    return held


def test_a_machine_is_registered_with_what_it_has(settings: Settings) -> None:
    settings.HOST_NAME = "here"
    host = Host.objects.get(pk=register_host().pk)
    assert host.disk_free > 0
    assert host.cpus >= 1
    assert django_settings.HOST_NAME == "here"
