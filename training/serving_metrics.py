"""Prometheus figures under TGI's names, so that dashboards made for TGI show this server too."""

from collections import Counter
from collections.abc import Sequence

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0)
_TOKENS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096)


class Histogram:
    """Counts of values up to each bound."""

    def __init__(self, bounds: Sequence[float]) -> None:
        self._bounds = bounds
        self._counts = [0] * len(bounds)
        self._total = 0
        self._sum = 0.0

    def add(self, value: float) -> None:
        self._total += 1
        self._sum += value
        for index, bound in enumerate(self._bounds):
            self._counts[index] += value <= bound

    def lines(self, name: str) -> list[str]:
        buckets = [f'{name}_bucket{{le="{b}"}} {n}' for b, n in zip(self._bounds, self._counts, strict=True)]
        return [
            f"# TYPE {name} histogram",
            *buckets,
            f'{name}_bucket{{le="+Inf"}} {self._total}',
            f"{name}_sum {self._sum}",
            f"{name}_count {self._total}",
        ]


class ServingMetrics:
    """What is counted; written from the event loop's thread alone."""

    def __init__(self) -> None:
        self.requests = 0
        self.successes: Counter[str] = Counter()
        self.failures: Counter[str] = Counter()
        self._histograms = {
            "tgi_request_duration": Histogram(_SECONDS),
            "tgi_request_queue_duration": Histogram(_SECONDS),
            "tgi_request_inference_duration": Histogram(_SECONDS),
            "tgi_request_mean_time_per_token_duration": Histogram(_SECONDS),
            "tgi_request_input_length": Histogram(_TOKENS),
            "tgi_request_generated_tokens": Histogram(_TOKENS),
        }

    def record_answer(
        self, policy: str, *, total_s: float, queue_s: float, inference_s: float, inputs: int, generated: int
    ) -> None:
        """Count one finished answer."""
        self.successes[policy] += 1
        values = (total_s, queue_s, inference_s, inference_s / generated, inputs, generated)
        for histogram, value in zip(self._histograms.values(), values, strict=True):
            histogram.add(value)

    def render(self, *, current: str, waiting: int, running: int) -> str:
        """Return the exposition text."""
        lines = ["# TYPE tgi_request_count counter", f"tgi_request_count {self.requests}"]
        lines.append("# TYPE tgi_request_success counter")
        lines += [f'tgi_request_success{{policy="{name}"}} {n}' for name, n in sorted(self.successes.items())]
        lines.append("# TYPE tgi_request_failure counter")
        lines += [f'tgi_request_failure{{err="{name}"}} {n}' for name, n in sorted(self.failures.items())]
        lines += ["# TYPE tgi_queue_size gauge", f"tgi_queue_size {waiting}"]
        lines += ["# TYPE tgi_batch_current_size gauge", f"tgi_batch_current_size {running}"]
        lines += ["# TYPE policy_version gauge", f'policy_version{{policy="{current}"}} 1']
        for name, histogram in self._histograms.items():
            lines += histogram.lines(name)
        return "\n".join(lines) + "\n"
