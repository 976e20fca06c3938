"""What a web process counts while it answers; /metrics adds up all processes.

With PROMETHEUS_MULTIPROC_DIR set, as the web server's start does, each process counts in a file of its own there.
"""

from prometheus_client import Counter, Histogram

# From the quickest answers of ours to what a proxy gives up on.
BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)

LATENCY = Histogram(
    "django_http_requests_latency_seconds_by_view_method", "Seconds to an answer, by route", ["view", "method"],
    buckets=BUCKETS,
)  # fmt: skip
RESPONSES = Counter(
    "django_http_responses_total_by_status_view_method", "Answers, by status and route", ["status", "view", "method"]
)
EXCEPTIONS = Counter("django_http_exceptions_total_by_type", "Faults of ours that ended a request", ["type"])
COMPARISONS = Counter("rlhf_comparisons_total", "Verdicts stored, each once")
