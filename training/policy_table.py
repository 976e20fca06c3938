"""Which policies a server holds, which one answers by default, and how one is staged, flipped to and let go."""

import asyncio
import logging
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

from training.config import ConfigError
from training.inference import Engine
from training.policies import Policy, list_files, load_policy, share_policy
from training.serving_protocol import RequestError

# "tgi" is what TGI's chat clients send, "dummy" what huggingface_hub's do where the server is known by its address.
DEFAULT_NAMES = frozenset({None, "", "tgi", "dummy"})
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:-]{0,127}")
log = logging.getLogger(__name__)

State = Literal["loading", "ready", "draining"]


def _same(a: str, b: str) -> bool:
    return Path(a).resolve() == Path(b).resolve()


def _is_directory(path: str) -> bool:
    try:
        return Path(path).is_dir()
    except OSError:  # too long a name
        return False


@dataclass(eq=False)
class Entry:
    """One policy of the table; in_flight counts requests that have named it and are not answered."""

    name: str
    path: str
    state: State = "loading"
    policy: Policy | None = None
    in_flight: int = 0


class PolicyTable:
    """Belongs to the event loop's thread: between two awaits nothing changes, so a flip is atomic."""

    def __init__(self, engine: Engine, *, dtype: torch.dtype, slots: int, length: int, most: int) -> None:
        self._engine = engine
        self._dtype = dtype
        self._slots = slots
        self._length = length
        self._most = most
        self._entries: dict[str, Entry] = {}
        self._loads: dict[str, asyncio.Task[None]] = {}
        self._one_load = asyncio.Lock()
        self.current = ""

    def add_first(self, policy: Policy) -> None:
        """Take the policy that the server started with as the current one."""
        self._entries[policy.name] = Entry(policy.name, policy.path, "ready", policy)
        self.current = policy.name

    def listing(self) -> list[dict[str, str]]:
        return [{"name": e.name, "path": e.path, "state": e.state} for e in self._entries.values()]

    def get(self, name: str | None) -> Policy:
        """Return the policy a request names, by default the current one.

        Raises:
            RequestError: 404, for a name that is not loaded: nobody is answered by another policy than they asked for.
        """
        entry = self._entries.get(self.current if name is None or name in DEFAULT_NAMES else name)
        if entry is None or entry.policy is None or entry.state != "ready":
            ready = ", ".join(e.name for e in self._entries.values() if e.state == "ready")
            raise RequestError(f"Policy `{name}` is not loaded; loaded: {ready}", status=404)
        return entry.policy

    @contextmanager
    def hold(self, policy: Policy) -> Iterator[None]:
        """Keep a policy loaded while a request uses it; the last user of a draining one lets it go."""
        entry = self._entries[policy.name]
        entry.in_flight += 1
        try:
            yield
        finally:
            entry.in_flight -= 1
            if entry.state == "draining" and not entry.in_flight:
                self._drop(entry)

    async def stage(self, name: str, path: str) -> None:
        """Load a policy beside the others; asking again for the same is answered when it is ready.

        Raises:
            RequestError: 409 if the name has another path or is draining, 422 if it cannot be loaded, 507 if full.
        """
        if not _NAME.fullmatch(name) or name in DEFAULT_NAMES:
            raise RequestError("`name` must be letters, digits, '.', '_', ':' or '-', and not a reserved name")
        if not _is_directory(path):
            raise RequestError(f"`path` {path[:200]} is not a directory")
        entry = self._entries.get(name)
        if entry is not None and (not _same(entry.path, path) or entry.state == "draining"):
            raise RequestError(f"`{name}` is taken by {entry.path} ({entry.state})", status=409, error_type="conflict")
        if entry is None:
            if self._twin(path) is None and self._weights() >= self._most:
                raise RequestError(
                    f"the weights of {self._most} policies are loaded, as many as --max-policies allows:"
                    " delete one first",
                    status=507,
                    error_type="overloaded",
                )
            entry = self._entries[name] = Entry(name, path)
            self._loads[name] = asyncio.create_task(self._load(entry))
        if task := self._loads.get(name):
            # Shielded: a caller that gives up does not take the load from another who waits for it.
            await asyncio.shield(task)

    async def _load(self, entry: Entry) -> None:
        started = time.monotonic()
        try:
            async with self._one_load:
                if twin := self._twin(entry.path):
                    entry.policy = share_policy(twin, name=entry.name, path=entry.path)
                else:
                    entry.policy = await asyncio.to_thread(
                        load_policy,
                        name=entry.name,
                        path=entry.path,
                        dtype=self._dtype,
                        slots=self._slots,
                        length=self._length,
                    )
            entry.state = "ready"
            log.info("policy %s staged from %s in %.1f s", entry.name, entry.path, time.monotonic() - started)
        except ConfigError as error:
            log.warning("policy %s refused: %s", entry.name, error)
            raise RequestError(str(error)) from error
        finally:
            del self._loads[entry.name]
            if entry.policy is None:
                del self._entries[entry.name]

    def _twin(self, path: str) -> Policy | None:
        """Return a loaded policy of the very same files: every project's version 0 is the one base model."""
        files = list_files(path)
        return next((e.policy for e in self._entries.values() if e.policy and e.policy.files == files), None)

    def _weights(self) -> int:
        """Return how many models are loaded or about to be; policies that share one count once."""
        entries = self._entries.values()
        return len({id(e.policy.model) for e in entries if e.policy}) + sum(e.policy is None for e in entries)

    def flip(self, name: str) -> None:
        """Make a loaded policy the current one; requests under way finish on theirs.

        Raises:
            RequestError: 404 if it is not loaded.
        """
        entry = self._entries.get(name)
        if entry is None or entry.state != "ready":
            raise RequestError(f"Policy `{name}` is not loaded", status=404)
        log.info("current policy %s -> %s", self.current, name)
        self.current = name

    def remove(self, name: str) -> None:
        """Let a policy go: at once if nobody uses it, else new requests are refused and its last one frees it.

        Raises:
            RequestError: 404 if there is none, 409 if it is current, loading, or still in use.
        """
        entry = self._entries.get(name)
        if entry is None:
            raise RequestError(f"Policy `{name}` is not loaded", status=404)
        if name == self.current or entry.state == "loading":
            what = "current" if name == self.current else "loading"
            raise RequestError(f"Policy `{name}` is {what}", status=409, error_type="conflict")
        entry.state = "draining"
        if entry.in_flight:
            raise RequestError(
                f"Policy `{name}` is in use by {entry.in_flight} requests; it takes no new ones and goes with the last",
                status=409,
                error_type="conflict",
            )
        self._drop(entry)

    def _drop(self, entry: Entry) -> None:
        assert entry.policy is not None
        self._engine.remove(entry.policy)
        del self._entries[entry.name]
        log.info("policy %s removed", entry.name)
