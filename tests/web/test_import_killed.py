"""Imports that are killed by the kernel in the middle of a batch, and imports of one file at once: nothing twice."""

import io
import os
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from threading import Barrier
from unittest.mock import patch
from uuid import UUID

import pytest
from django.conf import settings
from django.db import connection, connections
from django.utils import timezone

from feedback_app.annotation.models import Judgment, Prompt, Response, Task
from feedback_app.datasets.models import ImportJob
from feedback_app.datasets.services import run_import, start_import
from feedback_app.projects.models import Project
from tests.factories import make_project
from tests.web.judged import as_lines, judged_rows, refusals

pytestmark = pytest.mark.django_db(transaction=True)

ROOT = Path(__file__).resolve().parents[2]
ROWS = [*judged_rows(20), {"prompt": "x", "responses": 3}]
# Ends by SIGKILL in the third batch, when its rows are written and its transaction is still open.
DIE = """
import os, signal, sys
from uuid import UUID
import django
from django.conf import settings
job, settings.DATABASES["default"]["NAME"] = sys.argv[1:]
django.setup()
from feedback_app.datasets.loading import Loader
from feedback_app.datasets.services import imports

imports.BATCH, load, loads = 4, Loader.load, []


def dying(self, rows):
    loaded = load(self, rows)
    loads.append(rows)
    if len(loads) == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return loaded


Loader.load = dying
imports.run_import(job_id=UUID(job))
"""


def queue(project: Project) -> ImportJob:
    content = io.BytesIO(as_lines(ROWS))
    return start_import(
        project=project, format="judged", file_name="rows.jsonl", content=content, requested_by=None
    )  # fmt: skip


def assert_whole(project: Project) -> None:
    """Assert that each of the twenty rows is there once, with its two responses and three judgments."""
    assert Prompt.objects.filter(project=project).count() == Task.objects.filter(project=project).count() == 20
    assert Response.objects.filter(prompt__project=project).count() == 40
    assert Judgment.objects.filter(project=project).count() == 60
    assert set(Task.objects.filter(project=project).values_list("counted", flat=True)) == {3}


def test_an_import_killed_in_mid_batch_goes_on_after_the_last_whole_one_and_adds_nothing_twice() -> None:
    project = make_project()
    job = queue(project)
    there = {"DJANGO_SETTINGS_MODULE": "feedback_app.settings", "DATA_DIR": str(settings.DATA_DIR)}
    killed = subprocess.run(
        [sys.executable, "-c", DIE, str(job.pk), str(connection.settings_dict["NAME"])],
        cwd=ROOT, env=os.environ | there, timeout=120, check=False, capture_output=True, text=True,
    )  # fmt: skip
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    job.refresh_from_db()
    assert (job.state, job.rows_read, Task.objects.filter(project=project).count()) == ("running", 8, 8)
    ImportJob.objects.filter(pk=job.pk).update(lease_until=timezone.now() - timedelta(seconds=1))
    done = run_import(job_id=job.pk)
    assert done is not None
    assert (done.state, done.rows_read, done.rows_new, done.rows_known) == ("done", 21, 20, 0)
    assert list(refusals(done)) == [21]
    assert_whole(project)
    again = run_import(job_id=queue(project).pk)
    assert again is not None
    assert (again.rows_new, again.rows_known, again.rows_refused) == (0, 20, 1)
    assert_whole(project)


def test_two_imports_of_one_file_at_once_store_each_row_once() -> None:
    project = make_project()
    jobs = [queue(project).pk for _ in range(2)]
    start = Barrier(2)

    def run(job: UUID) -> ImportJob | None:
        start.wait(timeout=30)
        try:
            return run_import(job_id=job)
        finally:
            connections.close_all()

    with patch("feedback_app.datasets.services.imports.BATCH", 2), ThreadPoolExecutor(2) as pool:
        done = [job for job in pool.map(run, jobs) if job is not None]
    assert [job.state for job in done] == ["done", "done"]
    assert (sum(job.rows_new for job in done), sum(job.rows_known for job in done)) == (20, 20)
    assert_whole(project)
