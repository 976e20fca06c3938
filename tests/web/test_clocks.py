"""Clocks that jump, by libfaketime: a machine's clock decides nothing about rounds, and a beat set back goes on."""

import importlib.util
import json
import os
import subprocess
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import redis
from django.conf import settings
from django.db import connections
from django.db.models.functions import Now

from feedback_app.rounds.leases import LEASE, claim_round, cut_leases
from feedback_app.rounds.models import Schedule
from feedback_app.rounds.schedules import database_now
from feedback_app.rounds.tasks import kick
from feedback_app.serving.models import Push
from feedback_app.serving.services import cut_push_leases, ensure_base_policy
from tests.factories import make_project
from tests.web.round_rows import round_at

ROOT = Path(__file__).resolve().parents[2]


def library() -> Path:
    """Return the shared library that gives a process another time; it is built for Linux on x86-64 alone."""
    spec = importlib.util.find_spec("libfaketime")
    if spec is None or spec.origin is None:
        pytest.skip("no libfaketime for this machine")
    return Path(spec.origin).parent / "vendor" / "libfaketime" / "src" / "libfaketime.so.1"


def run_at(clock: dict[str, str], script: str, *arguments: str) -> Any:
    """Return the JSON that a script prints in a process of its own, whose clock is as libfaketime is told."""
    stated = connections.settings["default"]
    url = f"postgresql://{stated['USER']}@/{stated['NAME']}?host={stated['HOST']}"
    if stated["PASSWORD"]:
        url = url.replace("@/", f":{stated['PASSWORD']}@/")
    environment = os.environ | {
        "LD_PRELOAD": str(library()), "FAKETIME_DONT_FAKE_MONOTONIC": "1", "FAKETIME_NO_CACHE": "1",
        "DJANGO_SETTINGS_MODULE": "feedback_app.settings", "SECRET_KEY": "x" * 50, "ALLOWED_HOSTS": "a",
        "SERVING_URL": "http://127.0.0.1:9", "DATABASE_URL": url, "REDIS_URL": settings.REDIS_URL,
        "DATA_DIR": str(settings.DATA_DIR), **clock,
    }  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-c", script, *arguments],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=90,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


WORKER = """
import json, sys, time, django
django.setup()
from feedback_app.rounds.leases import claim_round
from feedback_app.rounds.schedules import start_due_rounds
held, free = (claim_round(round_id=pk) for pk in sys.argv[1:3])
print(json.dumps([time.time(), held is None, free is not None, len(start_due_rounds())]))
"""


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize(("offset", "hours"), [("+26h", 26), ("-26h", -26)])
def test_a_worker_whose_clock_is_wrong_takes_what_is_free_by_the_databases_clock(offset: str, hours: int) -> None:
    held, free = (round_at(make_project(), "running", "ppo") for _ in range(2))
    type(held).objects.filter(pk=held.pk).update(lease_until=Now() + timedelta(seconds=60))
    type(free).objects.filter(pk=free.pk).update(lease_until=Now() - timedelta(seconds=1))
    daily = Schedule.objects.create(project=make_project(), kind="interval", every=86_400, minimum_judgments=0)
    now = database_now()
    told, left_it, took_it, started = run_at({"FAKETIME": offset}, WORKER, str(held.pk), str(free.pk))
    assert abs(told - (now + timedelta(hours=hours)).timestamp()) < 600  # it was fooled indeed
    assert (left_it, took_it) == (True, True)
    free.refresh_from_db()
    assert free.lease_until is not None
    assert timedelta(0) < free.lease_until - now < LEASE + timedelta(seconds=90)
    # By its own clock the daily round would be due; by the database's it was added just now.
    assert (started, daily.slots.count()) == (0, 0)


@pytest.mark.django_db
def test_leases_of_before_the_databases_clock_was_set_back_do_not_outlast_what_a_lease_lasts() -> None:
    held = round_at(make_project(), "running", "ppo")
    base = ensure_base_policy(project=held.project)
    ahead = Now() + timedelta(hours=1)
    type(held).objects.filter(pk=held.pk).update(lease_until=ahead)
    push = Push.objects.create(project=held.project, policy=base, lease_until=database_now() + timedelta(hours=1))
    assert (cut_leases(), cut_leases()) == (1, 0)
    cut_push_leases()
    held.refresh_from_db()
    push.refresh_from_db()
    for lease in (held.lease_until, push.lease_until):
        assert lease is not None
        assert lease < database_now() + LEASE + timedelta(seconds=1)
    # Nobody may take it sooner than any other lease.
    assert claim_round(round_id=held.pk) is None


BEAT = """
import json, sys, time
from celery import Celery
from feedback_app.beat import SteadyScheduler
app = Celery(broker="memory://")
app.conf.beat_schedule = {"tick": {"task": "tick", "schedule": 1.0}}
scheduler = SteadyScheduler(app=app, schedule_filename=sys.argv[1])
sent = []
scheduler.apply_async = lambda *given, **more: sent.append(time.time())
def until(number):
    began = time.monotonic()
    while len(sent) < number and time.monotonic() - began < 20:
        time.sleep(max(0.0, min(scheduler.tick(), 0.2)))
until(1)
open(sys.argv[2], "w").write("-3600")
until(3)
open(sys.argv[2], "w").write("+3600")
until(5)
print(json.dumps(sent))
"""


def test_a_beat_goes_on_whether_the_clock_jumps_back_or_ahead(tmp_path: Path) -> None:
    jumps = tmp_path / "clock"
    jumps.write_text("+0")
    sent = run_at({"FAKETIME_TIMESTAMP_FILE": str(jumps)}, BEAT, str(tmp_path / "beat"), str(jumps))
    assert len(sent) == 5
    assert sent[1] < sent[0] - 3000
    assert sent[4] > sent[2] + 6000


def test_no_bell_goes_stale_by_a_clock_and_a_queue_nobody_hears_does_not_grow_for_ever(
    embedded_services: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A worker whose clock ran ahead of beat's took every bell for an expired one, and no round was ever begun.
    monkeypatch.setattr("feedback_app.celery.MOST_WAITING", 3)
    broker = redis.Redis.from_url(settings.REDIS_URL)
    sent = [kick.apply_async((f"{number}",), queue="gpu.nobody") for number in range(5)]
    waiting = [json.loads(message) for message in broker.lrange("gpu.nobody", 0, -1)]
    assert [message["headers"]["expires"] for message in waiting] == [None] * 3
    assert [result is None for result in sent] == [False] * 3 + [True] * 2
    assert not any("expires" in entry.get("options", {}) for entry in settings.CELERY_BEAT_SCHEDULE.values())
    broker.delete("gpu.nobody")
    assert kick.apply_async(("again",), queue="gpu.nobody") is not None
    broker.delete("gpu.nobody")
