"""TGI and vLLM as they misbehave: full, failing, cut off, an error with status 200, another version than was asked."""

import json
import socket
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from django.test import Client
from django.utils import timezone

from feedback_app.notifications.signing import signature_of
from feedback_app.projects.models import Project
from feedback_app.serving.backends import BackendError, SamplingParameters, backend_of, base
from feedback_app.serving.models import Endpoint, PolicyVersion, Push
from feedback_app.serving.services import (
    PushRefused,
    push_policy,
    restage_missing,
    roll_back,
    set_endpoint,
    watch_soaks,
)
from feedback_app.serving.soak_rules import SoakRules
from tests.factories import make_project, make_tasks, make_user
from tests.web.elsewhere import (
    CUT_OFF,
    Answer,
    Fake,
    chat_of,
    deploy,
    live_of,
    make_output,
    measured,
    register,
    serve,
)  # fmt: skip

pytestmark = pytest.mark.django_db
SAMPLING = SamplingParameters(0.8, 1.0, 12)
PROMPT: Any = {"inputs": "Hi", "tokens": [], "logprobs": []}
MESSAGES: Any = [{"role": "user", "content": "Hello"}]


@pytest.fixture
def fakes() -> Iterator[tuple[Fake, Fake]]:
    pair = (Fake(), Fake())
    servers = [serve(fake) for fake in pair]
    yield pair
    CUT_OFF.clear()
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.fixture
def project() -> Project:
    return make_project()


# text-generation-inference, blue and green


@dataclass
class Colours:
    """Two TGI servers; each serves what its CURRENT file named when it was last started."""

    blue: Fake
    green: Fake
    root: Path
    answers: dict[str, tuple[list[int], list[float]]] = field(default_factory=dict)

    def start(self) -> Endpoint:
        for name, fake in (("blue", self.blue), ("green", self.green)):
            self.follow(fake, self.root / f"{name}.current")
        settings = {
            name: {"url": fake.url, "current_file": str(self.root / f"{name}.current")}
            for name, fake in (("blue", self.blue), ("green", self.green))
        }
        return Endpoint.objects.create(
            name="tgi", backend="tgi", url=self.blue.url,
            settings={**settings, "restart_timeout_s": 0.5, "poll_s": 0.02},
        )  # fmt: skip

    def follow(self, fake: Fake, current: Path) -> None:
        """Have a server be what its file names."""
        fake.routes["/info"] = lambda _: (200, {"model_id": current.read_text()})
        fake.routes["/generate"] = lambda _: (200, self.details(current.read_text()))

    def details(self, model: str) -> dict[str, Any]:
        tokens, logprobs = self.answers[model]
        return {
            "generated_text": "x",
            "details": {"tokens": [{"id": t, "logprob": p} for t, p in zip(tokens, logprobs, strict=True)]},
        }


@pytest.fixture
def colours(fakes: tuple[Fake, Fake], project: Project, tmp_path: Path) -> tuple[Colours, PolicyVersion, PolicyVersion]:
    """Return both servers, the version that is live on blue, and one that is to go live."""
    old, new = (register(project, make_output(tmp_path, name)) for name in ("old", "new"))
    colours = Colours(*fakes, tmp_path)
    colours.answers = {
        f"{old.directory}/model": ([5, 7], [-0.9, -0.4]),
        f"{new.directory}/model": ([5, 6], [-0.51, -0.69]),
        "nothing": ([9], [-3.0]),
    }
    (tmp_path / "blue.current").write_text(f"{old.directory}/model")
    (tmp_path / "green.current").write_text("nothing")
    deploy(project, colours.start(), old)
    return colours, old, new


def test_tgi_is_pushed_to_by_restarting_the_colour_that_serves_nobody(
    colours: tuple[Colours, PolicyVersion, PolicyVersion], project: Project
) -> None:
    pair, old, new = colours
    push_policy(policy=new)
    assert live_of(project) == new
    assert (pair.root / "green.current").read_text() == f"{new.directory}/model"
    assert (pair.root / "blue.current").read_text() == f"{old.directory}/model"
    # The next version takes the other colour, and the rollback is a flip back without a restart until then.
    assert backend_of(Endpoint.objects.get()).address_of(new) == pair.green.url


def test_a_colour_that_does_not_come_up_leaves_the_old_version(
    colours: tuple[Colours, PolicyVersion, PolicyVersion], project: Project
) -> None:
    pair, old, new = colours
    pair.green.routes["/info"] = lambda _: (503, {"error": "unhealthy", "error_type": "healthcheck"})
    with pytest.raises(PushRefused, match=r"^stage: .*green did not come up"):
        push_policy(policy=new)
    pair.green.routes["/info"] = lambda _: (200, {"model_id": "another"})
    with pytest.raises(PushRefused, match=r"^stage: .*green did not come up"):
        push_policy(policy=new)
    assert live_of(project) == old


def test_a_volume_that_cannot_be_written_refuses_the_push_in_words(
    colours: tuple[Colours, PolicyVersion, PolicyVersion], project: Project, tmp_path: Path
) -> None:
    _pair, old, new = colours
    endpoint = Endpoint.objects.get()
    (tmp_path / "file").touch()
    endpoint.settings["green"]["current_file"] = str(tmp_path / "file" / "current")
    endpoint.save()
    with pytest.raises(PushRefused, match=r"^stage: endpoint tgi: .*file/current: "):
        push_policy(policy=new)
    assert live_of(project) == old


def test_a_colour_that_names_the_new_version_and_answers_with_the_old_is_found_out(
    colours: tuple[Colours, PolicyVersion, PolicyVersion], project: Project
) -> None:
    pair, old, new = colours
    pair.answers[f"{new.directory}/model"] = pair.answers[f"{old.directory}/model"]
    with pytest.raises(PushRefused, match=r"^canary: "):
        push_policy(policy=new)
    # Near enough for the tolerance, and still the old one's.
    near = ([5, 7], [-0.6, -0.8])
    pair.answers = dict.fromkeys(pair.answers, near)
    with pytest.raises(PushRefused, match="old weights may be serving"):
        push_policy(policy=new)
    assert live_of(project) == old


@pytest.mark.parametrize(
    "answer",
    [
        (424, {"error": "Request failed during generation", "error_type": "generation"}),
        (429, {"error": "Model is overloaded", "error_type": "overloaded"}),
        (200, {"error": "unhealthy", "error_type": "healthcheck"}),
        (200, {"generated_text": "x", "details": {"tokens": [{"id": 5}]}}),
        (200, {"generated_text": "x", "details": None}),
        (200, [1, 2]),
        (200, b"<html>a proxy's page</html>"),
    ],
)
def test_whatever_a_tgi_answers_in_place_of_tokens_is_a_refusal_in_words(
    colours: tuple[Colours, PolicyVersion, PolicyVersion], project: Project, answer: Answer
) -> None:
    pair, old, new = colours
    pair.green.routes["/generate"] = lambda _: answer
    with pytest.raises(PushRefused, match=r"^canary: endpoint tgi: "):
        push_policy(policy=new)
    assert live_of(project) == old
    assert Push.objects.get().state == Push.State.FAILED


def test_an_answer_cut_off_in_the_middle_is_a_refusal(
    colours: tuple[Colours, PolicyVersion, PolicyVersion], project: Project
) -> None:
    _, old, new = colours
    CUT_OFF.add("/generate")
    with pytest.raises(PushRefused, match=r"^canary: endpoint tgi: "):
        push_policy(policy=new)
    assert live_of(project) == old


def test_a_server_too_slow_to_answer_the_canary_is_a_refusal(
    colours: tuple[Colours, PolicyVersion, PolicyVersion], project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    pair, old, new = colours
    monkeypatch.setattr(base.Backend, "timeout_s", 0.3)
    waits = threading.Event()
    honest = pair.green.routes["/generate"]
    pair.green.routes["/generate"] = lambda body: (waits.wait(1.5), honest(body))[1]
    with pytest.raises(PushRefused, match=r"^canary: endpoint tgi: POST /generate: timed out"):
        push_policy(policy=new)
    assert live_of(project) == old


@pytest.mark.parametrize(
    "answer",
    [
        (424, {"error": "Request failed during generation", "error_type": "generation"}),
        (429, {"error": "Model is overloaded", "error_type": "overloaded"}),
        (200, {"error": "out of memory", "error_type": "generation"}),
        (200, {"generated_text": "", "details": {"tokens": []}}),
        None,  # cut off in the middle
    ],
)
def test_a_tgi_that_falls_ill_once_it_is_live_is_rolled_back_while_annotators_work_on(
    colours: tuple[Colours, PolicyVersion, PolicyVersion], project: Project, answer: Answer | None
) -> None:
    pair, old, new = colours
    measured(old, [5, 7], [-0.9, -0.4])
    make_tasks(project, 3)
    annotator = Client()
    annotator.force_login(make_user(project))
    push_policy(policy=new, rules=SoakRules(minutes=5))
    assert live_of(project) == new
    if answer is None:
        pair.green.routes["/generate"] = lambda _: (200, b'{"generated_text": "x", "deta')
    else:
        pair.green.routes["/generate"] = lambda _: answer
    for _look in range(2):
        watch_soaks()
        given = annotator.post(f"/api/v1/projects/{project.slug}/tasks/next/", {}, content_type="application/json")
        assert given.status_code == 200
        verdict = {"ranking": [[response["id"]] for response in given.json()["responses"]]}
        stored = annotator.post(
            f"/api/v1/tasks/{given.json()['id']}/judgments/", verdict, content_type="application/json"
        )
        assert stored.status_code == 201
    assert live_of(project) == old
    assert backend_of(Endpoint.objects.get()).greedy(old, PROMPT, 2)["tokens"] == [5, 7]


# vLLM, adapters by name


@pytest.fixture
def vllm(fakes: tuple[Fake, Fake], project: Project, tmp_path: Path) -> tuple[Fake, PolicyVersion, PolicyVersion]:
    """Return a server of adapters, the version that is live there, and one that is to go live."""
    fake = fakes[0]
    old, new = (register(project, make_output(tmp_path, name)) for name in ("old", "new"))
    loaded = {old.name: f"{old.directory}/adapter"}

    def load(body: dict[str, Any]) -> Answer:
        loaded[body["lora_name"]] = body["lora_path"]
        return 200, {}

    def unload(body: dict[str, Any]) -> Answer:
        del loaded[body["lora_name"]]
        return 200, {}

    def complete(body: dict[str, Any]) -> Answer:
        mine = body["model"] == new.name
        logprobs = {
            "tokens": ["token_id:5", "token_id:6" if mine else "token_id:7"],
            "token_logprobs": [-0.52, -0.7] if mine else [-0.9, -0.4],
        }
        return 200, {"choices": [{"logprobs": logprobs}]}

    fake.routes = {
        "/v1/models": lambda _: (200, {"data": [{"id": name, "root": root} for name, root in loaded.items()]}),
        "/v1/load_lora_adapter": load,
        "/v1/unload_lora_adapter": unload,
        "/v1/completions": complete,
        "/v1/chat/completions": lambda body: (200, chat_of(body["model"])),
    }
    deploy(project, Endpoint.objects.create(name="vllm", backend="vllm", url=fake.url), old)
    return fake, old, new


def test_vllm_gets_a_new_name_for_each_version(
    vllm: tuple[Fake, PolicyVersion, PolicyVersion], project: Project
) -> None:
    fake, _, new = vllm
    push_policy(policy=new)
    assert live_of(project) == new
    assert ("/v1/load_lora_adapter", {"lora_name": new.name, "lora_path": f"{new.directory}/adapter"}) in fake.bodies


def test_a_vllm_that_did_not_load_the_adapter_or_another_one_is_found_out(
    vllm: tuple[Fake, PolicyVersion, PolicyVersion], project: Project
) -> None:
    fake, old, new = vllm
    honest = fake.routes["/v1/load_lora_adapter"]
    fake.routes["/v1/load_lora_adapter"] = lambda _: (200, {})
    with pytest.raises(PushRefused, match=r"^identify: .*does not list"):
        push_policy(policy=new)
    fake.routes["/v1/load_lora_adapter"] = lambda body: honest({**body, "lora_path": "/elsewhere"})
    with pytest.raises(PushRefused, match=r"^identify: .*is /elsewhere, not"):
        push_policy(policy=new)
    fake.routes["/v1/models"] = lambda _: (200, {"object": "list"})
    with pytest.raises(PushRefused, match=r"^stage: .*not what such a server says"):
        push_policy(policy=new)
    assert live_of(project) == old


# Sampling from either


@pytest.mark.parametrize(
    "answer",
    [
        (424, {"error": "Request failed during generation", "error_type": "generation"}),
        (500, {}),
        (200, {"error": {"message": "out of memory", "http_status_code": 500}}),
        (200, {"model": "MINE", "choices": [], "usage": None}),
        (200, b"not JSON"),
        (200, [1]),
    ],
)
def test_a_sample_that_is_none_is_a_backend_error(
    vllm: tuple[Fake, PolicyVersion, PolicyVersion], answer: Answer
) -> None:
    fake, old, _ = vllm
    fake.routes["/v1/chat/completions"] = lambda _: answer
    with pytest.raises(BackendError, match=r"^endpoint vllm: "):
        backend_of(Endpoint.objects.get()).generate(old, MESSAGES, SAMPLING, [1, 2])


def test_a_sample_cut_off_or_from_nobody_is_a_backend_error(vllm: tuple[Fake, PolicyVersion, PolicyVersion]) -> None:
    _, old, _ = vllm
    endpoint = Endpoint.objects.get()
    CUT_OFF.add("/v1/chat/completions")
    with pytest.raises(BackendError, match=r"^endpoint vllm: "):
        backend_of(endpoint).generate(old, MESSAGES, SAMPLING, [1])
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        endpoint.url = f"http://127.0.0.1:{probe.getsockname()[1]}"
        with pytest.raises(BackendError, match=r"^endpoint vllm: "):
            backend_of(endpoint).generate(old, MESSAGES, SAMPLING, [1])


def test_a_sample_of_another_version_is_never_taken(vllm: tuple[Fake, PolicyVersion, PolicyVersion]) -> None:
    fake, old, new = vllm
    fake.routes["/v1/chat/completions"] = lambda _: (200, chat_of(new.name))
    with pytest.raises(BackendError, match=f"'{new.name}' answered in place of '{old.name}'"):
        backend_of(Endpoint.objects.get()).generate(old, MESSAGES, SAMPLING, [1])


def test_a_full_server_is_asked_again_for_a_while(
    vllm: tuple[Fake, PolicyVersion, PolicyVersion], monkeypatch: pytest.MonkeyPatch
) -> None:
    fake, old, _ = vllm
    monkeypatch.setattr(base, "OVERLOAD_PAUSES_S", (0.0, 0.0))
    full = (429, {"error": "Model is overloaded", "error_type": "overloaded"})
    left = [full, full, (200, chat_of(old.name))]
    fake.routes["/v1/chat/completions"] = lambda _: left.pop(0)
    (generated,) = backend_of(Endpoint.objects.get()).generate(old, MESSAGES, SAMPLING, [11])
    assert (generated.text, generated.seed, generated.token_count) == ("Yes.", 11, 2)
    left[:] = [full] * 3
    with pytest.raises(BackendError) as caught:
        backend_of(Endpoint.objects.get()).generate(old, MESSAGES, SAMPLING, [11])
    assert (caught.value.status, left) == (429, [])


# Servers that others deploy to


@dataclass
class Outside:
    """A server of one slot that speaks TGI, and its deployer, who takes a signed webhook or is run as a command."""

    server: Fake
    deployer: Fake
    answers: dict[str, tuple[list[int], list[float]]] = field(default_factory=dict)
    serves: str = ""
    # Looks at /info until what was asked for is there.
    delay: int = 2
    wanted: str = ""

    def start(self) -> None:
        self.server.routes = {"/info": self._info, "/generate": lambda _: (200, self._details())}
        self.deployer.routes = {"/deploy": self._deploy}

    def _deploy(self, body: dict[str, Any]) -> Answer:
        self.wanted, self.left = body["directory"], self.delay
        return 202, {}

    def _info(self, _: dict[str, Any]) -> Answer:
        if self.wanted and self.wanted != self.serves:
            if self.left:
                self.left -= 1
                return 503, {}
            self.serves = self.wanted
        return 200, {"model_id": self.serves}

    def _details(self) -> dict[str, Any]:
        tokens, logprobs = self.answers[self.serves]
        return {"details": {"tokens": [{"id": t, "logprob": p} for t, p in zip(tokens, logprobs, strict=True)]}}


@pytest.fixture
def outside(fakes: tuple[Fake, Fake], project: Project, tmp_path: Path) -> tuple[Outside, PolicyVersion, PolicyVersion]:
    """Return a server that others deploy to, the version that is live there, and one that is to go live."""
    old, new = (register(project, make_output(tmp_path, name)) for name in ("old", "new"))
    place = Outside(*fakes, serves=f"{old.directory}/model")
    place.answers = {
        f"{old.directory}/model": ([5, 7], [-0.9, -0.4]), f"{new.directory}/model": ([5, 6], [-0.51, -0.69])
    }  # fmt: skip
    place.start()
    options = {"webhook": f"{fakes[1].url}/deploy", "secret": "shared", "deadline_s": 5, "poll_s": 0.02}
    endpoint = Endpoint.objects.create(
        name="theirs", backend="external", url=fakes[0].url, settings=options, calibration={"policy": old.name}
    )
    deploy(project, endpoint, old)
    return place, old, new


def test_others_are_told_by_a_signed_webhook_and_waited_for(
    outside: tuple[Outside, PolicyVersion, PolicyVersion], project: Project
) -> None:
    place, old, new = outside
    push = push_policy(policy=new)
    assert live_of(project) == new
    ((path, body),) = place.deployer.bodies
    assert (path, body["kind"], body["policy"]) == ("/deploy", "policy_deploy", new.name)
    assert (body["directory"], body["manifest_sha256"]) == (f"{new.directory}/model", new.manifest_sha256)
    raw = json.dumps(body).encode()
    headers = place.deployer.headers[0]
    assert headers["X-RLHF-Signature"] == signature_of(secret="shared", timestamp=headers["X-RLHF-Timestamp"], body=raw)
    # The one before was asked before it was replaced: 6 for 7 is another token.
    assert push.steps[-1]["said"].endswith(f"inf from those of {old.name}")
    measured(old, [5, 7], [-0.9, -0.4])
    roll_back(project=project)
    assert (live_of(project), place.serves) == (old, f"{old.directory}/model")


def test_old_weights_under_the_new_name_are_found_out_and_the_live_version_is_deployed_again(
    outside: tuple[Outside, PolicyVersion, PolicyVersion], project: Project
) -> None:
    place, old, new = outside
    place.answers = dict.fromkeys(place.answers, ([5, 7], [-0.6, -0.8]))
    with pytest.raises(PushRefused, match="old weights may be serving"):
        push_policy(policy=new)
    assert (live_of(project), place.serves) == (old, f"{new.directory}/model")
    # Sampling from the server in between is no answer of the live version.
    with pytest.raises(BackendError, match="not"):
        backend_of(Endpoint.objects.get()).greedy(old, {"inputs": "Hi", "tokens": [], "logprobs": []}, 2)
    assert restage_missing() == [old.name]
    assert place.serves == f"{old.directory}/model"


def test_what_is_live_is_not_deployed_again_while_a_push_replaces_it(
    outside: tuple[Outside, PolicyVersion, PolicyVersion], project: Project
) -> None:
    place, _, new = outside
    place.serves = f"{new.directory}/model"
    Push.objects.create(project=project, policy=new, lease_until=timezone.now() + timedelta(minutes=1))
    assert restage_missing() == []
    Push.objects.update(lease_until=timezone.now() - timedelta(seconds=1))  # its process has died
    assert len(restage_missing()) == 1


def test_others_who_do_not_deploy_in_time_or_refuse_leave_the_old_version(
    outside: tuple[Outside, PolicyVersion, PolicyVersion], project: Project
) -> None:
    place, old, new = outside
    Endpoint.objects.update(settings={**Endpoint.objects.get().settings, "deadline_s": 0.2})
    place.deployer.routes["/deploy"] = lambda _: (202, {})
    with pytest.raises(PushRefused, match=r"^stage: endpoint theirs: .* was not there within"):
        push_policy(policy=new)
    place.deployer.routes["/deploy"] = lambda _: (403, {})
    with pytest.raises(PushRefused, match=r"^stage: endpoint theirs: the webhook that deploys: answered 403"):
        push_policy(policy=new)
    assert live_of(project) == old


def test_a_command_of_the_environment_deploys(
    outside: tuple[Outside, PolicyVersion, PolicyVersion], project: Project, tmp_path: Path, settings: Any
) -> None:
    place, old, new = outside
    Endpoint.objects.update(settings={"command": True, "deadline_s": 5, "poll_s": 0.02})
    script = tmp_path / "deploy"
    script.write_text(
        f'#!/bin/sh\nif test -e {tmp_path}/full; then echo "disk full" >&2; exit 3; fi\n'
        f'echo "$1 $2" > {tmp_path}/asked\n'
    )
    script.chmod(0o755)
    settings.DEPLOY_COMMAND = [str(script)]
    (tmp_path / "full").touch()
    with pytest.raises(PushRefused, match=r"^stage: endpoint theirs: deploy ended with code 3: disk full"):
        push_policy(policy=new)
    (tmp_path / "full").unlink()

    def info(_: dict[str, Any]) -> Answer:
        place.serves = (tmp_path / "asked").read_text().split()[1]
        return 200, {"model_id": place.serves}

    place.server.routes["/info"] = info
    (tmp_path / "asked").write_text(f"{old.name} {old.directory}/model\n")
    push_policy(policy=new)
    assert live_of(project) == new
    assert (tmp_path / "asked").read_text() == f"{new.name} {new.directory}/model\n"


def test_a_server_of_openais_protocol_is_known_by_names(
    vllm: tuple[Fake, PolicyVersion, PolicyVersion], fakes: tuple[Fake, Fake], project: Project
) -> None:
    fake, old, new = vllm
    load = fake.routes["/v1/load_lora_adapter"]
    fakes[1].routes["/deploy"] = lambda body: load({"lora_name": body["policy"], "lora_path": body["directory"]})
    options = {"speaks": "openai", "webhook": f"{fakes[1].url}/deploy", "secret": "s", "poll_s": 0.02}
    Endpoint.objects.update(backend="external", settings=options, calibration={"policy": old.name})
    push_policy(policy=new)
    assert live_of(project) == new
    (generated,) = backend_of(Endpoint.objects.get()).generate(new, MESSAGES, SAMPLING, [1])
    assert generated.policy_name == new.name


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({}, "either webhook with secret, or command is needed"),
        ({"webhook": "http://a", "secret": "s", "command": True}, "either webhook"),
        ({"webhook": "http://a"}, "secret: is needed"),
        ({"command": True}, "DEPLOY_COMMAND is not set"),
        ({"webhook": "http://a", "secret": "s", "speaks": "grpc"}, "speaks: one of tgi, openai"),
        ({"hook": "http://a"}, "unknown: hook"),
    ],
)
def test_options_that_cannot_deploy_are_refused_when_the_endpoint_is_set(options: dict[str, Any], why: str) -> None:
    with pytest.raises(BackendError, match=why):
        set_endpoint(name="theirs", backend=Endpoint.Backend.EXTERNAL, url="http://a", settings=options)
    assert not Endpoint.objects.exists()


# An ill live version


def test_an_ill_live_version_stops_neither_a_rollback_nor_the_push_that_mends_it(
    vllm: tuple[Fake, PolicyVersion, PolicyVersion], project: Project
) -> None:
    fake, old, new = vllm
    push_policy(policy=new)
    honest = fake.routes["/v1/completions"]
    fake.routes["/v1/completions"] = lambda body: (424, {}) if body["model"] == new.name else honest(body)
    measured(old, [5, 7], [-0.9, -0.4])
    roll_back(project=project)
    assert live_of(project) == old
    fake.routes["/v1/completions"] = lambda body: (424, {}) if body["model"] == old.name else honest(body)
    push_policy(policy=new)
    assert live_of(project) == new
