"""The HTTP face: TGI's and OpenAI's routes over one engine, and the admin routes that stage and flip policies."""

import asyncio
import hmac
import ipaddress
import json
import logging
import re
import time
from collections.abc import AsyncGenerator, Callable, Coroutine, Mapping
from contextlib import ExitStack, aclosing
from dataclasses import dataclass, replace
from typing import Any

from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from training.answering import Answering, ClientGone, EventStream, sse, unless_gone
from training.chat_protocol import ChatCall, ChatStream, chat_json, parse_chat
from training.inference import Engine, FinishedEvent, GenerationRequest, TokenEvent
from training.policies import Policy
from training.policy_table import PolicyTable
from training.sampling import SamplingParameters
from training.serving_metrics import ServingMetrics
from training.serving_protocol import (
    Answer,
    Fields,
    GenerateCall,
    Limits,
    RequestError,
    StreamWriter,
    fit_prompt,
    generate_json,
    invalid,
    new_seed,
    parse_generate,
)

VERSION = "3.3.7"
_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")
log = logging.getLogger(__name__)
Handler = Callable[[Request], Coroutine[Any, Any, Response]]


@dataclass(frozen=True)
class AppSettings:
    """What the face needs to know; admin_token empty means that only this machine may administer."""

    limits: Limits
    max_concurrent: int
    payload_limit: int
    admin_token: str


class ServingApp:
    """The routes."""

    def __init__(self, engine: Engine, table: PolicyTable, settings: AppSettings) -> None:
        self._engine = engine
        self._table = table
        self._settings = settings
        self._limits = settings.limits
        self._metrics = ServingMetrics()
        self._answering = Answering(engine, table, self._metrics, most=settings.max_concurrent)

    def starlette(self) -> Starlette:
        """Return the ASGI application."""
        routes: list[tuple[str, str, Handler]] = [
            ("GET", "/", self.health),
            ("POST", "/", self.compatible),
            ("POST", "/generate", self.generate),
            ("POST", "/generate_stream", self.generate_stream),
            ("POST", "/v1/chat/completions", self.chat),
            ("POST", "/tokenize", self.tokenize),
            ("GET", "/info", self.info),
            ("GET", "/health", self.health),
            ("GET", "/ping", self.health),
            ("GET", "/metrics", self.metrics),
            ("GET", "/v1/models", self.models),
            ("POST", "/admin/policies", self.admin(self.stage)),
            ("DELETE", "/admin/policies/{name}", self.admin(self.remove)),
            ("POST", "/admin/current", self.admin(self.flip)),
        ]
        return Starlette(routes=[Route(path, self._guarded(do), methods=[method]) for method, path, do in routes])

    def _guarded(self, handler: Handler) -> Handler:
        async def guarded(request: Request) -> Response:
            try:
                return await handler(request)
            except RequestError as error:
                self._metrics.failures[error.error_type] += 1
                return JSONResponse(error.body(), status_code=error.status)
            except (ClientGone, ClientDisconnect):
                log.info("client gone path=%s", request.url.path)
                return Response(status_code=499)
            except Exception as error:
                # A fault of ours is answered in the protocol's words too: its clients read every body as JSON.
                log.exception("path=%s", request.url.path)
                failure = RequestError(f"{type(error).__name__} in the server", status=500, error_type="internal")
                self._metrics.failures[failure.error_type] += 1
                return JSONResponse(failure.body(), status_code=500)

        return guarded

    async def _body(self, request: Request) -> dict[str, Any]:
        """Read a JSON object of bounded size."""
        parts = bytearray()
        async for part in request.stream():
            parts += part
            if len(parts) > self._settings.payload_limit:
                raise RequestError(f"the body is larger than {self._settings.payload_limit} bytes", status=413)
        try:
            body = json.loads(parts)
            if _SURROGATE.search(parts):
                # Half of a pair is no character: it can be neither tokenised nor sent back.
                json.dumps(body, ensure_ascii=False).encode()
        except (ValueError, RecursionError) as error:
            raise RequestError(f"the body is not JSON: {error}", status=400) from error
        if not isinstance(body, dict):
            raise RequestError("the body must be a JSON object")
        return body

    # Text generation

    async def compatible(self, request: Request) -> Response:
        """POST /: what clients send that know the server's address alone; a list, or a stream if they say so."""
        body = await self._body(request)
        if Fields(body).flag("stream"):
            return await self._stream(body)
        return await self._generate(request, body, as_list=True)

    async def generate(self, request: Request) -> Response:
        """POST /generate."""
        return await self._generate(request, await self._body(request), as_list=False)

    async def generate_stream(self, request: Request) -> Response:
        """POST /generate_stream; as in TGI the status is 200 and errors are events."""
        return await self._stream(await self._body(request))

    async def _generate(self, request: Request, body: Mapping[str, Any], *, as_list: bool) -> Response:
        started = time.monotonic()
        call = parse_generate(body, self._limits)
        policy = self._table.get(call.policy)
        with self._answering.admit(policy):
            wanted = await self._request(policy, call)
            validated = time.monotonic()
            # The further answers of best_of have seeds of their own; parse_generate has refused a given one.
            requests = [wanted, *(_reseeded(wanted) for _ in range(call.best_of - 1))]
            work = asyncio.gather(*(self._answering.collect(policy, each) for each in requests))
            answers = await unless_gone(request, work)
        content: Any = generate_json(call, answers, policy.name)
        timing = _timing_headers(call, answers[0], started, validated)
        return JSONResponse([content] if as_list else content, headers={**_policy_header(policy), **timing})

    async def _request(self, policy: Policy, call: GenerateCall) -> GenerationRequest:
        # Tokenising two megabytes takes a second: other requests' events go on meanwhile.
        ids = await asyncio.to_thread(policy.encode, call.inputs)
        prompt, max_new_tokens = fit_prompt(
            ids,
            truncate=call.truncate,
            max_new_tokens=call.max_new_tokens,
            limits=self._limits,
            length=policy.length,
        )
        return GenerationRequest(
            prompt, max_new_tokens, call.sampling, call.stop, call.top_n_tokens, call.decoder_input_details
        )

    async def _stream(self, body: Mapping[str, Any]) -> Response:
        try:
            call = parse_generate(body, self._limits)
            if call.best_of != 1:
                raise invalid("`best_of` != 1 is not supported when streaming tokens")
            if call.decoder_input_details:
                raise invalid("`decoder_input_details` == true is not supported when streaming tokens")
            policy = self._table.get(call.policy)
            with self._answering.admit(policy) as stack:
                request = await self._request(policy, call)
                frames = self._frames(policy, call, request)
                return EventStream(frames, _policy_header(policy), stack.pop_all())
        except RequestError as error:
            self._metrics.failures[error.error_type] += 1
            return EventStream(_one_frame(error.body()), {}, ExitStack())

    async def _frames(
        self, policy: Policy, call: GenerateCall, request: GenerationRequest
    ) -> AsyncGenerator[str, None]:
        writer = StreamWriter(call, request, policy.name)
        try:
            async with aclosing(_numbered(self._answering.events(policy, request))) as numbered:
                async for index, event, end in numbered:
                    yield sse(writer.frame(index, event, end))
        except RequestError as error:
            self._metrics.failures[error.error_type] += 1
            yield sse(error.body())

    # Chat

    async def chat(self, request: Request) -> Response:
        """POST /v1/chat/completions."""
        call = parse_chat(await self._body(request), self._limits)
        policy = self._table.get(call.policy)
        with self._answering.admit(policy) as stack:
            wanted = await self._chat_request(policy, call)
            if call.stream:
                frames = self._chat_frames(policy, call, wanted)
                return EventStream(frames, _policy_header(policy), stack.pop_all())
            answer = await unless_gone(request, self._answering.collect(policy, wanted))
        return JSONResponse(chat_json(call, answer, policy.name), headers=_policy_header(policy))

    async def _chat_request(self, policy: Policy, call: ChatCall) -> GenerationRequest:
        ids = await asyncio.to_thread(_render, policy, call)
        prompt, max_new_tokens = fit_prompt(
            ids, truncate=None, max_new_tokens=call.max_tokens, limits=self._limits, length=policy.length
        )
        return GenerationRequest(prompt, max_new_tokens, call.sampling, call.stop, call.top_logprobs)

    async def _chat_frames(
        self, policy: Policy, call: ChatCall, request: GenerationRequest
    ) -> AsyncGenerator[str, None]:
        writer = ChatStream(call, policy.name)
        count = 0
        try:
            async with aclosing(_numbered(self._answering.events(policy, request))) as numbered:
                async for count, event, end in numbered:  # noqa: B007 - the last one is used below
                    yield sse(writer.token(event) if end is None else writer.last(event, end))
            if call.include_usage:
                yield sse(writer.usage(len(request.prompt), count))
        except RequestError as error:
            self._metrics.failures[error.error_type] += 1
            yield sse({"error": {"message": str(error), "http_status_code": error.status}})
        yield "data: [DONE]\n\n"

    # Facts

    async def tokenize(self, request: Request) -> Response:
        """POST /tokenize: each token with the part of the text that it stands for."""
        body = await self._body(request)
        call = parse_generate(body, self._limits)
        policy = self._table.get(call.policy)
        encoded = await asyncio.to_thread(policy.tokenizer, call.inputs, return_offsets_mapping=True)
        pairs = zip(encoded["input_ids"], encoded["offset_mapping"], strict=True)
        tokens = [
            {"id": token, "text": policy.token_text(token), "start": start, "stop": stop}
            for token, (start, stop) in pairs
        ]
        return JSONResponse(tokens, headers=_policy_header(policy))

    async def info(self, request: Request) -> Response:
        """GET /info: TGI's fields, and which policies there are."""
        policy = self._table.get(None)
        return JSONResponse(
            {
                "model_id": policy.path,
                "model_sha": None,
                "model_dtype": str(policy.model.dtype).removeprefix("torch."),
                "model_device_type": policy.device.type,
                "model_pipeline_tag": "text-generation",
                "max_concurrent_requests": self._settings.max_concurrent,
                "max_best_of": self._limits.max_best_of,
                "max_stop_sequences": self._limits.max_stop_sequences,
                "max_input_tokens": min(self._limits.max_input_tokens, policy.length - 1),
                "max_total_tokens": min(self._limits.max_total_tokens, policy.length),
                "validation_workers": 1,
                "max_client_batch_size": 1,
                "router": "training.server",
                "version": VERSION,
                "sha": None,
                "docker_label": None,
                "policy_version": policy.name,
                "policies": self._table.listing(),
            },
            headers=_policy_header(policy),
        )

    async def models(self, request: Request) -> Response:
        """GET /v1/models: every policy that a request may name."""
        ready = [entry["name"] for entry in self._table.listing() if entry["state"] == "ready"]
        data = [{"id": name, "object": "model", "created": 0, "owned_by": "training.server"} for name in ready]
        return JSONResponse({"object": "list", "data": data})

    async def health(self, request: Request) -> Response:
        """GET /health: after a failed step only a real generation makes the server healthy again."""
        if self._engine.failing:
            policy = self._table.get(None)
            probe = GenerationRequest((min(policy.ends, default=0),), 1)
            try:
                with self._answering.admit(policy):
                    await self._answering.collect(policy, probe)
            except RequestError as error:
                raise RequestError("unhealthy", status=503, error_type="healthcheck") from error
        return Response()

    async def metrics(self, request: Request) -> Response:
        """GET /metrics, for Prometheus."""
        text = self._metrics.render(
            current=self._table.current, waiting=self._engine.waiting, running=self._engine.running
        )
        return PlainTextResponse(text, media_type="text/plain; version=0.0.4")

    # Administration

    def admin(self, handler: Handler) -> Handler:
        """Let only the holder of the token through, or without a token only this machine."""

        async def checked(request: Request) -> Response:
            token = self._settings.admin_token
            given = request.headers.get("authorization", "")
            if token and not hmac.compare_digest(given.encode(), f"Bearer {token}".encode()):
                raise RequestError("a bearer token is needed", status=401, error_type="authentication")
            if not token and not (_is_loopback(request) and _names_loopback(request)):
                raise RequestError("only this machine may administer", status=403, error_type="authentication")
            # A page in a browser on this machine cannot send this type to another origin without being asked first.
            kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
            if request.method == "POST" and kind != "application/json":
                raise RequestError("the content type must be application/json", status=415)
            return await handler(request)

        return checked

    async def stage(self, request: Request) -> Response:
        """POST /admin/policies {"name", "path"}: load beside the others."""
        fields = Fields(await self._body(request))
        name, path = fields.text("name"), fields.text("path")
        if not name or not path:
            raise RequestError("`name` and `path` are required")
        await self._table.stage(name, path)
        return self._listing()

    async def remove(self, request: Request) -> Response:
        """DELETE /admin/policies/{name}."""
        self._table.remove(request.path_params["name"])
        return self._listing()

    async def flip(self, request: Request) -> Response:
        """POST /admin/current {"name"}."""
        name = Fields(await self._body(request)).text("name")
        if not name:
            raise RequestError("`name` is required")
        self._table.flip(name)
        return self._listing()

    def _listing(self) -> Response:
        return JSONResponse({"policy_version": self._table.current, "policies": self._table.listing()})


async def _numbered(
    events: AsyncGenerator[TokenEvent | FinishedEvent, None],
) -> AsyncGenerator[tuple[int, TokenEvent, FinishedEvent | None], None]:
    """Yield (number from 1, token, end), the end beside the last token: that is one event in the protocols."""
    pending: TokenEvent | None = None
    index = 0
    async with aclosing(events):
        async for event in events:
            if pending is not None:
                index += 1
                yield index, pending, event if isinstance(event, FinishedEvent) else None
            pending = None if isinstance(event, FinishedEvent) else event


async def _one_frame(body: Mapping[str, Any]) -> AsyncGenerator[str, None]:
    yield sse(body)


def _render(policy: Policy, call: ChatCall) -> list[int]:
    try:
        text = policy.tokenizer.apply_chat_template(call.messages, tokenize=False, add_generation_prompt=True)
    except Exception as error:
        # A template is a program of the model's maker and refuses a conversation (its roles, say) as it likes.
        log.exception("policy %s: the chat template failed", policy.name)
        raise RequestError(f"Template error: {error}", error_type="template_error") from error
    ids: list[int] = policy.tokenizer(text, add_special_tokens=False)["input_ids"]
    return ids


def _reseeded(request: GenerationRequest) -> GenerationRequest:
    sampling: SamplingParameters = replace(request.sampling, seed=new_seed())
    return replace(request, sampling=sampling)


def _policy_header(policy: Policy) -> dict[str, str]:
    return {"x-policy-version": policy.name}


def _timing_headers(call: GenerateCall, answer: Answer, started: float, validated: float) -> dict[str, str]:
    """Return TGI's headers; times in milliseconds, x-compute-time in seconds."""
    total_s, generated = time.monotonic() - started, len(answer.tokens)
    end = answer.end
    return {
        "x-compute-type": "cpu",
        "x-compute-time": f"{total_s:.3f}",
        "x-compute-characters": str(len(call.inputs)),
        "x-total-time": f"{total_s * 1e3:.0f}",
        "x-validation-time": f"{(validated - started) * 1e3:.0f}",
        "x-queue-time": f"{end.queue_s * 1e3:.0f}",
        "x-inference-time": f"{end.inference_s * 1e3:.0f}",
        "x-time-per-token": f"{end.inference_s / generated * 1e3:.0f}",
        "x-prompt-tokens": str(len(answer.request.prompt)),
        "x-generated-tokens": str(generated),
    }


def _is_loopback(request: Request) -> bool:
    return request.client is not None and ipaddress.ip_address(request.client.host).is_loopback


def _names_loopback(request: Request) -> bool:
    """Say whether the request was addressed to this machine: a page's own name may be made to lead here (rebinding)."""
    host = request.url.hostname or ""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
