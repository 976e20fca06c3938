"""A second model is staged beside the first, flipped to with requests in flight, and let go."""

import json
import os
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.inference_server import Server, make_model, running_server, wait_until


@pytest.fixture
def only_base(server: Server, models: dict[str, Path]) -> Iterator[None]:
    """Leave the session's server with its base policy alone."""
    yield
    wait_until(lambda: stage(server, name="base", path=str(models["base"])).status_code == 200)
    stage(server, "current", name="base")
    for name in set(server.policies()) - {"base"}:
        httpx.delete(f"{server.url}/admin/policies/{name}")
    wait_until(lambda: set(server.policies()) == {"base"})


def stage(server: Server, route: str = "policies", **body: str) -> httpx.Response:
    return server.post(f"/admin/{route}", body)


def greedy(server: Server, policy: str | None = None) -> dict[str, Any]:
    parameters: dict[str, Any] = {"max_new_tokens": 12, "details": True, "adapter_id": policy}
    answer: dict[str, Any] = server.generate("Tell me", **parameters).json()["details"]
    return answer


@pytest.mark.usefixtures("only_base")
def test_a_flip_changes_what_new_requests_get_while_old_ones_end_on_their_policy(
    server: Server, models: dict[str, Path]
) -> None:
    base = greedy(server)
    long = {"inputs": "Tell me", "parameters": {"max_new_tokens": 1200, "details": True}}
    undisturbed = server.post("/generate", long).json()
    assert undisturbed["details"]["generated_tokens"] == 1200
    assert stage(server, name="second", path=str(models["other"])).status_code == 200
    # Staged is not current: an answer that names no policy is the base's, to the last bit; one that names it is not.
    assert greedy(server) == base
    second = greedy(server, "second")
    assert second["policy_version"] == "second"
    assert [t["id"] for t in second["tokens"]] != [t["id"] for t in base["tokens"]]

    late: dict[str, Any] = {}
    worker = threading.Thread(target=lambda: late.update(server.post("/generate", long).json()))
    worker.start()
    with httpx.stream("POST", f"{server.url}/generate_stream", json=long, timeout=60) as stream:
        lines = stream.iter_lines()
        assert next(lines).startswith("data:")
        assert stage(server, "current", name="second").json()["policy_version"] == "second"
        # In use, it takes no new requests and goes with its last one.
        assert httpx.delete(f"{server.url}/admin/policies/base").status_code == 409
        assert server.policies() == {"base": "draining", "second": "ready"}
        assert server.generate("x", adapter_id="base", max_new_tokens=1).status_code == 404
        assert greedy(server)["tokens"] == second["tokens"]
        last = [json.loads(line.removeprefix("data:")) for line in lines if line][-1]
    worker.join()
    assert last["generated_text"] == undisturbed["generated_text"]
    assert last["details"]["policy_version"] == "base"
    assert late == undisturbed
    wait_until(lambda: server.policies() == {"second": "ready"})
    assert server.get("/info").json()["policy_version"] == "second"
    assert server.get("/info").headers["x-policy-version"] == "second"
    # And back: the rollback is another flip.
    assert stage(server, name="base", path=str(models["base"])).status_code == 200
    stage(server, "current", name="base")
    assert greedy(server) == base


@pytest.mark.usefixtures("only_base")
def test_staging_again_is_idempotent_and_a_name_is_never_reused(server: Server, models: dict[str, Path]) -> None:
    for _ in range(2):
        assert stage(server, name="second", path=str(models["other"])).status_code == 200
    answer = stage(server, name="second", path=str(models["base"]))
    assert (answer.status_code, answer.json()["error_type"]) == (409, "conflict")
    assert httpx.delete(f"{server.url}/admin/policies/second").status_code == 200
    assert httpx.delete(f"{server.url}/admin/policies/second").status_code == 404
    assert httpx.delete(f"{server.url}/admin/policies/base").status_code == 409  # the current one stays


@pytest.mark.usefixtures("only_base")
def test_policies_of_the_same_files_share_their_weights_and_nothing_else(
    server: Server, models: dict[str, Path], tmp_path: Path
) -> None:
    base = greedy(server)
    # The base's files under nine names; only two further sets of weights fit beside it and one more (--max-policies 4).
    for number in range(9):
        assert stage(server, name=f"copy-{number}", path=str(models["base"])).status_code == 200
        again = greedy(server, f"copy-{number}")
        assert again["policy_version"] == f"copy-{number}"
        assert again["tokens"] == base["tokens"]
    for number in range(3):
        shutil.copytree(models["other"], tmp_path / str(number))
        assert stage(server, name=f"other-{number}", path=str(tmp_path / str(number))).status_code == 200
    answer = stage(server, name="one-too-many", path=str(models["other"]))
    assert (answer.status_code, answer.json()["error_type"]) == (507, "overloaded")
    # A directory that was written anew is not what was loaded from it before.
    httpx.delete(f"{server.url}/admin/policies/other-2")
    make_model(tmp_path / "0", seed=3)
    assert stage(server, name="rewritten", path=str(tmp_path / "0")).status_code == 200
    assert greedy(server, "rewritten")["tokens"] != greedy(server, "other-0")["tokens"]


def test_a_directory_that_cannot_be_served_is_refused_in_words(
    server: Server, models: dict[str, Path], tmp_path: Path
) -> None:
    def broken(name: str) -> Path:
        shutil.copytree(models["other"], tmp_path / name)
        return tmp_path / name

    short = broken("short") / "model.safetensors"
    os.truncate(short, short.stat().st_size // 2)
    (broken("garbage") / "model.safetensors").write_bytes(b"no tensors at all")
    (broken("weightless") / "model.safetensors").unlink()
    (broken("tokenizer") / "tokenizer.json").write_text("{}")
    config = broken("wider") / "config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "num_hidden_layers": 3}))
    make_model(tmp_path / "nan", seed=2, spread=float("nan"))
    for name in ("short", "garbage", "weightless", "tokenizer", "wider", "nan", "nowhere", "x" * 5000):
        answer = stage(server, name="broken", path=str(tmp_path / name))
        assert answer.status_code == 422, name
        assert str(tmp_path) in answer.json()["error"]
        assert "Traceback" not in answer.text
    assert server.policies() == {"base": "ready"}


@pytest.mark.parametrize("name", ["tgi", "dummy", "", "../x", "a b", "-x", "x" * 200, "\x00"])
def test_a_name_that_is_none_is_refused(server: Server, models: dict[str, Path], name: str) -> None:
    assert stage(server, name=name, path=str(models["other"])).status_code == 422


def test_only_this_machine_or_the_tokens_holder_administers(
    server: Server, models: dict[str, Path], tmp_path: Path
) -> None:
    body = {"name": "base"}
    # A page whose own name was made to lead here (DNS rebinding) says so in its Host.
    assert server.post("/admin/current", body, host="evil.example").status_code == 403
    form = httpx.post(f"{server.url}/admin/current", content=json.dumps(body), headers={"content-type": "text/plain"})
    assert form.status_code == 415
    environment = os.environ | {"TRAINING_ADMIN_TOKEN": "secret-of-the-test"}
    with running_server(models["base"], tmp_path / "log", environment=environment) as guarded:
        assert guarded.post("/admin/current", body).status_code == 401
        assert guarded.post("/admin/current", body, authorization="Bearer wrong").status_code == 401
        assert guarded.post("/admin/current", body, authorization="Bearer secret-of-the-test").status_code == 200
        assert guarded.generate("Hello", max_new_tokens=1).status_code == 200
