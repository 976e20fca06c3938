"""What a version must hold to in the time after it went live, and for how long it is watched."""

import dataclasses
from dataclasses import dataclass, field
from typing import Any

from django.conf import settings

# A year; the push must be able to say until when.
LONGEST_MINUTES = 365 * 24 * 60


def _minutes() -> float:
    return float(settings.SOAK_MINUTES)


@dataclass(frozen=True)
class SoakRules:
    """How long a version is watched, and how much worse than the one before it may be; 0 turns a bound off.

    minutes: 0 watches none. max_errors, max_empty: shares of requests, above the share of the version before.
    max_latency_ratio: of the 95th percentile of the same probes' seconds, asked of both at the same time.
    """

    minutes: float = field(default_factory=_minutes)
    max_errors: float = 0.1
    max_empty: float = 0.1
    max_latency_ratio: float = 3.0

    def __post_init__(self) -> None:
        for name, value in self.as_json().items():
            if value < 0:
                raise ValueError(f"soak.{name}: 0 or more")
        if self.minutes > LONGEST_MINUTES:
            raise ValueError(f"soak.minutes: {LONGEST_MINUTES} at most")

    def as_json(self) -> dict[str, Any]:
        return dataclasses.asdict(self)
