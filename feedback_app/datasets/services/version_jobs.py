"""Dataset versions made by a worker: a million rows take longer than a request may."""

import logging
import shutil
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

from django.conf import settings
from django.core.exceptions import ValidationError
from django.db import InterfaceError, OperationalError, connection, transaction
from django.db.models.functions import Now
from django.utils import timezone, translation
from django.utils.translation import gettext as _

from feedback_app.accounts.models import User
from feedback_app.annotation.models import Task
from feedback_app.datasets.exporting.options import ExportOptions
from feedback_app.datasets.models import DatasetVersion, VersionJob
from feedback_app.datasets.services.asking import read_request
from feedback_app.datasets.services.imports import LeaseLost
from feedback_app.datasets.services.versions import Watcher, create_dataset_version, lock_versions
from feedback_app.leases import claim, claimable
from feedback_app.projects.models import Project

logger = logging.getLogger(__name__)
State = VersionJob.State
LEASE = timedelta(seconds=30)
RENEW_EVERY_S = 2.0
# A worker that dies of a version may have been killed for another's memory; the third time it is this version's.
ATTEMPTS = 3
# Nothing is written into a folder in the making for so long.
ABANDONED = timedelta(days=1)


def request_version(
    *,
    project: Project,
    format: str,
    options: ExportOptions | Mapping[str, Any] | None = None,
    file_type: str = "jsonl",
    requested_by: User | None = None,
) -> VersionJob:
    """Queue a dataset version, or return the equal one that is under way; the caller rings a worker.

    Raises:
        ValidationError: names the option that is unknown.
    """
    asked = read_request(format=format, options=options, file_type=file_type)
    chosen = {"format": asked.format, "file_type": asked.file_type, "options": asked.options.as_json()}
    with transaction.atomic():
        lock_versions(project)  # a button pressed twice makes one version
        same = VersionJob.objects.filter(project=project, state__in=[State.QUEUED, State.RUNNING], **chosen).first()
        return same or VersionJob.objects.create(
            project=project, **chosen, requested_by=requested_by, language=translation.get_language() or "",
            tasks_judged=Task.objects.filter(project=project, counted__gt=0).count(),
        )  # fmt: skip


def waiting_versions() -> list[UUID]:
    """Return the versions that wait for a worker: queued ones, and running ones whose worker is gone."""
    return list(VersionJob.objects.filter(claimable()).values_list("pk", flat=True))


def run_version_job(*, job_id: UUID) -> VersionJob | None:
    """Make a version that was asked for; None where another worker has it, or has taken it over.

    Of a worker that was killed nothing is left but a folder, and the version is made from the start.
    """
    job = claim(VersionJob.objects.filter(pk=job_id).select_related("project", "requested_by"), lease=LEASE)
    if job is None:
        return None
    try:
        with translation.override(job.language or settings.LANGUAGE_CODE):
            _make(job)
    except LeaseLost:
        return None
    job.refresh_from_db()
    return job


def _make(job: VersionJob) -> None:
    if job.fence > ATTEMPTS:
        _fail(job, _("its workers were lost %(number)d times") % {"number": ATTEMPTS})
        return
    try:
        with _kept(job) as watcher:
            create_dataset_version(
                project=job.project, format=job.format, options=job.options, file_type=job.file_type,
                created_by=job.requested_by, watcher=watcher,
            )  # fmt: skip
    except LeaseLost:
        raise
    except ValidationError as error:
        _fail(job, " ".join(error.messages))
    except Exception as error:
        # A fault of ours: it must not be tried again at every tick, and the log has to have the whole of it.
        _fail(job, f"{type(error).__name__}: {error}")
        raise


def _fail(job: VersionJob, error: str) -> None:
    _write(job, state=State.FAILED, error=error[:1000], finished_at=timezone.now())


def _write(job: VersionJob, **changes: Any) -> None:
    """Renew the lease and write how far the job is; raises LeaseLost where the fence is old."""
    mine = VersionJob.objects.filter(pk=job.pk, fence=job.fence, state=State.RUNNING)
    if not mine.update(lease_until=Now() + LEASE, **changes):
        raise LeaseLost


class _Progress(Watcher):
    """Counts what is written, and gives up once another worker has the job."""

    def __init__(self, job: VersionJob) -> None:
        self.job, self.written, self.lost, self.done = job, 0, threading.Event(), threading.Event()

    def began(self) -> None:
        self.written = 0

    def wrote(self, tasks: int) -> None:
        if self.lost.is_set():
            raise LeaseLost
        self.written += tasks

    def stored(self, version: DatasetVersion) -> None:
        """End the job in the version's own transaction: one job makes one version, whoever dies when."""
        _write(self.job, state=State.DONE, version=version, tasks_written=self.written, finished_at=timezone.now())

    def keep(self) -> None:
        """Keep the lease and say how far it is, by a connection of its own: a COPY holds the other."""
        try:
            while not self.done.wait(RENEW_EVERY_S):
                try:
                    _write(self.job, tasks_written=self.written)
                except LeaseLost:
                    self.lost.set()
                    return
                except (OperationalError, InterfaceError) as error:
                    logger.warning("version job=%s fence=%s: not renewed: %s", self.job.pk, self.job.fence, error)
                    connection.close()
        finally:
            connection.close()


@contextmanager
def _kept(job: VersionJob) -> Iterator[_Progress]:
    progress = _Progress(job)
    thread = threading.Thread(target=progress.keep, name="lease", daemon=True)
    thread.start()
    try:
        yield progress
    finally:
        progress.done.set()
        thread.join()


def sweep_abandoned() -> int:
    """Delete the folders of versions that were never stored, for their worker was killed, and return how many."""
    home, swept = Path(settings.DATA_DIR) / "datasets", 0
    # The folders first: what is stored meanwhile is known by then.
    folders = list(home.iterdir()) if home.is_dir() else []
    known = {Path(name).name for name in DatasetVersion.objects.values_list("directory", flat=True)}
    for folder in folders:
        if folder.name not in known and folder.stat().st_mtime < time.time() - ABANDONED.total_seconds():
            shutil.rmtree(folder)
            swept += 1
    return swept
