"""/metrics: what web processes count and what the database says, for operators alone."""

import os
import subprocess
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from django.test import Client
from django.utils import timezone
from prometheus_client.parser import text_string_to_metric_families

from feedback_app.annotation.models import Assignment
from feedback_app.annotation.services import expire_reservations, next_task, submit_judgment
from feedback_app.notifications.models import Notification
from feedback_app.notifications.services import add_webhook, announce
from feedback_app.operations.models import Worker
from feedback_app.projects.models import Member
from feedback_app.rounds.models import Round
from feedback_app.serving.models import Endpoint, Push, Soak
from feedback_app.serving.services import ensure_base_policy
from tests.factories import canonical_ids, make_judgment, make_project, make_tasks, make_token, make_user
from tests.web.round_rows import round_at

pytestmark = pytest.mark.django_db
Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]


def scrape(client: Client) -> Samples:
    """Return every sample by its name and sorted labels."""
    answer = client.get("/metrics")
    assert answer.status_code == 200
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(answer.content.decode())
        for sample in family.samples
    }


def value(samples: Samples, name: str, **labels: str) -> float | None:
    return samples.get((name, tuple(sorted(labels.items()))))


@pytest.mark.parametrize(
    ("more", "status"),
    [
        ({"REMOTE_ADDR": "127.0.0.1"}, 200),
        ({"REMOTE_ADDR": "::1"}, 200),
        ({"REMOTE_ADDR": "10.1.2.3"}, 403),
        ({"REMOTE_ADDR": ""}, 403),
        # A proxy on the same machine speaks for somebody else.
        ({"REMOTE_ADDR": "127.0.0.1", "HTTP_X_FORWARDED_FOR": "203.0.113.9"}, 403),
        ({"REMOTE_ADDR": "127.0.0.1", "HTTP_X_FORWARDED_PROTO": "https"}, 403),
        ({"REMOTE_ADDR": "203.0.113.9", "HTTP_AUTHORIZATION": "Bearer first"}, 200),
        ({"REMOTE_ADDR": "203.0.113.9", "HTTP_AUTHORIZATION": "Bearer second"}, 200),
        ({"REMOTE_ADDR": "203.0.113.9", "HTTP_AUTHORIZATION": "Bearer fir"}, 403),
        # A wrong token is no token, from this machine too.
        ({"REMOTE_ADDR": "127.0.0.1", "HTTP_AUTHORIZATION": "Bearer wrong"}, 403),
    ],
)
def test_only_this_machine_and_tokens_of_the_list_read_it(
    client: Client, settings: Any, more: dict[str, str], status: int
) -> None:
    settings.METRICS_TOKENS = ["first", "second"]
    assert client.get("/metrics", **more).status_code == status  # type: ignore[arg-type]  # WSGI's own names


def test_no_tokens_let_nobody_in_from_elsewhere(client: Client) -> None:
    assert client.get("/metrics", REMOTE_ADDR="10.0.0.1", HTTP_AUTHORIZATION="Bearer ").status_code == 403


def test_an_account_is_no_key_to_it(client: Client) -> None:
    token = make_token(make_user(make_project(), Member.Role.MANAGER))
    headers = {"Authorization": f"Token {token}"}
    assert client.get("/metrics", REMOTE_ADDR="10.0.0.1", headers=headers).status_code == 403


def test_requests_are_counted_by_route_and_status(client: Client) -> None:
    before = scrape(client)
    project = make_project("counted")
    for _ in range(3):
        client.get(f"/p/{project.slug}/rounds/")
    client.get("/no/such/page")
    after = scrape(client)

    def grown(name: str, **labels: str) -> float:
        return (value(after, name, **labels) or 0) - (value(before, name, **labels) or 0)

    # Signed out: each is sent to sign in.
    name = "django_http_responses_total_by_status_view_method_total"
    assert grown(name, status="302", view="rounds:rounds", method="GET") == 3
    assert grown(name, status="404", view="none", method="GET") == 1
    latency = "django_http_requests_latency_seconds_by_view_method_count"
    assert grown(latency, view="rounds:rounds", method="GET") == 3


def test_a_stored_verdict_is_counted_once(client: Client, django_capture_on_commit_callbacks: Any) -> None:
    project = make_project()
    task = make_tasks(project, 1)[0]
    annotator = make_user(project)
    before = value(scrape(client), "rlhf_comparisons_total") or 0
    with django_capture_on_commit_callbacks(execute=True):
        make_judgment(task, annotator)
    assert value(scrape(client), "rlhf_comparisons_total") == before + 1


def test_the_state_of_the_site_is_read_from_the_database(client: Client) -> None:
    project = make_project("loop", overlap=2)
    base = ensure_base_policy(project=project)
    make_tasks(project, 3)
    next_task(project=project, annotator=make_user(project))
    held = round_at(project, "running", "ppo")
    now = timezone.now()
    Round.objects.filter(pk=held.pk).update(lease_until=now - timedelta(seconds=20))
    Endpoint.objects.update(
        looked_at=now - timedelta(seconds=30), trouble="away", requests_total=7, errors_total=2, tokens_total=90
    )
    done = {"project": project, "policy": base}
    Push.objects.create(state="live", canary_delta=0.01, **done)
    Push.objects.create(state="failed", canary_delta=0.5, **done)
    rollback = Push.objects.create(state="live", kind="rollback", **done)
    Soak.objects.create(
        push=rollback, project=project, policy=base, previous=base, rules={}, state="rolled_back", cause="errors",
        started_at=now, until=now, next_at=now,
    )  # fmt: skip
    Worker.objects.create(
        name="ctl@here", queues="ctl", pid=1, busy=2, started_at=now, seen_at=now - timedelta(seconds=5)
    )
    add_webhook(project=project, url="https://example.org/", kinds=["round_failed"], created_by=make_user())
    announce(project=project, kind=Notification.Kind.ROUND_FAILED, key="1", values={"number": 1, "why": ""})
    found = scrape(client)
    assert value(found, "rlhf_open_tasks", project="loop") == 3
    assert value(found, "rlhf_live_reservations", project="loop") == 1
    assert value(found, "rlhf_canary_logprob_delta", project="loop") == 0.5
    assert value(found, "rlhf_rounds", state="running") == 1
    assert value(found, "rlhf_rounds", state="failed") == 0
    age = value(found, "rlhf_run_lease_age_seconds", project="loop", round=str(held.number))
    assert age is not None
    assert 20 <= age < 60
    assert value(found, "rlhf_active_policy_version", project="loop") == 0
    assert value(found, "rlhf_push_total", kind="push", result="live") == 1
    assert value(found, "rlhf_push_total", kind="push", result="failed") == 1
    assert value(found, "rlhf_push_total", kind="rollback", result="live") == 1
    assert value(found, "rlhf_rollbacks_by_itself_total", cause="errors") == 1
    assert value(found, "rlhf_endpoint_up", endpoint="embedded") == 0
    assert value(found, "rlhf_generation_errors_total", endpoint="embedded") == 2
    assert value(found, "rlhf_generated_tokens_total", endpoint="embedded") == 90
    heartbeat = value(found, "rlhf_worker_heartbeat_age_seconds", worker="ctl@here", queues="ctl")
    assert heartbeat is not None
    assert 5 <= heartbeat < 60
    assert value(found, "rlhf_worker_busy", worker="ctl@here") == 2
    assert value(found, "rlhf_notifications_waiting") == 1
    assert value(found, "celery_queue_length", queue_name="ctl") is not None


def test_a_late_verdict_does_not_lower_the_count_of_reservations_that_ran_out(client: Client) -> None:
    project = make_project("late", overlap=2)
    task = make_tasks(project, 1)[0]
    people = [make_user(project) for _ in range(2)]
    for expired_by_now in (1, 2):
        next_task(project=project, annotator=people[expired_by_now - 1])
        Assignment.objects.filter(state="reserved").update(expires_at=timezone.now() - timedelta(seconds=1))
        assert expire_reservations() == 1
        assert value(scrape(client), "rlhf_reservations_expired_total", project="late") == expired_by_now
    submit_judgment(task_id=task.pk, annotator=people[0], body={"ranking": [canonical_ids(task)]})
    assert not Assignment.objects.filter(state="expired", annotator=people[0]).exists()
    assert value(scrape(client), "rlhf_reservations_expired_total", project="late") == 2


def test_processes_are_added_up(tmp_path: Path) -> None:
    script = (
        "import sys; from prometheus_client import CollectorRegistry, generate_latest\n"
        "from prometheus_client.multiprocess import MultiProcessCollector\n"
        "from feedback_app.metrics import COMPARISONS\n"
        "COMPARISONS.inc(int(sys.argv[1]))\n"
        "registry = CollectorRegistry(); MultiProcessCollector(registry)\n"
        "print(generate_latest(registry).decode())\n"
    )
    environment = os.environ | {"PROMETHEUS_MULTIPROC_DIR": str(tmp_path)}
    said = ""
    for number in ("2", "3"):
        command = [sys.executable, "-c", script, number]
        said = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout
    assert "rlhf_comparisons_total 5.0" in said.splitlines()
