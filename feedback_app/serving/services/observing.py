"""What versions answered, counted where it was asked: the figures that a new version is compared with."""

from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import Any

from django.db import transaction
from django.db.models import F
from django.db.models.functions import Now

from feedback_app.serving.backends.base import Seen
from feedback_app.serving.models import Deployment, Endpoint, Observation, PolicyVersion
from feedback_app.serving.status import ask_endpoint

KEPT = timedelta(days=7)
# Of the version before: its newest requests, so that last month's weather does not count.
BASELINE_ROWS = 200


def record_samples(*, deployment: Deployment, seen: Iterable[Seen]) -> None:
    """Count requests of sampling; where the endpoint as a whole is away, its failures speak against no version."""
    ones = list(seen)
    if any(one.error for one in ones) and not ask_endpoint(deployment).well:
        ones = [one for one in ones if not one.error]
    record_requests(endpoint=deployment.endpoint, seen=ones, source=Observation.Source.SAMPLING)


@transaction.atomic
def record_requests(*, endpoint: Endpoint, seen: Iterable[Seen], source: Observation.Source) -> None:
    """Count requests, a row for each version that was asked, and add them to what the endpoint has answered in all."""
    by_policy: dict[PolicyVersion, list[Seen]] = {}
    for one in seen:
        by_policy.setdefault(one.policy, []).append(one)
    if not by_policy:
        return
    rows = [_row(policy, ones, source) for policy, ones in by_policy.items()]
    Observation.objects.bulk_create(rows)
    Endpoint.objects.filter(pk=endpoint.pk).update(
        requests_total=F("requests_total") + sum(row.requests for row in rows),
        errors_total=F("errors_total") + sum(row.errors for row in rows),
        tokens_total=F("tokens_total") + sum(one.tokens for ones in by_policy.values() for one in ones),
    )


def _row(policy: PolicyVersion, seen: list[Seen], source: Observation.Source) -> Observation:
    failed = [one.error for one in seen if one.error]
    return Observation(
        policy=policy, source=source, requests=len(seen), errors=len(failed),
        empty=sum(one.empty for one in seen), seconds=[round(one.seconds, 4) for one in seen if not one.error],
        said=failed[0][:1000] if failed else "",
    )  # fmt: skip


def forget_observations() -> int:
    """Delete what is too old to be compared with anything; return how many rows."""
    return Observation.objects.filter(at__lt=Now() - KEPT).delete()[0]


def figures_of(
    *, policy: PolicyVersion, since: datetime | None = None, before: datetime | None = None
) -> dict[str, Any]:
    """Return {"requests", "errors", "empty", "probes", "p95"} of a version; p95 in seconds, of probes, None of none.

    since: from then on. before: the newest rows up to then alone.
    """
    rows = Observation.objects.filter(policy=policy).order_by("-at")
    if since is not None:
        rows = rows.filter(at__gte=since)
    if before is not None:
        rows = rows.filter(at__lt=before)[:BASELINE_ROWS]
    found = list(rows.values("source", "requests", "errors", "empty", "seconds"))
    seconds = sorted(s for row in found if row["source"] == Observation.Source.PROBE for s in row["seconds"])
    return {
        **{name: sum(row[name] for row in found) for name in ("requests", "errors", "empty")},
        "probes": len(seconds),
        "p95": seconds[_rank(len(seconds))] if seconds else None,
    }


def _rank(n: int) -> int:
    """Return the place of the 95th percentile among so many in order, by the nearest rank."""
    return -(-95 * n // 100) - 1
