"""Annotators in a closed loop, one client for every site that is measured: next task, verdict, next task.

Raw keep-alive connections on one event loop, so that what the client costs is little and the same for all.
"""

import asyncio
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

HOST = "127.0.0.1"
WARM_UP_S = 3.0
PAUSE_AFTER_ERROR_S = 0.05

Asked = tuple[str, str, dict[str, Any] | None]


class Site(Protocol):
    """How a site is asked for a task, and told a verdict: method, path, body."""

    @property
    def port(self) -> int: ...

    def next_task(self) -> Asked: ...

    def submit(self, task: dict[str, Any]) -> Asked: ...


@dataclass(frozen=True)
class OurSite:
    """This project, by its API."""

    port: int
    slug: str

    def next_task(self) -> Asked:
        return "POST", f"/api/v1/projects/{self.slug}/tasks/next/", {}

    def submit(self, task: dict[str, Any]) -> Asked:
        first, second = (response["id"] for response in task["responses"])
        body = {"ranking": [[first], [second]], "strength": 2, "lead_time": 3.2}
        return "POST", f"/api/v1/tasks/{task['id']}/judgments/", body


@dataclass
class Times:
    """What was measured: milliseconds by request, failures, tasks that came to one annotator twice, empty answers."""

    next_ms: list[float] = field(default_factory=list)
    submit_ms: list[float] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    given_twice: int = 0
    nothing_to_do: int = 0
    seconds: float = 0.0

    def report(self) -> dict[str, Any]:
        """Return the figures; milliseconds to one digit."""
        return {
            "submits_per_s": round(len(self.submit_ms) / self.seconds, 1),
            **{
                f"{name}_{label}_ms": percentile(values, share)
                for name, values in (("next", self.next_ms), ("submit", self.submit_ms))
                for label, share in (("p50", 0.5), ("p95", 0.95), ("p99", 0.99))
            },
            "errors": len(self.errors),
            "first_error": self.errors[0] if self.errors else None,
            "given_twice": self.given_twice,
            "nothing_to_do": self.nothing_to_do,
        }


def percentile(values: Sequence[float], share: float) -> float | None:
    """Return the smallest value that so large a share of them does not pass; None of nothing."""
    if not values:
        return None
    return round(sorted(values)[min(len(values) - 1, int(share * len(values)))], 1)


def judge_for(site: Site, tokens: Sequence[str], seconds: float) -> Times:
    """Let one annotator a token judge for so long, after some seconds of warming up, and return what it took."""
    asyncio.run(_judge(site, tokens, WARM_UP_S))
    return asyncio.run(_judge(site, tokens, seconds))


async def _judge(site: Site, tokens: Sequence[str], seconds: float) -> Times:
    times, began = Times(), time.perf_counter()
    await asyncio.gather(*(_annotate(site, token, began + seconds, times) for token in tokens))
    times.seconds = time.perf_counter() - began
    return times


async def _annotate(site: Site, token: str, until: float, times: Times) -> None:
    connection, seen = _Connection(site.port, token), set()
    while (began := time.perf_counter()) < until:
        try:
            task = await connection.ask(*site.next_task())
            given = time.perf_counter()
            if task is None:
                times.nothing_to_do += 1
                break
            times.next_ms.append(1000 * (given - began))
            times.given_twice += task["id"] in seen
            seen.add(task["id"])
            await connection.ask(*site.submit(task))
            times.submit_ms.append(1000 * (time.perf_counter() - given))
        except (OSError, EOFError, Refused) as error:
            times.errors.append(repr(error)[:240])
            connection.close()
            await asyncio.sleep(PAUSE_AFTER_ERROR_S)
    connection.close()


class Refused(Exception):
    """The site answered with a status from 400 on."""


class _Connection:
    """One keep-alive connection of one annotator."""

    def __init__(self, port: int, token: str) -> None:
        self.port = port
        self.head = f"Host: {HOST}:{port}\r\nAuthorization: Token {token}\r\nAccept: application/json\r\n"
        self.reader: asyncio.StreamReader | None = None
        self.writer: asyncio.StreamWriter | None = None

    async def ask(self, method: str, path: str, body: dict[str, Any] | None) -> dict[str, Any] | None:
        """Send a request and return its JSON, None where the answer is empty."""
        if self.reader is None or self.writer is None:
            self.reader, self.writer = await asyncio.open_connection(HOST, self.port)
        data = b"" if body is None else json.dumps(body).encode()
        head = f"{self.head}Content-Type: application/json\r\nContent-Length: {len(data)}\r\n\r\n"
        self.writer.write(f"{method} {path} HTTP/1.1\r\n{head}".encode() + data)
        answered = (await self.reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
        content = await _content(self.reader, answered)
        if "connection: close" in answered:
            self.close()
        if (status := int(answered.split(" ", 2)[1])) >= 400:
            raise Refused(f"{method} {path}: {status} {content[:200]!r}")
        return json.loads(content) if content else None

    def close(self) -> None:
        if self.writer is not None:
            self.writer.close()
        self.reader = self.writer = None


async def _content(reader: asyncio.StreamReader, head: str) -> bytes:
    if "transfer-encoding: chunked" in head:
        content = b""
        while size := int(await reader.readuntil(b"\r\n"), 16):
            content += await reader.readexactly(size)
            await reader.readexactly(2)
        await reader.readexactly(2)
        return content
    lengths = [int(line.split(":")[1]) for line in head.split("\r\n") if line.startswith("content-length:")]
    return await reader.readexactly(lengths[0]) if lengths else b""
