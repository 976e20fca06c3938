"""Going live on a real inference server: verify, stage, read back, canary, flip; whatever fails, the old one stays."""

import json
import os
import shutil
import threading
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from django.db import connection
from django.utils import timezone

from feedback_app.projects.models import Member, Project
from feedback_app.serving.backends import BackendError, SamplingParameters, backend_of
from feedback_app.serving.backends.embedded import EmbeddedBackend
from feedback_app.serving.models import Deployment, Endpoint, PolicyVersion, Push
from feedback_app.serving.services import (
    PushRefused,
    ensure_base_policy,
    push_policy,
    pushing,
    register_policy,
    restage_missing,
    roll_back,
)
from feedback_app.serving.services.policies import RESTAGE_LOCK_SPACE
from tests.factories import make_project, make_token, make_user
from tests.inference_server import Server, make_model, running_server, write_manifest
from training.canary import write_canary
from training.records import DataError

pytestmark = pytest.mark.django_db(transaction=True)
MESSAGES = [{"role": "user", "content": "Tell me"}]


@pytest.fixture(scope="module")
def outputs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Return a base model and the output directories of two stages, as the trainer leaves them."""
    root = tmp_path_factory.mktemp("policies")
    made = {"base": make_model(root / "base", seed=1)}
    for number, name in enumerate(("first", "second"), start=2):
        make_model(root / name / "model", seed=number)
        write_canary(root / name)
        write_manifest(root / name)
        made[name] = root / name
    return made


@pytest.fixture(scope="module")
def module_server(outputs: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with running_server(outputs["base"], tmp_path_factory.mktemp("server") / "log") as running:
        yield running


@pytest.fixture
def server(module_server: Server, settings: Any) -> Iterator[Server]:
    """Return the module's server with its base policy alone, as the embedded endpoint."""
    settings.SERVING_URL = module_server.url
    yield module_server
    module_server.post("/admin/current", {"name": "base"})
    for name in set(module_server.policies()) - {"base"}:
        httpx.delete(f"{module_server.url}/admin/policies/{name}")


@pytest.fixture
def project(server: Server, outputs: dict[str, Path]) -> Project:
    project = make_project()
    ensure_base_policy(project=project, directory=str(outputs["base"]))
    return project


def register(project: Project, directory: Path) -> PolicyVersion:
    return register_policy(project=project, directory=directory, parent=None, source=PolicyVersion.Source.ROUND)


def live(project: Project) -> PolicyVersion:
    return Deployment.objects.select_related("live").get(project=project).live


def answer_of(project: Project) -> str:
    """Return what the live version says, by the way that sampling takes."""
    deployment = Deployment.objects.select_related("endpoint", "live").get(project=project)
    backend = backend_of(deployment.endpoint)
    (generated,) = backend.generate(deployment.live, MESSAGES, SamplingParameters(0.8, 0.9, 12), [7])  # type: ignore[arg-type]
    assert generated.policy_name == deployment.live.name
    return generated.text


def copy_of(source: Path, target: Path) -> Path:
    shutil.copytree(source, target)
    return target


def refuse(project: Project, policy: PolicyVersion, match: str) -> Push:
    """Push a version that must not go live; returns the push's row after checking that nothing changed."""
    before = live(project)
    restage_missing()
    said = answer_of(project)
    with pytest.raises(PushRefused, match=match):
        push_policy(policy=policy)
    assert live(project) == before
    assert answer_of(project) == said
    push = Push.objects.filter(policy=policy).latest("created_at")
    assert push.state == Push.State.FAILED
    assert push.finished_at is not None
    return push


def test_a_push_goes_through_its_steps_and_the_next_answers_are_the_new_versions(
    server: Server, project: Project, outputs: dict[str, Path]
) -> None:
    restage_missing()
    base = answer_of(project)
    policy = register(project, outputs["first"])
    push = push_policy(policy=policy, requested_by=make_user())
    assert [(step["name"], step["ok"]) for step in push.steps] == [
        ("verify", True), ("stage", True), ("identify", True), ("canary", True)
    ]  # fmt: skip
    assert Push.objects.get(pk=push.pk).state == Push.State.LIVE
    assert live(project) == policy
    assert answer_of(project) != base
    assert server.get("/info").json()["policy_version"] == policy.name


def test_a_rollback_answers_as_before_and_can_be_rolled_back_itself(
    server: Server, project: Project, outputs: dict[str, Path]
) -> None:
    restage_missing()
    base = answer_of(project)
    with pytest.raises(PushRefused, match="no version to go back to"):
        roll_back(project=project)
    policy = register(project, outputs["first"])
    push_policy(policy=policy)
    pushed = answer_of(project)
    assert roll_back(project=project).kind == Push.Kind.ROLLBACK
    assert (live(project).number, answer_of(project)) == (0, base)
    roll_back(project=project)
    assert (live(project), answer_of(project)) == (policy, pushed)


def test_one_loads_at_a_time_and_who_dies_at_it_is_in_nobodys_way(server: Server, project: Project) -> None:
    other = connection.copy()  # of a worker that is at it
    endpoint = Deployment.objects.get(project=project).endpoint_id
    with other.cursor() as cursor:
        cursor.execute("SELECT pg_advisory_lock(%s, %s), pg_backend_pid()", [RESTAGE_LOCK_SPACE, endpoint])
        ((_, held_by),) = cursor.fetchall()
    assert restage_missing() == []
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_terminate_backend(%s, 10000)", [held_by])  # as when a worker is killed
    other.close()
    assert restage_missing() == [live(project).name]


def test_only_live_and_previous_stay_loaded(server: Server, project: Project, outputs: dict[str, Path]) -> None:
    restage_missing()
    first, second = (register(project, outputs[name]) for name in ("first", "second"))
    push_policy(policy=first)
    push_policy(policy=second)
    assert set(server.policies()) == {"base", first.name, second.name}
    roll_back(project=project)
    assert live(project) == first


@pytest.mark.parametrize("way", ["cut off", "one bit", "missing", "manifest rewritten", "no manifest"])
def test_a_directory_that_is_not_what_was_registered_is_refused(
    project: Project, outputs: dict[str, Path], tmp_path: Path, way: str
) -> None:
    directory = copy_of(outputs["first"], tmp_path / "copy")
    policy = register(project, directory)
    weights = directory / "model" / "model.safetensors"
    if way == "cut off":
        os.truncate(weights, weights.stat().st_size - 1)
    elif way == "one bit":
        content = bytearray(weights.read_bytes())
        content[-1] ^= 1
        weights.write_bytes(content)
    elif way == "missing":
        weights.unlink()
    elif way == "manifest rewritten":
        shutil.copy(outputs["second"] / "model" / "model.safetensors", weights)
        write_manifest(directory)
    else:
        (directory / "manifest.json").unlink()
    push = refuse(project, policy, "^verify: ")
    assert [(step["name"], step["ok"]) for step in push.steps] == [("verify", False)]


def test_a_rounds_directory_without_a_manifest_is_never_registered(project: Project, outputs: dict[str, Path]) -> None:
    with pytest.raises(DataError, match="manifest"):
        register(project, outputs["base"])


def rewrite_canary(directory: Path, **changes: Any) -> None:
    canary = json.loads((directory / "canary.json").read_text())
    for prompt in canary["prompts"]:
        for key, change in changes.items():
            prompt[key] = change(prompt[key])
    (directory / "canary.json").write_text(json.dumps(canary))
    write_manifest(directory)


@pytest.mark.parametrize(
    ("changes", "kept"),
    [
        # What was measured is kept of a refused push too: all moved by 0.5, no number, none moved; bfloat16 is 0.1 off.
        ({"logprobs": lambda values: [value - 0.5 for value in values]}, pytest.approx(0.5, abs=0.2)),
        ({"logprobs": lambda values: [float("nan") for _ in values]}, None),
        ({"tokens": lambda tokens: tokens[:-3], "logprobs": lambda values: values[:-3]}, pytest.approx(0.0, abs=0.2)),
    ],
    ids=["other log-probabilities", "no numbers", "fewer tokens"],
)
def test_a_canary_that_the_server_does_not_meet_is_refused_and_unloaded(
    server: Server, project: Project, outputs: dict[str, Path], tmp_path: Path, changes: dict[str, Any], kept: Any
) -> None:
    directory = copy_of(outputs["first"], tmp_path / "copy")
    rewrite_canary(directory, **changes)
    policy = register(project, directory)
    assert refuse(project, policy, "^canary: ").canary_delta == kept
    assert policy.name not in server.policies()


@pytest.mark.parametrize(
    "text", ["", "{}", '{"max_new_tokens": 4, "prompts": []}', '{"max_new_tokens": 4, "prompts": [{}]}']
)
def test_a_canary_that_is_none_is_refused(
    project: Project, outputs: dict[str, Path], tmp_path: Path, text: str
) -> None:
    directory = copy_of(outputs["first"], tmp_path / "copy")
    (directory / "canary.json").write_text(text)
    write_manifest(directory)
    refuse(project, register(project, directory), "^canary: ")


def test_weights_of_the_live_version_under_a_new_name_are_refused(
    project: Project, outputs: dict[str, Path], tmp_path: Path
) -> None:
    push_policy(policy=register(project, outputs["first"]))
    directory = copy_of(outputs["first"], tmp_path / "copy")
    refuse(project, register(project, directory), "old weights may be serving")


def test_a_server_that_answers_with_old_weights_is_found_out(
    server: Server, project: Project, outputs: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As TGI does with an adapter it does not know: 200, and the base model's answer."""
    policy = register(project, outputs["first"])
    base = Deployment.objects.get(project=project).live
    honest = EmbeddedBackend.greedy
    monkeypatch.setattr(EmbeddedBackend, "greedy", lambda self, _, prompt, count: honest(self, base, prompt, count))
    refuse(project, policy, "^canary: ")
    # Even where its log-probabilities would be near enough.
    Endpoint.objects.update(canary_tolerance=100.0)
    refuse(project, policy, "old weights may be serving")


def test_a_server_that_swaps_names_is_found_out_by_reading_back(
    server: Server, project: Project, outputs: dict[str, Path]
) -> None:
    policy = register(project, outputs["first"])
    server.post("/admin/policies", {"name": policy.name, "path": str(outputs["second"] / "model")})
    refuse(project, policy, "^stage: .*409")
    # The name was not ours to unload: whoever staged it there keeps it, or loses it to the refusal; live is untouched.
    assert live(project).number == 0


def test_a_dead_server_refuses_in_words_and_its_revival_serves_the_old_version(
    outputs: dict[str, Path], tmp_path: Path, settings: Any
) -> None:
    project = make_project()
    with running_server(outputs["base"], tmp_path / "log") as mortal:
        settings.SERVING_URL = mortal.url
        ensure_base_policy(project=project, directory=str(outputs["base"]))
        assert restage_missing() == [live(project).name]
        said = answer_of(project)
        policy = register(project, outputs["first"])
        mortal.process.kill()
        mortal.process.wait()
        with pytest.raises(PushRefused, match=r"^stage: endpoint embedded: POST /admin/policies: "):
            push_policy(policy=policy)
        assert live(project).number == 0
        with pytest.raises(BackendError, match="endpoint embedded: "):
            answer_of(project)
        assert restage_missing() == []
        port = mortal.url.rpartition(":")[2]
        with running_server(outputs["base"], tmp_path / "again", "--port", port):
            # What the endpoint lost is loaded again by the tick, and a push goes through.
            assert restage_missing() == [live(project).name]
            assert answer_of(project) == said
            push_policy(policy=policy)
            assert live(project) == policy


def test_a_full_server_makes_room_of_what_is_live_nowhere(
    server: Server, project: Project, outputs: dict[str, Path], tmp_path: Path
) -> None:
    """--max-policies is 4 sets of weights: the base's, and three that earlier projects have left there."""
    others = []
    for number in range(3):
        other = make_project()
        ensure_base_policy(project=other, directory=str(outputs["base"]))
        directory = tmp_path / str(number) / "model"
        make_model(directory, seed=20 + number)
        write_canary(directory.parent)
        write_manifest(directory.parent)
        policy = register(other, directory.parent)
        push_policy(policy=policy)
        others.append(policy)
    roll_back(project=others[0].project)  # its version 1 is the previous one now, and live nowhere
    policy = register(project, outputs["first"])
    push_policy(policy=policy)
    assert live(project) == policy
    assert others[0].name not in server.policies()
    assert {others[1].name, others[2].name, policy.name} <= set(server.policies())


def test_two_pushes_of_a_project_do_not_run_at_once(
    project: Project, outputs: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    policy = register(project, outputs["first"])
    Push.objects.create(project=project, policy=policy, lease_until=timezone.now() + timedelta(minutes=1))
    with pytest.raises(PushRefused, match="another push of this project is running"):
        push_policy(policy=policy)
    # Its process died and its lease ran out: the next one takes its place.
    Push.objects.update(lease_until=timezone.now() - timedelta(seconds=1))
    push_policy(policy=policy)
    assert sorted(Push.objects.values_list("state", flat=True)) == ["failed", "live"]


def test_a_push_that_was_taken_to_be_dead_flips_nothing(
    project: Project, outputs: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = (register(project, outputs[name]) for name in ("first", "second"))
    honest = pushing._canary

    def overtaken(run: Any, policy: PolicyVersion) -> str:
        """Stand still for so long that the lease runs out and another push goes by."""
        said = honest(run, policy)
        if policy == first:
            Push.objects.filter(pk=run.push.pk).update(lease_until=timezone.now() - timedelta(seconds=1))
            push_policy(policy=second)
        return said

    monkeypatch.setattr(pushing, "_canary", overtaken)
    with pytest.raises(PushRefused, match="taken to be dead"):
        push_policy(policy=first)
    assert live(project) == second


def test_a_long_step_keeps_its_lease(
    project: Project, outputs: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pushing, "LEASE", timedelta(seconds=1))
    monkeypatch.setattr(pushing, "RENEW_EVERY_S", 0.1)
    policy = register(project, outputs["first"])
    honest = EmbeddedBackend.stage
    refused: list[str] = []

    def slow(self: EmbeddedBackend, version: PolicyVersion) -> None:
        if version == policy:
            threading.Event().wait(1.5)
            with pytest.raises(PushRefused) as caught:
                push_policy(policy=policy)
            refused.append(str(caught.value))
        honest(self, version)

    monkeypatch.setattr(EmbeddedBackend, "stage", slow)
    push_policy(policy=policy)
    assert refused == ["another push of this project is running"]
    assert live(project) == policy


def test_a_fault_of_ours_frees_the_place_at_once(
    project: Project, outputs: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    policy = register(project, outputs["first"])
    with monkeypatch.context() as patched:
        patched.setattr(EmbeddedBackend, "identify", lambda self, version: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            push_policy(policy=policy)
    push = Push.objects.get()
    assert (push.state, push.error) == (Push.State.FAILED, "ZeroDivisionError: division by zero")
    push_policy(policy=policy)
    assert live(project) == policy


def test_the_api_pushes_and_rolls_back_for_managers_alone(
    client: Any, project: Project, outputs: dict[str, Path]
) -> None:
    policy = register(project, outputs["first"])
    manager = make_token(make_user(project, Member.Role.MANAGER))
    reviewer = make_token(make_user(project, Member.Role.REVIEWER))

    def post(path: str, token: str) -> Any:
        return client.post(f"/api/v1/{path}", headers={"Authorization": f"Token {token}"})

    assert post(f"policies/{policy.pk}/push/", reviewer).status_code == 403
    assert post(f"policies/{policy.pk}/push/", make_token(make_user())).status_code in (403, 404)
    answer = post(f"policies/{policy.pk}/push/", manager)
    assert (answer.status_code, answer.json()["state"]) == (200, "live")
    listed = client.get(f"/api/v1/projects/{project.slug}/policies/", headers={"Authorization": f"Token {reviewer}"})
    assert [(entry["name"], entry["live"]) for entry in listed.json()["policies"]] == [
        (policy.name, True), (f"{project.slug}-v0", False)
    ]  # fmt: skip
    assert post(f"projects/{project.slug}/rollback/", manager).json()["kind"] == "rollback"
    assert live(project).number == 0
    (Path(policy.directory) / "manifest.json").rename(Path(policy.directory) / "manifest.away")
    try:
        refused = post(f"policies/{policy.pk}/push/", manager)
    finally:
        (Path(policy.directory) / "manifest.away").rename(Path(policy.directory) / "manifest.json")
    assert refused.status_code == 409
    assert refused.json()["detail"][0].startswith("verify: ")
