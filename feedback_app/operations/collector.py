"""The state of the site as figures, read from the database when somebody asks: the same whichever process answers."""

from collections.abc import Iterable, Iterator

from django.conf import settings
from django.db.models import Count, F, Max
from django.db.models.functions import Now
from django.utils import timezone
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from feedback_app.annotation.models import Assignment, ExpiryTotal, SampleJob, Task
from feedback_app.broker import queue_lengths
from feedback_app.notifications.models import Delivery
from feedback_app.operations.models import Worker
from feedback_app.rounds.models import Round
from feedback_app.serving.models import Deployment, Endpoint, Push, Soak

Family = GaugeMetricFamily | CounterMetricFamily
QUEUES = (settings.CELERY_TASK_DEFAULT_QUEUE, *{r["queue"] for r in settings.CELERY_TASK_ROUTES.values()})


class DatabaseCollector(Collector):
    """Yield every family anew at each scrape."""

    def collect(self) -> Iterator[Family]:
        yield from _queue()
        yield from _rounds()
        yield from _serving()
        yield from _endpoints()
        yield from _workers()


def _gauge(name: str, help_text: str, labels: list[str], rows: Iterable[tuple[list[str], float]]) -> GaugeMetricFamily:
    family = GaugeMetricFamily(name, help_text, labels=labels)
    for values, number in rows:
        family.add_metric(values, number)
    return family


def _counter(
    name: str, help_text: str, labels: list[str], rows: Iterable[tuple[list[str], float]]
) -> CounterMetricFamily:
    family = CounterMetricFamily(name, help_text, labels=labels)
    for values, number in rows:
        family.add_metric(values, number)
    return family


def _queue() -> Iterator[Family]:
    open_tasks = Task.objects.filter(open=True).values_list("project__slug").annotate(Count("pk")).order_by()
    yield _gauge("rlhf_open_tasks", "Tasks that the queue gives", ["project"], (([slug], n) for slug, n in open_tasks))
    live = Assignment.objects.filter(state=Assignment.State.RESERVED, expires_at__gt=Now())
    counted = live.values_list("task__project__slug").annotate(Count("pk")).order_by()
    yield _gauge("rlhf_live_reservations", "Tasks that somebody holds", ["project"], (([s], n) for s, n in counted))
    expired = ExpiryTotal.objects.values_list("project__slug", "total")
    yield _counter(
        "rlhf_reservations_expired", "Reservations that ran out", ["project"], (([slug], n) for slug, n in expired)
    )
    waiting = SampleJob.objects.filter(state__in=[SampleJob.State.QUEUED, SampleJob.State.RUNNING]).count()
    yield _gauge("rlhf_sample_jobs", "Samplings that wait or run", [], [([], waiting)])
    undelivered = Delivery.objects.filter(state=Delivery.State.WAITING).count()
    yield _gauge("rlhf_notifications_waiting", "Messages not brought yet", [], [([], undelivered)])


def _rounds() -> Iterator[Family]:
    counted = dict(Round.objects.values_list("state").annotate(Count("pk")).order_by())
    yield _gauge("rlhf_rounds", "Rounds, by state", ["state"], (([s], counted.get(s, 0)) for s in Round.State.values))
    held = Round.objects.filter(state=Round.State.RUNNING).annotate(left=F("lease_until") - Now())
    leases = [([r.project.slug, str(r.number)], -r.left.total_seconds()) for r in held.select_related("project")]
    yield _gauge(
        "rlhf_run_lease_age_seconds", "Seconds since a running round's lease ran out; below 0 while it is held",
        ["project", "round"], leases,
    )  # fmt: skip


def _serving() -> Iterator[Family]:
    deployed = Deployment.objects.select_related("project", "live")
    yield _gauge(
        "rlhf_active_policy_version", "Number of the version that is live", ["project"],
        (([d.project.slug], d.live.number) for d in deployed),
    )  # fmt: skip
    ended = Push.objects.exclude(state=Push.State.RUNNING).values_list("kind", "state").annotate(Count("pk")).order_by()
    counts = {(kind, state): n for kind, state, n in ended}
    yield _counter(
        "rlhf_push", "Pushes and rollbacks that ended", ["kind", "result"],
        (
            ([kind, state], counts.get((kind, state), 0))
            for kind in Push.Kind.values
            for state in (Push.State.LIVE, Push.State.FAILED)
        ),
    )  # fmt: skip
    measured = Push.objects.exclude(canary_delta=None).order_by("project_id", "-created_at").distinct("project_id")
    yield _gauge(
        "rlhf_canary_logprob_delta", "Largest difference from the trainer's log-probabilities at the newest push",
        ["project"], (([p.project.slug], p.canary_delta or 0.0) for p in measured.select_related("project")),
    )  # fmt: skip
    causes = dict(
        Soak.objects.filter(state=Soak.State.ROLLED_BACK).values_list("cause").annotate(Count("pk")).order_by()
    )
    yield _counter(
        "rlhf_rollbacks_by_itself", "Versions taken back while they were watched", ["cause"],
        (([cause], causes.get(cause, 0)) for cause in Soak.Cause.values),
    )  # fmt: skip


def _endpoints() -> Iterator[Family]:
    endpoints = list(Endpoint.objects.all())
    now = timezone.now()
    looked = [e for e in endpoints if e.looked_at is not None]
    yield _gauge(
        "rlhf_endpoint_up", "Whether an endpoint had the live versions when it was last asked", ["endpoint"],
        (([e.name], float(not e.trouble)) for e in looked),
    )  # fmt: skip
    yield _gauge(
        "rlhf_endpoint_looked_at_age_seconds", "Seconds since an endpoint was last asked", ["endpoint"],
        (([e.name], (now - e.looked_at).total_seconds()) for e in looked if e.looked_at),
    )  # fmt: skip
    for name, help_text, field in (
        ("rlhf_generation_requests", "Requests for answers", "requests_total"),
        ("rlhf_generation_errors", "Requests for answers that failed", "errors_total"),
        ("rlhf_generated_tokens", "Tokens of answers", "tokens_total"),
    ):
        yield _counter(name, help_text, ["endpoint"], (([e.name], getattr(e, field)) for e in endpoints))


def _workers() -> Iterator[Family]:
    seen = Worker.objects.annotate(age=Now() - F("seen_at")).values_list("name", "queues", "age", "busy")
    rows = list(seen)
    yield _gauge(
        "rlhf_worker_heartbeat_age_seconds", "Seconds since a worker said that it is well", ["worker", "queues"],
        (([name, queues], age.total_seconds()) for name, queues, age, _busy in rows),
    )  # fmt: skip
    yield _gauge("rlhf_worker_busy", "Tasks that a worker is at", ["worker"], (([n], busy) for n, _q, _a, busy in rows))
    newest = Worker.objects.aggregate(newest=Max("seen_at"))["newest"]
    yield _gauge("rlhf_workers_seen", "Whether any worker was seen at all", [], [([], float(newest is not None))])
    yield _gauge("celery_queue_length", "Messages that no worker has taken", ["queue_name"], _queue_lengths())


def _queue_lengths() -> list[tuple[list[str], float]]:
    """Return how long each queue is; nothing where the broker does not answer, which /readyz says."""
    return [([queue], float(length)) for queue, length in (queue_lengths(QUEUES) or {}).items()]
