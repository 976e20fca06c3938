"""Clocks that jump, by libfaketime: a machine's clock decides nothing about rounds, and a beat set back goes on."""

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

from feedback_app.annotation import sampling
from feedback_app.annotation.models import SampleJob
from feedback_app.datasets.models import ImportJob
from feedback_app.datasets.services import imports
from feedback_app.leases import database_now
from feedback_app.rounds.leases import LEASE, claim_round, cut_leases
from feedback_app.rounds.models import Round, Schedule
from feedback_app.rounds.tasks import kick
from feedback_app.serving.models import Push
from feedback_app.serving.services import cut_push_leases, ensure_base_policy
from tests.factories import make_project
from tests.faked_time import HABITS, library
from tests.web.round_rows import round_at

ROOT = Path(__file__).resolve().parents[2]


def run_at(clock: dict[str, str], script: str, *arguments: str) -> Any:
    """Return the JSON that a script prints in a process of its own, whose clock is as libfaketime is told."""
    faked = library()
    if faked is None:
        pytest.skip("no libfaketime for this machine")
    stated = connections.settings["default"]
    url = f"postgresql://{stated['USER']}@/{stated['NAME']}?host={stated['HOST']}"
    if stated["PASSWORD"]:
        url = url.replace("@/", f":{stated['PASSWORD']}@/")
    environment = os.environ | {
        **HABITS, "LD_PRELOAD": str(faked),
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
from feedback_app.annotation.sampling import claim_sample_job
from feedback_app.datasets.services import claim_import
from feedback_app.rounds.leases import claim_round
from feedback_app.rounds.schedules import start_due_rounds
ids = iter(sys.argv[1:])
taken = [
    claim(**{name: next(ids)}) is not None
    for claim, name in ((claim_round, "round_id"), (claim_sample_job, "job_id"), (claim_import, "job_id"))
    for _ in ("held", "free")
]
print(json.dumps([time.time(), taken, len(start_due_rounds())]))
"""


def leased(row: Round | SampleJob | ImportJob, seconds: int) -> Any:
    """Have a row run under a lease that ends so many seconds from now by the database's clock; returns it."""
    type(row).objects.filter(pk=row.pk).update(state="running", lease_until=Now() + timedelta(seconds=seconds))
    return row


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize(("offset", "hours"), [("+26h", 26), ("-26h", -26)])
def test_a_worker_whose_clock_is_wrong_takes_what_is_free_by_the_databases_clock(offset: str, hours: int) -> None:
    rows = [
        leased(make(), seconds)
        for make in (
            lambda: round_at(make_project(), "running", "ppo"),
            lambda: SampleJob.objects.create(project=make_project(), prompts_wanted=1, responses_per_prompt=2),
            lambda: ImportJob.objects.create(project=make_project(), format="judged", file_name="a", path="a"),
        )
        for seconds in (600, -1)
    ]
    daily = Schedule.objects.create(project=make_project(), kind="interval", every=86_400, minimum_judgments=0)
    now = database_now()
    told, taken, started = run_at({"FAKETIME": offset}, WORKER, *(str(row.pk) for row in rows))
    assert abs(told - (now + timedelta(hours=hours)).timestamp()) < 600  # it was fooled indeed
    assert taken == [False, True] * 3
    for row, lease in zip(rows[1::2], (LEASE, sampling.LEASE, imports.LEASE), strict=True):
        row.refresh_from_db()
        assert timedelta(0) < row.lease_until - now < lease + timedelta(seconds=90)
    # By its own clock the daily round would be due; by the database's it was added just now.
    assert (started, daily.slots.count()) == (0, 0)


@pytest.mark.django_db
def test_leases_of_before_the_databases_clock_was_set_back_do_not_outlast_what_a_lease_lasts() -> None:
    held = round_at(make_project(), "running", "ppo")
    base = ensure_base_policy(project=held.project)
    sampled = SampleJob.objects.create(project=held.project, prompts_wanted=1, responses_per_prompt=2)
    imported = ImportJob.objects.create(project=held.project, format="judged", file_name="a", path="a")
    for row in (held, sampled, imported):
        leased(row, 3600)
    push = Push.objects.create(project=held.project, policy=base, lease_until=database_now() + timedelta(hours=1))
    assert (cut_leases(), cut_leases()) == (3, 0)
    cut_push_leases()
    longest: tuple[tuple[Any, timedelta], ...] = (
        (held, LEASE), (push, LEASE), (sampled, sampling.LEASE), (imported, imports.LEASE)
    )  # fmt: skip
    for any_row, lease in longest:
        any_row.refresh_from_db()
        assert any_row.lease_until < database_now() + lease + timedelta(seconds=1)
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
    sent = [kick.apply_async((f"{number}",), queue="gpu.nobody", again=True) for number in range(5)]
    waiting = [json.loads(message) for message in broker.lrange("gpu.nobody", 0, -1)]
    assert [message["headers"]["expires"] for message in waiting] == [None] * 3
    assert [result is None for result in sent] == [False] * 3 + [True] * 2
    assert {tuple(entry["options"].items()) for entry in settings.CELERY_BEAT_SCHEDULE.values()} == {(("again", True),)}
    # What somebody asked for on a page is asked for once, and sent however many wait.
    assert kick.apply_async(("once",), queue="gpu.nobody") is not None
    broker.delete("gpu.nobody")
    assert kick.apply_async(("again",), queue="gpu.nobody", again=True) is not None
    broker.delete("gpu.nobody")
