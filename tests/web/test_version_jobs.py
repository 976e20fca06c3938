"""Dataset versions made by workers: whoever is killed when, one request makes one version or says why it did not."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from unittest.mock import patch

import pytest
from django.conf import settings
from django.db import connection
from django.db.models.functions import Now
from django.test import Client

from feedback_app.datasets.models import DatasetVersion, VersionJob
from feedback_app.datasets.services import (
    erase_from_project,
    request_version,
    run_version_job,
    sweep_abandoned,
    verify_dataset,
    version_jobs,
    waiting_versions,
)
from feedback_app.datasets.services.versions import Watcher
from feedback_app.projects.models import Member, Project
from tests.factories import make_project, make_token, make_user
from tests.web.judged import judged_rows, run_rows

pytestmark = pytest.mark.django_db(transaction=True)

ROOT = Path(__file__).resolve().parents[2]
# Ends by SIGKILL when a few of its tasks are written, or when the version is stored and its transaction still open.
DIE = """
import os, signal, sys
from uuid import UUID
import django
from django.conf import settings
job, where, settings.DATABASES["default"]["NAME"] = sys.argv[1:]
django.setup()
from feedback_app.datasets.services import version_jobs

progress = version_jobs._Progress
done = getattr(progress, where)


def dying(self, given):
    done(self, given)
    if where == "stored" or self.written >= 5:
        os.kill(os.getpid(), signal.SIGKILL)


setattr(progress, where, dying)
version_jobs.run_version_job(job_id=UUID(job))
"""


def judged_project() -> Project:
    project = make_project()
    run_rows(project, judged_rows(20))
    return project


def killed(job: VersionJob, where: str) -> None:
    there = {"DJANGO_SETTINGS_MODULE": "feedback_app.settings", "DATA_DIR": str(settings.DATA_DIR)}
    done = subprocess.run(
        [sys.executable, "-c", DIE, str(job.pk), where, str(connection.settings_dict["NAME"])],
        cwd=ROOT, env=os.environ | there, timeout=120, check=False, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == -signal.SIGKILL, done.stderr
    job.refresh_from_db()
    assert (job.state, waiting_versions()) == ("running", [])
    assert not DatasetVersion.objects.exists()
    VersionJob.objects.filter(pk=job.pk).update(lease_until=Now())
    assert waiting_versions() == [job.pk]


def folders() -> list[Path]:
    return list((Path(settings.DATA_DIR) / "datasets").iterdir())


def test_a_version_whose_worker_is_killed_is_made_once_by_another_and_nothing_of_the_first_stays() -> None:
    project, before = judged_project(), {*folders()} if (Path(settings.DATA_DIR) / "datasets").exists() else set()
    job = request_version(project=project, format="judgments")
    killed(job, "wrote")
    killed(job, "stored")
    done = run_version_job(job_id=job.pk)
    assert done is not None
    assert (done.state, done.tasks_written, done.tasks_judged) == ("done", 20, 20)
    version = DatasetVersion.objects.get()
    assert (done.version, version.number) == (version, 1)
    verify_dataset(version)
    assert run_version_job(job_id=job.pk) is None  # a bell rung twice
    left = {*folders()} - before - {Path(settings.DATA_DIR) / version.directory}
    assert len(left) == 2
    for folder in left:
        os.utime(folder, (time.time() - 2 * 86400,) * 2)
    os.utime(Path(settings.DATA_DIR) / version.directory, (0, 0))
    sweep_abandoned()
    assert {*folders()} - before == {Path(settings.DATA_DIR) / version.directory}


def test_a_version_that_its_workers_die_of_is_given_up_and_says_so() -> None:
    job = request_version(project=judged_project(), format="judgments")
    VersionJob.objects.filter(pk=job.pk).update(state="running", fence=3, lease_until=Now())
    done = run_version_job(job_id=job.pk)
    assert done is not None
    assert (done.state, done.error) == ("failed", "its workers were lost 3 times")
    assert waiting_versions() == []


def test_a_worker_that_was_overtaken_stores_nothing() -> None:
    job = request_version(project=judged_project(), format="judgments")

    def overtaken(_watcher: Watcher) -> None:
        VersionJob.objects.filter(pk=job.pk).update(fence=2)  # by another worker, which goes on

    with patch.object(version_jobs._Progress, "began", overtaken):
        assert run_version_job(job_id=job.pk) is None
    assert not DatasetVersion.objects.exists()
    job.refresh_from_db()
    assert (job.state, job.fence) == ("running", 2)


def test_an_erasure_forgets_what_was_asked_for_by_the_name_of_the_erased() -> None:
    project = judged_project()
    named = request_version(project=project, format="judgments", options={"annotators": ["annotator1"]})
    other = request_version(project=project, format="judgments", options={"annotators": ["annotator2"]})
    erase_from_project(project=project, erased_by=None, annotator="annotator1")
    assert list(VersionJob.objects.all()) == [other]
    assert run_version_job(job_id=named.pk) is None


def test_a_program_that_does_not_wait_is_told_by_the_job_which_version_was_made() -> None:
    project = judged_project()
    key = make_token(make_user(project, Member.Role.MANAGER))
    client = Client(headers={"Authorization": f"Token {key}"})
    answer = client.post(
        f"/api/v1/projects/{project.slug}/datasets/", {"format": "judgments", "wait": False},
        content_type="application/json",
    )  # fmt: skip
    assert (answer.status_code, answer.json()["state"], answer.json()["dataset"]) == (202, "queued", None)
    job = VersionJob.objects.get(pk=answer.json()["id"])
    run_version_job(job_id=job.pk)
    found = client.get(f"/api/v1/datasets/jobs/{job.pk}/").json()
    assert (found["state"], found["dataset"]) == ("done", str(DatasetVersion.objects.get().pk))
