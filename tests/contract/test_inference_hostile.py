"""Requests that are malformed, huge or hostile get an error in TGI's words; the server lives on, or comes back."""

import asyncio
import json
import os
import signal
import socket
import sys
import threading
import time
from pathlib import Path
from typing import Any

import httpx
import pytest

from feedback_app.embedded.children import Child, stop_children
from tests.inference_server import Server, make_model, running_server, wait_until

BODIES: dict[str, tuple[int, bytes]] = {
    "nothing": (400, b""),
    "half an object": (400, b'{"inputs": "a"'),
    "a list": (422, b"[1]"),
    "no UTF-8": (400, b'{"inputs": "\xff\xfe"}'),
    "half a surrogate pair": (400, b'{"inputs": "\\ud800"}'),
    "brackets without end": (400, b"[" * 100_000),
    "an integer without end": (400, b'{"inputs": "a", "parameters": {"seed": ' + b"9" * 5000 + b"}}"),
    "not a number": (422, b'{"inputs": "a", "parameters": {"temperature": NaN}}'),
    "infinity": (422, b'{"inputs": "a", "parameters": {"top_p": Infinity}}'),
    "no inputs": (422, b"{}"),
    "empty inputs": (422, b'{"inputs": ""}'),
    "inputs of another type": (422, b'{"inputs": ["a"]}'),
    "parameters of another type": (422, b'{"inputs": "a", "parameters": []}'),
    "more bytes than allowed": (413, b'{"inputs": "' + b"a" * 2_000_001 + b'"}'),
    "more tokens than allowed": (422, b'{"inputs": "' + b"a" * 1_900_000 + b'"}'),
}


@pytest.mark.parametrize("name", BODIES)
@pytest.mark.parametrize("route", ["/", "/generate", "/tokenize"])
def test_a_body_that_is_none_is_answered_in_tgis_words(server: Server, route: str, name: str) -> None:
    status, body = BODIES[name]
    if route == "/tokenize" and name == "more tokens than allowed":
        return  # TGI tokenises whatever the payload limit lets in
    answer = httpx.post(server.url + route, content=body, timeout=60)
    assert answer.status_code == status
    assert set(answer.json()) == {"error", "error_type"}
    assert answer.json()["error_type"] == "validation"


@pytest.mark.parametrize("value", [-1, 0, 10**25, 1e308, 1e-320, "1", [], {}, True])
@pytest.mark.parametrize(
    "field",
    ["temperature", "top_k", "top_p", "typical_p", "repetition_penalty", "frequency_penalty", "seed", "max_new_tokens",
     "best_of", "truncate", "top_n_tokens", "details", "do_sample", "stop", "adapter_id"],
)  # fmt: skip
def test_any_value_in_any_field_is_an_answer_or_a_validation_error(server: Server, field: str, value: Any) -> None:
    body = {"inputs": "a", "parameters": {"max_new_tokens": 2, field: value}}
    answer = server.post("/generate", body)
    assert answer.status_code in (200, 404, 422)
    if answer.status_code != 200:
        assert answer.json()["error_type"] == "validation"


@pytest.mark.parametrize(
    "text",
    [
        "a\x00b",
        "\ufeff\u202e",
        "😀" * 20,
        "\ud83d\ude00".encode("utf-16", "surrogatepass").decode("utf-16"),
        "<|im_end|>",
        " ",
    ],
)
def test_any_text_is_answered(server: Server, text: str) -> None:
    assert server.generate(text, max_new_tokens=2, details=True, decoder_input_details=True).status_code == 200
    chat = server.post("/v1/chat/completions", {"messages": [{"role": text, "content": text}], "max_tokens": 2})
    assert chat.status_code == 200


def test_a_connection_that_speaks_no_http_harms_nobody(server: Server) -> None:
    host, port = server.url.removeprefix("http://").split(":")
    for noise in (
        b"\x00\x01\x02\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"POST /generate HTTP/1.1\r\ncontent-length: 99\r\n\r\n{",
    ):
        with socket.create_connection((host, int(port)), timeout=5) as connection:
            connection.sendall(noise)
    assert server.get("/health").status_code == 200


@pytest.fixture(scope="module")
def narrow(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Run a server of one slot and room for one waiting request, of a model slow enough to be busy when looked at."""
    root = tmp_path_factory.mktemp("narrow")
    with running_server(
        make_model(root / "slow", seed=1, layers=16), root / "log", "--batch-size", "1", "--max-concurrent", "2"
    ) as running:
        yield running


LONG = {"inputs": "Tell me", "parameters": {"max_new_tokens": 2000}}


def idle(server: Server) -> bool:
    text = server.get("/metrics").text
    return "tgi_queue_size 0" in text and "tgi_batch_current_size 0" in text


@pytest.mark.parametrize("route", ["/generate", "/generate_stream", "/v1/chat/completions"])
def test_a_client_that_hangs_up_frees_its_slot(narrow: Server, route: str) -> None:
    chat = {"messages": [{"role": "user", "content": "Tell me"}], "max_tokens": 2000, "stream": True}
    host, port = narrow.url.removeprefix("http://").split(":")
    body = json.dumps(chat if route.startswith("/v1") else LONG).encode()
    head = f"POST {route} HTTP/1.1\r\nhost: {host}\r\ncontent-length: {len(body)}\r\n\r\n".encode()
    for wait in (True, False):  # while it is answered, and before anything was read
        with socket.create_connection((host, int(port)), timeout=10) as connection:
            connection.sendall(head + body)
            if wait:
                wait_until(lambda: "tgi_batch_current_size 1" in narrow.get("/metrics").text)
        wait_until(lambda: idle(narrow), seconds=5)
        # Both places are free again: neither a slot nor the count of requests under way was kept.
        statuses = asyncio.run(post_together(narrow.url, 2))
        assert statuses == [200, 200]


async def post_together(url: str, count: int, tokens: int = 2) -> list[int]:
    body = {"inputs": "Hello", "parameters": {"max_new_tokens": tokens}}
    async with httpx.AsyncClient(timeout=60) as client:
        answers = await asyncio.gather(*(client.post(f"{url}/generate", json=body) for _ in range(count)))
    return [answer.status_code for answer in answers]


def test_more_requests_than_places_are_429_and_an_event_in_a_stream(narrow: Server) -> None:
    statuses = asyncio.run(post_together(narrow.url, 6, tokens=30))
    assert sorted(statuses) == [200, 200, 429, 429, 429, 429]
    with httpx.stream("POST", f"{narrow.url}/generate_stream", json=LONG, timeout=60) as one:
        lines = one.iter_lines()  # kept: one that is let go closes the connection
        next(lines)
        with httpx.stream("POST", f"{narrow.url}/generate_stream", json=LONG, timeout=60):
            refused = narrow.generate("Hello", max_new_tokens=1)
            assert (refused.status_code, refused.json()["error_type"]) == (429, "overloaded")
            streamed = narrow.post("/generate_stream", LONG)
            assert streamed.status_code == 200
            assert json.loads(streamed.text.removeprefix("data:"))["error_type"] == "overloaded"
            # Facts are told however busy it is.
            assert narrow.get("/health").status_code == 200
    wait_until(lambda: idle(narrow))


def test_a_prompt_that_breaks_the_model_is_424_and_spoils_nothing(tmp_path: Path) -> None:
    model = make_model(tmp_path / "model", seed=1, nan_token="Z")
    with running_server(model, tmp_path / "log", "--batch-size", "2") as server:
        sane = server.generate("Tell me", max_new_tokens=30, details=True).json()
        assert sane["details"]["generated_tokens"] > 1
        for _ in range(3):
            broken = server.generate("ZZ top " * 20, max_new_tokens=4)
            assert (broken.status_code, broken.json()["error_type"]) == (424, "generation")
            # In the same slot, whose cache held what is no number.
            assert server.generate("Tell me", max_new_tokens=30, details=True).json() == sane
        chat = {"messages": [{"role": "user", "content": "Z"}], "max_tokens": 2}
        assert server.post("/v1/chat/completions", chat).status_code == 424
        stream = server.post("/v1/chat/completions", {**chat, "stream": True})
        first, done, _ = stream.text.split("\n\n")
        assert json.loads(first.removeprefix("data:"))["error"]["http_status_code"] == 424
        assert done == "data: [DONE]"
        assert server.get("/health").status_code == 200


def test_sigterm_answers_what_is_under_way_and_ends_with_0(models: dict[str, Path], tmp_path: Path) -> None:
    with running_server(models["base"], tmp_path / "log") as server:
        whole: dict[str, Any] = {}
        long = {"inputs": "Tell me", "parameters": {"max_new_tokens": 800}}
        worker = threading.Thread(target=lambda: whole.update(server.post("/generate", long).json()))
        worker.start()
        wait_until(lambda: "tgi_batch_current_size 1" in server.get("/metrics").text)
        with httpx.stream("POST", f"{server.url}/generate_stream", json=long, timeout=60) as stream:
            lines = stream.iter_lines()
            next(lines)
            server.process.send_signal(signal.SIGTERM)
            last = json.loads([line for line in lines if line][-1].removeprefix("data:"))
        worker.join()
        assert last["generated_text"] == whole["generated_text"]
        assert server.process.wait(20) == 0
        with pytest.raises(httpx.ConnectError):
            server.get("/health")


def test_a_server_killed_in_flight_is_started_again_on_its_port(models: dict[str, Path], tmp_path: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [
        sys.executable,
        "-W",
        "ignore",
        "-m",
        "training",
        "serve",
        "--model",
        str(models["base"]),
        "--port",
        str(port),
    ]
    child = Child("inference", command, tmp_path / "log")
    said: list[str] = []
    url = f"http://127.0.0.1:{port}"

    def answers() -> bool:
        child.watch(said.append)
        try:
            return httpx.get(f"{url}/health").status_code == 200
        except httpx.HTTPError:
            return False

    try:
        wait_until(answers, seconds=90)
        before = httpx.post(f"{url}/generate", json={"inputs": "a", "parameters": {"max_new_tokens": 9}}).json()
        with httpx.stream("POST", f"{url}/generate_stream", json=LONG, timeout=60) as stream:
            lines = stream.iter_lines()
            next(lines)
            assert child.process is not None
            os.kill(child.process.pid, signal.SIGKILL)
            with pytest.raises(httpx.HTTPError):
                list(lines)
        time.sleep(0.1)
        wait_until(answers, seconds=90)
        assert "killed by SIGKILL" in said[0]
        after = httpx.post(f"{url}/generate", json={"inputs": "a", "parameters": {"max_new_tokens": 9}}).json()
        assert after == before
    finally:
        stop_children([child])
