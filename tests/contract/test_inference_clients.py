"""huggingface_hub's clients against the embedded server, unchanged, and TGI's fields as its users read them."""

import asyncio
import json
import math
from typing import Any, cast

import httpx
import pytest
from huggingface_hub import AsyncInferenceClient, InferenceClient
from huggingface_hub.errors import HfHubHTTPError, ValidationError

from tests.inference_server import LENGTH, Server

MESSAGES = [{"role": "user", "content": "What is the capital of France?"}]


@pytest.fixture
def client(server: Server) -> InferenceClient:
    return InferenceClient(model=server.url, token="none")


def events_of(answer: httpx.Response) -> list[dict[str, Any]]:
    """Return the objects of a stream of server-sent events; every frame is a data line and an empty one."""
    frames = answer.text.split("\n\n")
    assert frames[-1] == ""
    assert all(frame.startswith("data:") for frame in frames[:-1])
    return [json.loads(frame.removeprefix("data:")) for frame in frames[:-1] if frame != "data: [DONE]"]


def test_text_generation_gives_text_and_details(client: InferenceClient) -> None:
    plain = client.text_generation("Hello there", max_new_tokens=6)
    detailed = client.text_generation(
        "Hello there", max_new_tokens=6, details=True, decoder_input_details=True, top_n_tokens=3
    )
    assert detailed.generated_text == plain
    details = detailed.details
    assert details is not None
    assert (details.finish_reason, details.generated_tokens, details.seed) == ("length", 6, None)
    # One token a byte: the prompt's eleven, the first of which nothing predicts.
    assert "".join(token.text for token in details.prefill) == "Hello there"
    unpredicted: Any = details.prefill[0].logprob  # the client's types know of no null there
    assert unpredicted is None
    assert all(token.logprob < 0 for token in details.prefill[1:])
    assert details.top_tokens is not None
    for token, top in zip(details.tokens, details.top_tokens, strict=True):
        # The client leaves the inner lists as they came; greedy decoding takes the likeliest.
        first, second, third = (dict(cast("dict[str, Any]", other)) for other in top)
        assert (first["id"], first["logprob"]) == (token.id, token.logprob)
        assert first["logprob"] >= second["logprob"] >= third["logprob"]


def test_text_generation_streams(client: InferenceClient) -> None:
    whole = client.text_generation("Hello there", max_new_tokens=8, do_sample=True, seed=3)
    assert (
        "".join(client.text_generation("Hello there", max_new_tokens=8, do_sample=True, seed=3, stream=True)) == whole
    )
    events = list(
        client.text_generation("Hello there", max_new_tokens=8, do_sample=True, seed=3, stream=True, details=True)
    )
    assert [event.index for event in events] == [1, 2, 3, 4, 5, 6, 7, 8]
    assert [event.generated_text for event in events] == [None] * 7 + [whole]
    details = events[-1].details
    assert details is not None
    assert (details.finish_reason, details.generated_tokens, details.input_length, details.seed) == ("length", 8, 11, 3)


def test_return_full_text_and_truncate(client: InferenceClient) -> None:
    answer = client.text_generation("Hello", max_new_tokens=3)
    assert client.text_generation("Hello", max_new_tokens=3, return_full_text=True) == "Hello" + answer
    # truncate keeps the last tokens: what is cut off in front changes nothing.
    assert client.text_generation("cut off: Hello", max_new_tokens=3, truncate=5) == answer


def test_chat_completes_plainly_and_streamed(server: Server) -> None:
    client = InferenceClient(base_url=server.url, api_key="none")
    options: dict[str, Any] = {"max_tokens": 12, "seed": 5, "temperature": 0.8, "logprobs": True, "top_logprobs": 2}
    answer = client.chat_completion(MESSAGES, **options)
    choice = answer.choices[0]
    assert (answer.model, choice.finish_reason, answer.usage.completion_tokens) == ("base", "length", 12)
    assert choice.logprobs is not None
    assert len(choice.logprobs.content) == 12
    options |= {"stream": True, "stream_options": {"include_usage": True}}
    chunks = list(client.chat_completion(MESSAGES, **options))
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices) == choice.message.content
    assert [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices] == [None] * 11 + ["length"]
    streamed = [entry for chunk in chunks if chunk.choices for entry in chunk.choices[0].logprobs.content]
    assert [entry.logprob for entry in streamed] == [entry.logprob for entry in choice.logprobs.content]
    assert dict(chunks[-1].usage) == dict(answer.usage)


def test_asynchronous_client_answers_the_same(server: Server, client: InferenceClient) -> None:
    async def ask() -> tuple[str, list[str], str | None, str]:
        one = AsyncInferenceClient(model=server.url, token="none")
        other = AsyncInferenceClient(base_url=server.url, api_key="none")
        text = await one.text_generation("Hello there", max_new_tokens=8, do_sample=True, seed=9)
        stream = await one.text_generation("Hello there", max_new_tokens=8, do_sample=True, seed=9, stream=True)
        parts = [part async for part in stream]
        chat = await other.chat_completion(MESSAGES, max_tokens=8, seed=9)
        chunks = await other.chat_completion(MESSAGES, max_tokens=8, seed=9, stream=True)
        streamed = "".join([chunk.choices[0].delta.content or "" async for chunk in chunks])
        return text, parts, chat.choices[0].message.content, streamed

    text, parts, chat, streamed = asyncio.run(ask())
    assert text == "".join(parts) == client.text_generation("Hello there", max_new_tokens=8, do_sample=True, seed=9)
    assert chat == streamed


def test_clients_read_info_and_health(server: Server) -> None:
    client = InferenceClient(provider="hf-inference", model=server.url, token="none")
    assert client.health_check()
    info = client.get_endpoint_info()
    assert (info["policy_version"], info["max_total_tokens"], info["max_stop_sequences"]) == ("base", LENGTH, 4)
    assert info["policies"][0]["state"] == "ready"


@pytest.mark.parametrize(
    ("refused", "field"),
    [
        ({"temperature": -1.0}, "temperature"),
        ({"top_p": 1.0}, "top_p"),
        ({"top_k": 0}, "top_k"),
        ({"typical_p": 0.0}, "typical_p"),
        ({"repetition_penalty": 0.0}, "repetition_penalty"),
        ({"frequency_penalty": 2.5}, "frequency_penalty"),
        ({"max_new_tokens": LENGTH}, "max_new_tokens"),
        ({"top_n_tokens": 6}, "top_n_tokens"),
        ({"stop": ["a", "b", "c", "d", "e"]}, "stop"),
        ({"best_of": 2}, "best_of"),
        ({"best_of": 2, "do_sample": True, "seed": 1}, "seed"),
        ({"best_of": 3, "do_sample": True}, "best_of"),
        ({"grammar": {"type": "regex", "value": "a+"}}, "grammar"),
        ({"watermark": True}, "watermark"),
    ],
)
def test_what_tgi_refuses_is_its_clients_validation_error(
    client: InferenceClient, refused: dict[str, Any], field: str
) -> None:
    options = {"max_new_tokens": 2} | refused
    with pytest.raises(ValidationError, match=field):
        client.text_generation("Hello", **options)
    with pytest.raises(ValidationError, match=field):
        list(client.text_generation("Hello", stream=True, **options))


def test_streaming_refuses_what_needs_the_whole_answer(server: Server) -> None:
    for parameters in ({"best_of": 2, "do_sample": True}, {"decoder_input_details": True}):
        answer = server.post("/generate_stream", {"inputs": "Hello", "parameters": parameters})
        # TGI's streams always begin with 200: an error is an event.
        assert answer.status_code == 200
        (event,) = events_of(answer)
        assert event["error_type"] == "validation"


def test_chat_refuses_in_words_what_it_cannot_do(server: Server) -> None:
    client = InferenceClient(base_url=server.url, api_key="none")
    tool = {"type": "function", "function": {"name": "f", "parameters": {}}}
    refused: list[dict[str, Any]] = [
        {"tools": [tool]},
        {"response_format": {"type": "json_object"}},
        {"n": 2},
        {"logit_bias": [1]},
    ]
    for options in refused:
        with pytest.raises(HfHubHTTPError, match=next(iter(options))) as caught:
            client.chat_completion(MESSAGES, max_tokens=2, **options)
        assert caught.value.response.status_code == 422


def test_stop_sequences_end_the_answer_and_are_a_part_of_generated_text(client: InferenceClient) -> None:
    whole = client.text_generation("Hello", max_new_tokens=40, do_sample=True, seed=1)
    stop = whole[10:12]
    wanted = whole[: whole.index(stop) + 2]
    answer = client.text_generation("Hello", max_new_tokens=40, do_sample=True, seed=1, stop=[stop], details=True)
    assert answer.details is not None
    assert (answer.generated_text, answer.details.finish_reason) == (wanted, "stop_sequence")


def test_a_stop_sequence_is_no_part_of_a_chats_text_nor_of_its_chunks(server: Server) -> None:
    client = InferenceClient(base_url=server.url, api_key="none")
    whole = client.chat_completion(MESSAGES, max_tokens=40, seed=2).choices[0].message.content
    assert whole is not None
    stop = whole[10:13]
    wanted = whole[: whole.index(stop)]
    # A second one that only begins: what was held back for it is sent in the end.
    options: dict[str, Any] = {"max_tokens": 40, "seed": 2, "stop": [stop, whole[5] + "\x00\x01"]}
    answer = client.chat_completion(MESSAGES, **options).choices[0]
    assert (answer.message.content, answer.finish_reason) == (wanted, "stop")
    chunks = client.chat_completion(MESSAGES, stream=True, **options)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == wanted


def test_the_end_token_ends_the_answer_and_is_no_text(client: InferenceClient) -> None:
    for seed in range(60):
        answer = client.text_generation(
            "Hello", max_new_tokens=60, details=True, do_sample=True, temperature=3.0, seed=seed
        )
        assert answer.details is not None
        if answer.details.finish_reason == "eos_token":
            break
    else:
        raise AssertionError("no answer of sixty ended by itself")
    last = answer.details.tokens[-1]
    assert (last.text, last.special) == ("<|im_end|>", True)
    assert "<|im_end|>" not in answer.generated_text
    assert answer.details.generated_tokens == len(answer.details.tokens)


def test_a_seed_draws_the_same_again_and_the_seed_of_an_unseeded_request_is_told(client: InferenceClient) -> None:
    def draw(seed: int | None) -> tuple[str, int]:
        answer = client.text_generation("Hello", max_new_tokens=20, do_sample=True, seed=seed, details=True)
        assert answer.details is not None
        assert answer.details.seed is not None
        return answer.generated_text, answer.details.seed

    largest = 2**64 - 1
    assert draw(largest) == draw(largest)
    assert draw(largest)[0] != draw(largest - 1)[0]
    text, seed = draw(None)
    assert draw(seed) == (text, seed)


def test_temperature_one_without_do_sample_is_greedy_as_in_tgi(server: Server) -> None:
    greedy = server.generate("Hello", max_new_tokens=12).json()
    assert server.generate("Hello", max_new_tokens=12, temperature=1.0, seed=4).json() == greedy
    assert server.generate("Hello", max_new_tokens=12, temperature=0.99, seed=4).json() != greedy
    # And without any parameters TGI samples.
    texts = {server.post("/generate", {"inputs": "x" * (LENGTH - 12)}).json()["generated_text"] for _ in range(3)}
    assert len(texts) > 1


def test_best_of_answers_with_the_likeliest_sequence(client: InferenceClient) -> None:
    answer = client.text_generation("Hello", max_new_tokens=8, do_sample=True, best_of=2, details=True)
    details = answer.details
    assert details is not None
    assert details.best_of_sequences is not None
    (other,) = details.best_of_sequences
    # By the mean, as text-generation-inference has it: one answer may end before the other.
    best, worse = (math.fsum(t.logprob for t in each.tokens) / each.generated_tokens for each in (details, other))
    assert best >= worse
    assert details.seed != other.seed


def test_every_answer_names_its_policy(server: Server) -> None:
    plain = server.generate("Hello", max_new_tokens=2, details=True)
    streamed = server.post("/generate_stream", {"inputs": "Hello", "parameters": {"max_new_tokens": 2}})
    chat = server.post("/v1/chat/completions", {"messages": MESSAGES, "max_tokens": 2})
    assert {answer.headers["x-policy-version"] for answer in (plain, streamed, chat)} == {"base"}
    assert plain.json()["details"]["policy_version"] == "base"
    assert events_of(streamed)[-1]["details"]["policy_version"] == "base"
    assert chat.json()["policy_version"] == chat.json()["model"] == "base"


def test_an_unknown_policy_is_refused_and_never_answered_by_another(server: Server) -> None:
    for answer in (
        server.generate("Hello", max_new_tokens=2, adapter_id="policy-42"),
        server.post("/v1/chat/completions", {"messages": MESSAGES, "model": "policy-42"}),
    ):
        assert answer.status_code == 404
        assert "policy-42" in answer.json()["error"]


def test_tokenize_cuts_the_text_in_pieces_that_join_to_it(server: Server) -> None:
    text = "Hi thère, 你好"
    tokens = server.post("/tokenize", {"inputs": text}).json()
    assert [set(token) for token in tokens] == [{"id", "text", "start", "stop"}] * len(text.encode())
    assert (tokens[0]["start"], tokens[-1]["stop"]) == (0, len(text))


def test_metrics_count_what_was_answered(server: Server) -> None:
    def figures() -> dict[str, float]:
        lines = [line for line in server.get("/metrics").text.splitlines() if not line.startswith("#")]
        return {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines)}

    before = figures()
    server.generate("Hello", max_new_tokens=5)
    server.generate("Hello", max_new_tokens=5, temperature=-1)
    after = figures()
    assert after['tgi_request_success{policy="base"}'] - before['tgi_request_success{policy="base"}'] == 1
    assert after["tgi_request_generated_tokens_sum"] - before["tgi_request_generated_tokens_sum"] == 5
    failed = 'tgi_request_failure{err="validation"}'
    assert after[failed] - before.get(failed, 0) == 1
    assert after['policy_version{policy="base"}'] == 1
    assert (after["tgi_queue_size"], after["tgi_batch_current_size"]) == (0, 0)
