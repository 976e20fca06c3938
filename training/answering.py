"""From the engine's thread to the event loop: answers counted, bounded in number, and given up when nobody reads."""

import asyncio
import json
import logging
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import ExitStack, aclosing, suppress
from typing import Any, TypeVar

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from training.inference import Engine, Event, FailedEvent, FinishedEvent, GenerationRequest, TokenEvent
from training.policies import Policy
from training.policy_table import PolicyTable
from training.serving_metrics import ServingMetrics
from training.serving_protocol import Answer, RequestError

KEEP_ALIVE_S = 15.0
T = TypeVar("T")
log = logging.getLogger(__name__)


class ClientGone(Exception):
    """The client closed its connection before its answer was ready."""


class Answering:
    """Runs requests on the engine for the event loop."""

    def __init__(self, engine: Engine, table: PolicyTable, metrics: ServingMetrics, *, most: int) -> None:
        self._engine = engine
        self._table = table
        self._metrics = metrics
        self._most = most
        self._running = 0

    def admit(self, policy: Policy) -> ExitStack:
        """Take a place for one call and hold its policy until the returned stack is closed.

        Raises:
            RequestError: 429 when every place is taken.
        """
        self._metrics.requests += 1
        if self._running >= self._most:
            raise RequestError("Model is overloaded", status=429, error_type="overloaded")
        stack = ExitStack()
        stack.enter_context(self._table.hold(policy))
        self._running += 1
        stack.callback(self._release)
        return stack

    def _release(self) -> None:
        self._running -= 1

    async def events(
        self, policy: Policy, request: GenerationRequest
    ) -> AsyncGenerator[TokenEvent | FinishedEvent, None]:
        """Yield an answer's events; closing the iterator early cancels the request.

        Raises:
            RequestError: 424 when the engine fails.
        """
        queue: asyncio.Queue[Event] = asyncio.Queue()
        loop = asyncio.get_running_loop()
        started = time.monotonic()
        generation = self._engine.submit(policy, request, lambda e: _hand_over(loop, queue.put_nowait, e))
        count = 0
        try:
            while True:
                event = await queue.get()
                if not isinstance(event, TokenEvent):
                    yield self._end(policy, request, event, count, time.monotonic() - started)
                    return
                count += 1
                yield event
        finally:
            generation.cancel()

    async def collect(self, policy: Policy, request: GenerationRequest) -> Answer:
        """Return one whole answer; being cancelled cancels the request.

        Raises:
            RequestError: 424 when the engine fails.
        """
        tokens: list[TokenEvent] = []
        loop = asyncio.get_running_loop()
        ended: asyncio.Future[FinishedEvent | FailedEvent] = loop.create_future()
        started = time.monotonic()

        def settle(event: FinishedEvent | FailedEvent) -> None:
            if not ended.done():
                ended.set_result(event)

        def take(event: Event) -> None:
            # Tokens gather in the engine's thread: waking the loop for each would take its time from the next step.
            if isinstance(event, TokenEvent):
                tokens.append(event)
            else:
                _hand_over(loop, settle, event)

        generation = self._engine.submit(policy, request, take)
        try:
            end = self._end(policy, request, await ended, len(tokens), time.monotonic() - started)
        finally:
            generation.cancel()
        return Answer(request, tuple(tokens), end)

    def _end(
        self,
        policy: Policy,
        request: GenerationRequest,
        event: FinishedEvent | FailedEvent,
        count: int,
        total_s: float,
    ) -> FinishedEvent:
        """Count an answer that is finished; raise for one that failed."""
        if isinstance(event, FailedEvent):
            log.error("policy=%s failed: %s", policy.name, event.error)
            message = f"Request failed during generation: {event.error}"
            raise RequestError(message, status=424, error_type="generation")
        self._metrics.record_answer(
            policy.name,
            total_s=total_s,
            queue_s=event.queue_s,
            inference_s=event.inference_s,
            inputs=len(request.prompt),
            generated=count,
        )
        log.info(
            "answered policy=%s input=%d output=%d finish=%s queue=%.3fs inference=%.3fs",
            *(policy.name, len(request.prompt), count, event.reason, event.queue_s, event.inference_s),
        )
        return event


E = TypeVar("E", bound=Event)


def _hand_over(loop: asyncio.AbstractEventLoop, take: Callable[[E], None], event: E) -> None:
    # The loop is closed once the server has stopped: nobody is left to read the answer then.
    with suppress(RuntimeError):
        loop.call_soon_threadsafe(take, event)


async def unless_gone(request: Request, work: Awaitable[T]) -> T:
    """Await work, or cancel it as soon as the client hangs up.

    Raises:
        ClientGone: it did; there is nobody to answer.
    """
    task = asyncio.ensure_future(work)
    gone = asyncio.create_task(_disconnected(request.receive))
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ClientGone
        return task.result()
    finally:
        for left in (task, gone):
            left.cancel()
        await asyncio.gather(task, gone, return_exceptions=True)


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


class EventStream(Response):
    """Server-sent events, with keep-alive comments while nothing comes; ends its source when the client hangs up.

    held is closed with the stream and not by the source: one whose client hung up at once was never begun.
    """

    def __init__(self, frames: AsyncGenerator[str, None], headers: Mapping[str, str], held: ExitStack) -> None:
        super().__init__(headers={"cache-control": "no-cache", "x-accel-buffering": "no", **headers})
        self.headers["content-type"] = "text/event-stream"
        del self.headers["content-length"]
        self._frames = frames
        self._held = held

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with self._held:
            await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
            await self._run(receive, send)

    async def _run(self, receive: Receive, send: Send) -> None:
        gone = asyncio.create_task(_disconnected(receive))
        pump = asyncio.create_task(self._pump(send))
        try:
            await asyncio.wait({gone, pump}, return_when=asyncio.FIRST_COMPLETED)
            if pump.done():
                pump.result()
        finally:
            for task in (gone, pump):
                task.cancel()
            await asyncio.gather(gone, pump, return_exceptions=True)

    async def _pump(self, send: Send) -> None:
        async with aclosing(self._frames) as frames:
            following = asyncio.ensure_future(anext(frames, None))
            try:
                while True:
                    done, _ = await asyncio.wait({following}, timeout=KEEP_ALIVE_S)
                    if not done:
                        await _send(send, ":\n\n")
                        continue
                    frame = following.result()
                    if frame is None:
                        break
                    await _send(send, frame)
                    following = asyncio.ensure_future(anext(frames, None))
            finally:
                following.cancel()
                await asyncio.gather(following, return_exceptions=True)
        await send({"type": "http.response.body", "body": b"", "more_body": False})


async def _send(send: Send, text: str) -> None:
    await send({"type": "http.response.body", "body": text.encode(), "more_body": True})


def sse(body: Mapping[str, Any]) -> str:
    """Return one server-sent event, as TGI writes it."""
    return f"data:{json.dumps(body, ensure_ascii=False)}\n\n"
