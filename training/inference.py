"""The embedded inference engine: many requests in one batch, each answered as if it were alone.

Why not transformers' continuous batching: its manager packs whatever is there into one forward of varying shape (a
row's bf16 numbers change with it, see training.slots), and draws every request from one global multinomial.
"""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from training.policies import Policy
from training.sampling import SamplingParameters, draw_token
from training.slots import PREFILL_ROWS, Chunk, DecodeStep, PrefillStep, run_step
from training.text_stream import TextStream

# Packed prefills between two decode steps: new prompts get in soon, running answers never wait longer than this.
PREFILLS_PER_DECODE = 4

Logits = NDArray[np.float32]
FinishReason = Literal["length", "eos_token", "stop_sequence"]
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class GenerationRequest:
    """What to answer, and how; prompt is token ids, not empty."""

    prompt: tuple[int, ...]
    max_new_tokens: int
    sampling: SamplingParameters = field(default_factory=SamplingParameters)
    stop: tuple[str, ...] = ()
    top_tokens: int = 0
    prefill_logprobs: bool = False


@dataclass(frozen=True)
class TokenLogprob:
    """A token and its log-probability under the policy itself: temperature 1, nothing filtered or penalised."""

    id: int
    text: str
    logprob: float | None
    special: bool


@dataclass(frozen=True)
class TokenEvent:
    """One generated token, and the likeliest ones at its place."""

    token: TokenLogprob
    top: tuple[TokenLogprob, ...]


@dataclass(frozen=True)
class FinishedEvent:
    """The end of an answer; text holds no special tokens and ends with the stop sequence that ended it, if one did."""

    reason: FinishReason
    text: str
    stop: str | None
    prefill: tuple[TokenLogprob, ...]
    queue_s: float
    inference_s: float


@dataclass(frozen=True)
class FailedEvent:
    """The engine could not go on with this answer."""

    error: str


Event = TokenEvent | FinishedEvent | FailedEvent


@dataclass(eq=False)
class Generation:
    """One request inside the engine; events reach the sink from the engine's thread, the last is no TokenEvent."""

    policy: Policy
    request: GenerationRequest
    sink: Callable[[Event], None]
    submitted: float = field(default_factory=time.monotonic)
    started: float = 0.0
    slot: int = -1
    prefilled: int = 0
    generated: list[int] = field(default_factory=list)
    prefill: list[TokenLogprob] = field(default_factory=list)
    cancelled: bool = False

    def __post_init__(self) -> None:
        self.stream = TextStream(self.policy.tokenizer, self.policy.special, self.request.prompt)

    def cancel(self) -> None:
        """Leave the batch before its next step; no further event is sent."""
        self.cancelled = True


class Engine:
    """One thread that steps every policy's batch in turn."""

    def __init__(self, *, threads: int) -> None:
        self._threads = threads
        self._changed = threading.Condition()
        self._lanes: dict[str, _Lane] = {}
        self._closing = False
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        """Fail what still runs and end the thread."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        self._thread.join()

    def submit(self, policy: Policy, request: GenerationRequest, sink: Callable[[Event], None]) -> Generation:
        """Queue a request; the prompt and max_new_tokens together fit policy.length (the caller has checked)."""
        if not request.prompt or len(request.prompt) + request.max_new_tokens > policy.length:
            raise ValueError("an empty prompt, or one too long for the policy")
        generation = Generation(policy, request, sink)
        with self._changed:
            if self._closing:
                raise RuntimeError("the engine is closed")
            self._lanes.setdefault(policy.name, _Lane(policy)).waiting.append(generation)
            self._changed.notify()
        return generation

    def remove(self, policy: Policy) -> None:
        """Let go of a policy that has no requests any more."""
        with self._changed:
            self._lanes.pop(policy.name, None)

    @property
    def waiting(self) -> int:
        """Requests that have no slot yet."""
        with self._changed:
            return sum(len(lane.waiting) for lane in self._lanes.values())

    @property
    def running(self) -> int:
        """Requests in a slot."""
        with self._changed:
            return sum(len(lane.running) for lane in self._lanes.values())

    @property
    def failing(self) -> bool:
        """Whether some policy's latest step failed."""
        with self._changed:
            return any(lane.failing for lane in self._lanes.values())

    def _run(self) -> None:
        torch.set_num_threads(self._threads)
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._closing or any(lane.busy for lane in self._lanes.values()))
                lanes = list(self._lanes.values())
                if self._closing:
                    break
                for lane in lanes:
                    lane.admit()
            for lane in lanes:
                lane.advance()
        for lane in lanes:
            lane.fail("the server is stopping")


class _Lane:
    """One policy's batch. waiting is shared with other threads (under the engine's lock), all else is the engine's."""

    def __init__(self, policy: Policy) -> None:
        self.policy = policy
        self.waiting: deque[Generation] = deque()
        self.running: dict[int, Generation] = {}
        self.failing = False

    @property
    def busy(self) -> bool:
        return bool(self.waiting or self.running)

    def admit(self) -> None:
        """Give free slots, lowest first, to those who wait, and take them from those who left."""
        for generation in [g for g in self.running.values() if g.cancelled]:
            del self.running[generation.slot]
        free = [slot for slot in range(self.policy.slots) if slot not in self.running]
        while self.waiting and (free or self.waiting[0].cancelled):
            generation = self.waiting.popleft()
            if not generation.cancelled:
                generation.slot, generation.started = free.pop(0), time.monotonic()
                self.running[generation.slot] = generation

    def advance(self) -> None:
        """Take some prefill steps and one decode step."""
        try:
            for _ in range(PREFILLS_PER_DECODE):
                if not self._prefill():
                    break
            self._decode()
            self.failing = False
        except Exception as error:
            log.exception("policy %s: a step failed", self.policy.name)
            self.failing = True
            self.fail(f"{type(error).__name__}: {error}")

    def fail(self, error: str) -> None:
        """End every request of the batch with an error."""
        for generation in self.running.values():
            generation.sink(FailedEvent(error))
        self.running.clear()
        # Others append to waiting at any time, only this thread takes from it.
        while self.waiting:
            self.waiting.popleft().sink(FailedEvent(error))

    def _prefill(self) -> bool:
        """Run one pack of prompts' chunks; chunk borders are multiples of PREFILL_ROWS, whatever else is packed."""
        chunks: list[Chunk] = []
        row = 0
        for generation in sorted(self.running.values(), key=lambda g: g.started):
            left = len(generation.request.prompt) - generation.prefilled
            count = min(PREFILL_ROWS, left)
            if count and row + count <= PREFILL_ROWS:
                chunks.append(Chunk(generation.slot, generation.prefilled, count, row))
                row += count
        if not chunks:
            return False
        tokens_R, positions_R = (torch.zeros(PREFILL_ROWS, dtype=torch.long) for _ in range(2))
        for chunk in chunks:
            rows, end = slice(chunk.row, chunk.row + chunk.count), chunk.start + chunk.count
            tokens_R[rows] = torch.tensor(self.running[chunk.slot].request.prompt[chunk.start : end])
            positions_R[rows] = torch.arange(chunk.start, end)
        # As many rows of logits as in a decode step, in any case: one shape for the last layer too.
        keep = torch.zeros(self.policy.slots, dtype=torch.long)
        for index, chunk in enumerate(chunks):
            keep[index] = chunk.row + chunk.count - 1
        logits_BV = self._step(PrefillStep(self.policy.cache, chunks, self.policy.device), tokens_R, positions_R, keep)
        self._record_prefill(chunks, tokens_R, positions_R)
        ready: dict[int, Logits] = {}
        for index, chunk in enumerate(chunks):
            generation = self.running[chunk.slot]
            generation.prefilled += chunk.count
            if generation.prefilled == len(generation.request.prompt):
                ready[chunk.slot] = logits_BV[index]
        self._take_tokens(ready)
        return True

    def _record_prefill(self, chunks: list[Chunk], tokens_R: Tensor, positions_R: Tensor) -> None:
        """Note prompts' own log-probabilities where asked, by a second pass: the first keeps its shape."""
        for chunk in chunks:
            generation = self.running[chunk.slot]
            if not generation.request.prefill_logprobs:
                continue
            step = PrefillStep(self.policy.cache, chunks, self.policy.device)
            keep = torch.arange(chunk.row, chunk.row + chunk.count)
            logits = self._step(step, tokens_R, positions_R, keep)
            prompt = generation.request.prompt
            if chunk.start == 0:
                generation.prefill.append(self._token(prompt[0], None))
            for offset in range(chunk.count):
                following = chunk.start + offset + 1
                if following < len(prompt):
                    token, logits_V = prompt[following], logits[offset]
                    logprob = float(logits_V[token]) - log_sum_exp(logits_V)
                    generation.prefill.append(self._token(token, min(0.0, logprob)))

    def _decode(self) -> None:
        ready = [g for g in self.running.values() if g.generated and not g.cancelled]
        if not ready:
            return
        tokens_R, positions_R = (torch.zeros(self.policy.slots, dtype=torch.long) for _ in range(2))
        positions: dict[int, int] = {}
        for generation in ready:
            positions[generation.slot] = len(generation.request.prompt) + len(generation.generated) - 1
            tokens_R[generation.slot] = generation.generated[-1]
            positions_R[generation.slot] = positions[generation.slot]
        step = DecodeStep(self.policy.cache, positions, self.policy.device)
        logits_BV = self._step(step, tokens_R, positions_R, torch.arange(self.policy.slots))
        self._take_tokens({generation.slot: logits_BV[generation.slot] for generation in ready})

    def _step(self, step: DecodeStep | PrefillStep, tokens_R: Tensor, positions_R: Tensor, keep: Tensor) -> Logits:
        device = self.policy.device
        logits: Logits = run_step(
            self.policy.model, step, tokens_R.to(device), positions_R.to(device), keep.to(device)
        ).numpy()
        return logits

    def _take_tokens(self, logits: dict[int, Logits]) -> None:
        for slot, logits_V in logits.items():
            generation = self.running[slot]
            total = log_sum_exp(logits_V)
            if not np.isfinite(total):
                generation.sink(FailedEvent("the model's logits are not finite"))
                self.policy.cache.clear(slot)
                del self.running[slot]
                continue
            request = generation.request
            token = draw_token(logits_V, request.sampling, prompt=request.prompt, generated=generation.generated)
            generation.generated.append(token)
            self._emit(generation, token, logits_V, total)

    def _emit(self, generation: Generation, token: int, logits_V: Logits, total: float) -> None:
        request = generation.request
        ended = token in self.policy.ends
        full = len(generation.generated) == request.max_new_tokens
        seen = len(generation.stream.text)
        shown = generation.stream.push(token, last=full or ended)
        best: tuple[TokenLogprob, ...] = ()
        if request.top_tokens:
            top = torch.from_numpy(logits_V).topk(request.top_tokens)
            pairs = zip(top.indices.tolist(), top.values.tolist(), strict=True)
            best = tuple(self._token(other, logit - total) for other, logit in pairs)
        logprob = min(0.0, float(logits_V[token]) - total)
        generation.sink(TokenEvent(TokenLogprob(token, shown, logprob, token in self.policy.special), best))
        text, stop = _cut(generation.stream.text, request.stop, seen)
        if ended:
            self._finish(generation, "eos_token", generation.stream.text, None)
        elif stop is not None:
            self._finish(generation, "stop_sequence", text, stop)
        elif full:
            self._finish(generation, "length", text, None)

    def _finish(self, generation: Generation, reason: FinishReason, text: str, stop: str | None) -> None:
        del self.running[generation.slot]
        now = time.monotonic()
        queue_s, inference_s = generation.started - generation.submitted, now - generation.started
        generation.sink(FinishedEvent(reason, text, stop, tuple(generation.prefill), queue_s, inference_s))

    def _token(self, token: int, logprob: float | None) -> TokenLogprob:
        return TokenLogprob(token, self.policy.token_text(token), logprob, token in self.policy.special)


def log_sum_exp(logits_V: Logits) -> float:
    """Return log(sum(exp(logits))) of one row; not finite where some logit is NaN or infinite, or all are -inf."""
    best = float(logits_V.max())
    if not np.isfinite(best):
        return best
    return best + float(np.log(np.exp(logits_V - np.float32(best)).sum(dtype=np.float64)))


def _cut(text: str, stops: tuple[str, ...], seen: int) -> tuple[str, str | None]:
    """Return the text up to the end of the first stop sequence in it, and that sequence.

    seen is the length that was searched before; a sequence may begin in it and end behind it.
    """
    found = [(text.find(stop, max(0, seen - len(stop) + 1)), stop) for stop in stops]
    hits = sorted((at + len(stop), stop) for at, stop in found if at >= 0)
    return (text[: hits[0][0]], hits[0][1]) if hits else (text, None)
