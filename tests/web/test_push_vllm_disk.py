"""vLLM's weights from disk: in place, never half, never by another name, by the protocol that its pages describe."""

import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from django.db import connection
from django.utils import timezone

from feedback_app.projects.models import Project
from feedback_app.serving.backends import BackendError, SamplingParameters, backend_of
from feedback_app.serving.models import Deployment, Endpoint, PolicyVersion, Push
from feedback_app.serving.services import (
    PushRefused,
    ensure_staged,
    push_policy,
    restage_missing,
    roll_back,
    set_endpoint,
)
from feedback_app.serving.services.policies import alone_at
from tests.factories import make_project
from tests.web.elsewhere import Answer, Fake, chat_of, deploy, live_of, make_output, measured, register, serve

pytestmark = pytest.mark.django_db
PROMPT: Any = {"inputs": "Hi", "tokens": [], "logprobs": []}
MESSAGES: Any = [{"role": "user", "content": "Hello"}]
OLD, NEW = ([5, 7], [-0.9, -0.4]), ([5, 6], [-0.52, -0.7])


@dataclass
class VLLM:
    """A vLLM server in development mode with weight transfer by disk, as far as its own pages say how it behaves.

    answers: what weights of a directory say. weights: the directory that is loaded, "half" in the middle of a change.
    """

    server: Fake
    answers: dict[str, tuple[list[int], list[float]]]
    weights: str
    label: str = "default"
    paused: bool = False
    session: str | None = None
    calls: list[str] = field(default_factory=list)
    # What each of the steps answers in place of doing its work, once.
    breaks: dict[str, Answer] = field(default_factory=dict)
    deaf: bool = False

    def start(self) -> None:
        posts = {
            "/pause?mode=wait": self._pause, "/resume": self._resume, "/update_weight_version": self._rename,
            "/init_weight_transfer_engine": self._init, "/start_weight_update": self._begin,
            "/update_weights": self._update, "/finish_weight_update": self._finish,
        }  # fmt: skip
        for path, act in posts.items():
            self.server.routes[path] = lambda body, path=path, act=act: self._do(path, act, body)  # type: ignore[misc]
        self.server.routes |= {
            "/weight_info": lambda _: (200, {"weight_version": self.label}),
            "/v1/models": lambda _: (200, {"data": [{"id": "policy", "root": "/start", "parent": None}]}),
            "/v1/completions": self._complete,
            "/v1/chat/completions": lambda body: (200, chat_of(body["model"])),
        }

    def _do(self, path: str, act: Any, body: dict[str, Any]) -> Answer:
        self.calls.append(path)
        answer: Answer | None = act(body)
        return self.breaks.pop(path, None) or answer or (200, {})

    def _pause(self, _: dict[str, Any]) -> None:
        self.paused = True

    def _resume(self, _: dict[str, Any]) -> None:
        self.paused = False

    def _rename(self, body: dict[str, Any]) -> None:
        self.label = body["new_version"]

    def _init(self, body: dict[str, Any]) -> Answer | None:
        return None if "init_info" in body else (400, {"detail": "Missing 'init_info' in request body"})

    def _begin(self, _: dict[str, Any]) -> Answer | None:
        if self.session is not None:
            return 500, {"error": "A shared-disk weight update is already active"}
        self.session = ""
        return None

    def _update(self, body: dict[str, Any]) -> Answer | None:
        path = body["update_info"]["path"]
        if self.session is None or not Path(path).is_absolute() or not Path(path).is_dir():
            return 500, {"error": "cannot be loaded"}
        broken = "/update_weights" in self.breaks
        self.session = None if broken else path
        self.weights = "half" if broken else self.weights if self.deaf else path
        return None

    def _finish(self, body: dict[str, Any]) -> Answer | None:
        done, self.session = self.session, None
        if not done:
            return 500, {"error": "No checkpoint was loaded during the shared-disk update session"}
        self.label = body.get("weight_version", self.label)
        return None

    def _complete(self, body: dict[str, Any]) -> Answer:
        assert not self.paused  # it would answer nobody, for ever
        assert body["model"] == "policy"
        tokens, logprobs = self.answers[self.weights]
        said = {"tokens": [f"token_id:{token}" for token in tokens], "token_logprobs": logprobs}
        return 200, {"choices": [{"logprobs": said}]}


@dataclass
class World:
    vllm: VLLM
    project: Project
    old: PolicyVersion
    new: PolicyVersion
    endpoint: Endpoint


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    """Yield such a server with the live version on it, and a version that is to go live."""
    fake, project = Fake(), make_project()
    server = serve(fake)
    old, new = (register(project, make_output(tmp_path, name)) for name in ("old", "new"))
    measured(old, *OLD)
    measured(new, *NEW)
    answers = {f"{old.directory}/model": OLD, f"{new.directory}/model": NEW, "half": ([9, 9], [-9.0, -9.0])}
    vllm = VLLM(fake, answers, f"{old.directory}/model", label=f"{old.name}:1")
    vllm.start()
    endpoint = Endpoint.objects.create(name="vllm", backend="vllm", url=fake.url, settings={"weights": "disk"})
    deploy(project, endpoint, old)
    old.refresh_from_db()
    new.refresh_from_db()
    yield World(vllm, project, old, new, endpoint)
    server.shutdown()
    server.server_close()


def test_weights_are_replaced_while_nobody_is_answered_and_a_rollback_replaces_them_again(world: World) -> None:
    vllm = world.vllm
    push = push_policy(policy=world.new)
    assert (live_of(world.project), vllm.weights) == (world.new, f"{world.new.directory}/model")
    assert vllm.calls == [
        "/pause?mode=wait", "/update_weight_version", "/init_weight_transfer_engine", "/start_weight_update",
        "/update_weights", "/finish_weight_update", "/resume",
    ]  # fmt: skip
    assert vllm.label.startswith(f"{world.new.name}:")
    # The one before was asked before it was replaced: 6 for 7 is another token.
    assert push.steps[-1]["said"].endswith(f"inf from those of {world.old.name}")
    sampling = SamplingParameters(0.8, 1.0, 12)
    (answer,) = backend_of(world.endpoint).generate(world.new, MESSAGES, sampling, [1])
    assert answer.policy_name == world.new.name
    with pytest.raises(BackendError, match=f"not {world.old.name}"):
        backend_of(world.endpoint).generate(world.old, MESSAGES, sampling, [1])
    roll_back(project=world.project)
    assert (live_of(world.project), vllm.weights) == (world.old, f"{world.old.directory}/model")
    assert restage_missing() == []


def test_a_load_that_breaks_off_answers_nobody_until_the_live_version_is_whole_again(world: World) -> None:
    vllm = world.vllm
    vllm.breaks = {"/update_weights": (500, {"error": "no space left"})}
    with pytest.raises(PushRefused, match=r"^stage: endpoint vllm: .*no space left.* stays paused"):
        push_policy(policy=world.new)
    assert live_of(world.project) == world.old
    # Half of the weights are another's: nothing is taken from there under the name that it had.
    assert (vllm.weights, vllm.paused, vllm.label) == ("half", True, f"unfinished:{world.new.name}")
    with pytest.raises(BackendError, match="unfinished"):
        backend_of(world.endpoint).greedy(world.old, PROMPT, 2)
    assert restage_missing() == [world.old.name]
    assert (vllm.weights, vllm.paused) == (f"{world.old.directory}/model", False)
    assert backend_of(world.endpoint).greedy(world.old, PROMPT, 2)["tokens"] == [5, 7]


@pytest.mark.parametrize("session", [None, ""])
def test_what_a_dead_pusher_left_open_is_given_up_and_begun_anew(world: World, session: str | None) -> None:
    vllm = world.vllm
    vllm.paused, vllm.session, vllm.label = True, session, f"unfinished:{world.new.name}"
    push_policy(policy=world.new)
    assert (live_of(world.project), vllm.paused) == (world.new, False)


def test_one_that_died_before_the_server_went_on_is_made_up_for(world: World) -> None:
    world.vllm.paused, world.vllm.label = True, f"{world.new.name}:2"
    world.vllm.weights = f"{world.new.directory}/model"
    backend_of(world.endpoint).stage(world.new)
    assert (world.vllm.paused, world.vllm.calls) == (False, ["/resume"])


def test_a_server_that_keeps_the_old_weights_under_the_new_name_is_found_out(world: World) -> None:
    world.vllm.deaf = True
    measured(world.new, [5, 7], [-0.8, -0.5])  # near enough for the tolerance
    world.new.refresh_from_db()
    with pytest.raises(PushRefused, match="old weights may be serving"):
        push_policy(policy=world.new)
    assert live_of(world.project) == world.old
    assert restage_missing() == [world.old.name]


def test_weights_that_change_while_they_answer_give_no_answer(world: World) -> None:
    def change(body: dict[str, Any]) -> Answer:
        world.vllm.label = f"{world.old.name}:2"  # back again, but loaded anew in between
        return 200, chat_of(body["model"])

    world.vllm.server.routes["/v1/chat/completions"] = change
    with pytest.raises(BackendError, match="while it answered"):
        backend_of(world.endpoint).generate(world.old, MESSAGES, SamplingParameters(0.8, 1.0, 12), [1])


def test_a_sampling_does_not_undo_a_push_that_is_under_way(world: World) -> None:
    world.vllm.label = f"{world.new.name}:1"
    running = Push.objects.create(
        project=world.project, policy=world.new, lease_until=timezone.now() + timedelta(minutes=1)
    )
    deployment = Deployment.objects.get(project=world.project)
    with pytest.raises(BackendError, match=f"a push is replacing {world.old.name}"):
        ensure_staged(deployment=deployment)
    assert world.vllm.calls == []
    running.delete()
    assert ensure_staged(deployment=deployment)


def test_a_server_without_the_protocol_is_said_to_be_one_before_anything_is_touched(world: World) -> None:
    del world.vllm.server.routes["/weight_info"]
    with pytest.raises(PushRefused, match=r"stage: .*VLLM_SERVER_DEV_MODE=1 and --weight-transfer-config"):
        push_policy(policy=world.new)
    assert world.vllm.calls == []


def test_it_is_for_one_project_and_its_options_are_checked(world: World) -> None:
    other = make_project()
    theirs = register(other, Path(world.new.directory))
    deploy(other, Endpoint.objects.create(name="b", backend="embedded", url="http://127.0.0.1:9"), theirs)
    Deployment.objects.filter(project=other).update(endpoint=world.endpoint)
    with pytest.raises(PushRefused, match="holds one version at a time, and project"):
        push_policy(policy=world.new)
    assert world.vllm.calls == []
    wrong: list[tuple[dict[str, Any], str]] = [
        ({"weights": "gpu"}, "'gpu' is not lora or disk"),
        ({"weights": "disk", "x": 1}, "unknown: x"),
    ]
    for options, why in wrong:
        with pytest.raises(BackendError, match=why):
            set_endpoint(name="v", backend=Endpoint.Backend.VLLM, url="http://a", settings=options)


@pytest.mark.django_db(transaction=True)
def test_two_do_not_load_at_once_and_what_went_live_meanwhile_stays(world: World) -> None:
    deployment = Deployment.objects.select_related("live", "endpoint").get(project=world.project)
    world.vllm.label = "default"  # as after a restart
    held, released = threading.Event(), threading.Event()

    def other() -> None:
        with alone_at(world.endpoint, waits=True):
            held.set()
            released.wait(20)
        connection.close()

    thread = threading.Thread(target=other)
    thread.start()
    assert held.wait(20)
    with pytest.raises(BackendError, match="another process is loading"):
        ensure_staged(deployment=deployment)
    assert world.vllm.calls == []
    released.set()
    thread.join()
    Deployment.objects.filter(project=world.project).update(live=world.new)  # it was read before
    assert ensure_staged(deployment=deployment)
    assert world.vllm.weights == f"{world.new.directory}/model"
