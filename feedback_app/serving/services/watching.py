"""A version that has just gone live is asked the same as the one before it, and taken back where it does worse.

Both are asked at the same time, so that a busy machine or an endpoint that is away speaks against neither.
"""

import logging
import time
from datetime import timedelta
from typing import Any

from django.db.models.functions import Now

from feedback_app.intervals import wilson_interval
from feedback_app.leases import database_now
from feedback_app.serving.backends import Backend, BackendError, backend_of
from feedback_app.serving.backends.base import Seen, read_canary
from feedback_app.serving.models import Deployment, Observation, PolicyVersion, Soak
from feedback_app.serving.services.canaries import canary_difference
from feedback_app.serving.services.observing import figures_of, record_requests
from feedback_app.serving.services.pushing import PushRefused, take_back
from feedback_app.serving.services.soaks import Takeback
from feedback_app.serving.soak_rules import SoakRules
from feedback_app.serving.status import ask_endpoint
from training.records import CanaryPrompt, DataError

logger = logging.getLogger(__name__)
# Prompts of the canary that each version is asked at a tick, in turn.
PROBES = 2
PROBE_TIMEOUT_S = 30.0
# A look whose process has died is taken up again after this.
LOOK_LEASE = timedelta(minutes=5)
# After a rollback that could not be done, which leaves its row: the endpoint may come back.
RETRY_AFTER = timedelta(minutes=1)
# An endpoint that has not answered at all for so many ticks since the push is taken to have fallen by the version.
AWAY_TICKS = 8
# Fewer than these say nothing: the 95th percentile of fewer probes is the slowest of them.
FEWEST_REQUESTS = 3
FEWEST_PROBES = 20
# Slower by less than this is no matter, whatever the ratio.
LATENCY_FLOOR_S = 0.25
PLAIN_PROMPT: CanaryPrompt = {"inputs": "Hello", "tokens": [], "logprobs": []}
PLAIN_TOKENS = 16


def watch_soaks() -> list[Soak]:
    """Look at every version that is being watched and due; return the soaks that ended by this."""
    ended = []
    due = Soak.objects.filter(state=Soak.State.WATCHING, next_at__lte=Now())
    for pk in list(due.values_list("pk", flat=True)):
        if due.filter(pk=pk).update(next_at=Now() + LOOK_LEASE):
            soak = Soak.objects.select_related("policy", "previous", "project").get(pk=pk)
            if _look(soak):
                ended.append(soak)
    return ended


def _look(soak: Soak) -> bool:
    """Probe, compare and decide; return whether the soak has ended."""
    deployment = Deployment.objects.select_related("endpoint", "live").get(project=soak.project)
    try:
        seen = _probe_both(soak, deployment)
    except DataError as error:  # the version's own files are not what they were
        seen = [Seen(soak.policy, 0.0, error=str(error))]
    record_requests(endpoint=deployment.endpoint, seen=seen, source=Observation.Source.PROBE)
    figures = {
        "live": figures_of(policy=soak.policy, since=soak.started_at),
        "previous": _previous_figures(soak),
    }
    cause = broken_bound(figures, SoakRules(**soak.rules))
    if cause is not None:
        return _take_back(soak, cause, figures)
    over = soak.until <= database_now()
    _update(
        soak, figures=figures, away=soak.away, next_at=Now(), trouble="",
        **({"state": Soak.State.PASSED, "ended_at": Now()} if over else {}),
    )  # fmt: skip
    return over


def _update(soak: Soak, **changes: Any) -> None:
    """Write to a soak that is still watched; what another push has ended stays as it is."""
    Soak.objects.filter(pk=soak.pk, state=Soak.State.WATCHING).update(**changes)


def _take_back(soak: Soak, cause: Soak.Cause, figures: dict[str, Any]) -> bool:
    logger.warning("soak policy=%s: %s pass their bound: %s", soak.policy.name, cause, figures)
    try:
        take_back(takeback=Takeback(soak, cause, figures))
    except PushRefused as refused:
        _update(soak, figures=figures, away=soak.away, next_at=Now() + RETRY_AFTER, trouble=str(refused))
        return False
    return True


def broken_bound(figures: dict[str, dict[str, Any]], rules: SoakRules) -> Soak.Cause | None:
    """Return which bound the figures of the live version pass, beside those of the version before; None: none does.

    A share passes its bound with the lower end of its interval: one failure among few is no share yet.
    """
    live, previous = figures["live"], figures["previous"]
    for cause, most in ((Soak.Cause.ERRORS, rules.max_errors), (Soak.Cause.EMPTY, rules.max_empty)):
        n = live["requests"]
        interval = wilson_interval(live[cause] / n, n) if n >= FEWEST_REQUESTS else None
        usual = previous[cause] / previous["requests"] if previous["requests"] else 0.0
        if most and interval is not None and interval[0] > usual + most:
            return cause
    mine, theirs = live["p95"], previous["p95"]
    enough = min(live["probes"], previous["probes"]) >= FEWEST_PROBES
    if rules.max_latency_ratio and enough and mine > max(rules.max_latency_ratio * theirs, theirs + LATENCY_FLOOR_S):
        return Soak.Cause.LATENCY
    return None


def _previous_figures(soak: Soak) -> dict[str, Any]:
    """Return what the version before did: of requests before the push, and of the probes since."""
    earlier = figures_of(policy=soak.previous, before=soak.started_at)
    since = figures_of(policy=soak.previous, since=soak.started_at)
    counts = {name: earlier[name] + since[name] for name in ("requests", "errors", "empty")}
    timed = since if since["probes"] else earlier
    return {**counts, "probes": timed["probes"], "p95": timed["p95"]}


def _probe_both(soak: Soak, deployment: Deployment) -> list[Seen]:
    """Ask both versions the next prompts of the live one's canary; the one before first, for the other may break it."""
    backend = backend_of(deployment.endpoint)
    backend.timeout_s = PROBE_TIMEOUT_S
    prompts, tokens, tolerance = _prompts(soak, deployment)
    beside = _is_there(backend, soak.previous)
    seen: list[Seen] = []
    for prompt in prompts:
        before = _probe(backend, soak.previous, prompt, tokens, None) if beside else None
        mine = _probe(backend, soak.policy, prompt, tokens, tolerance)
        if mine.error and (before.error if before else _is_away(soak, deployment)):
            continue  # the endpoint's fault, or nobody's that is known yet
        if not mine.error:
            soak.away = 0
        seen += [one for one in (before, mine) if one is not None]
    return seen


def _prompts(soak: Soak, deployment: Deployment) -> tuple[list[CanaryPrompt], int, float | None]:
    """Return (this tick's prompts, tokens an answer, tolerance); no tolerance where no trainer left a reference."""
    canary = read_canary(soak.policy)
    if canary is None:
        return [PLAIN_PROMPT] * PROBES, PLAIN_TOKENS, None
    asked = Observation.objects.filter(
        policy=soak.policy, source=Observation.Source.PROBE, at__gte=soak.started_at
    ).count()  # fmt: skip
    first = asked * PROBES
    prompts = canary["prompts"]
    turn = [prompts[(first + place) % len(prompts)] for place in range(PROBES)]
    return turn, canary["max_new_tokens"], deployment.endpoint.canary_tolerance


def _is_there(backend: Backend, policy: PolicyVersion) -> bool:
    """Say whether the endpoint still holds a version; asked before it is asked for an answer."""
    try:
        backend.identify(policy)
    except BackendError:
        return False
    return True


def _is_away(soak: Soak, deployment: Deployment) -> bool:
    """Say whether the endpoint as a whole does not answer, and not for so long that the version must be the cause."""
    if ask_endpoint(deployment).well:
        return False
    soak.away += 1
    return soak.away <= AWAY_TICKS * PROBES


def _probe(backend: Backend, policy: PolicyVersion, prompt: CanaryPrompt, tokens: int, tolerance: float | None) -> Seen:
    """Ask a version greedily; with a tolerance, an answer that is not its trainer's is an error."""
    began = time.monotonic()
    try:
        answer = backend.greedy(policy, prompt, tokens)
        seconds = time.monotonic() - began
        if tolerance is not None and answer["tokens"]:
            canary_difference(answer, prompt, tolerance)
    except BackendError as error:
        return Seen(policy, time.monotonic() - began, error=str(error))
    return Seen(policy, seconds, tokens=len(answer["tokens"]), empty=not answer["tokens"])
