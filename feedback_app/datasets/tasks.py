"""The bells of imports and versions; the rows wait in the database whether or not anybody rings."""

import logging
from functools import partial
from typing import Any
from uuid import UUID

from celery import shared_task
from django.db import transaction
from kombu.exceptions import OperationalError

from feedback_app.datasets.services import (
    forget_drafts,
    index_examples,
    mark_versions_of_voided,
    measure_duplicates,
    run_import,
    run_version_job,
    sweep_abandoned,
    waiting_imports,
    waiting_versions,
)
from feedback_app.projects.models import Project

logger = logging.getLogger(__name__)
# Of a larger import, beat makes the rest searchable bit by bit, and other jobs have their turn.
AFTER_IMPORT = 200_000


@shared_task(ignore_result=True)  # type: ignore[untyped-decorator]  # Celery is untyped
def run_import_job(job_id: str) -> None:
    """Do one import job, if no other worker has it, and make what came in searchable."""
    if job := run_import(job_id=UUID(job_id)):
        index_examples(project=job.project, most=AFTER_IMPORT)


@shared_task(ignore_result=True)  # type: ignore[untyped-decorator]  # Celery is untyped
def ring_waiting_imports() -> None:
    """Ring again for every import and version whose bell was lost or whose worker is gone."""
    for job_id in waiting_imports():
        run_import_job.delay(str(job_id))
    for job_id in waiting_versions():
        make_version.delay(str(job_id))


@shared_task(ignore_result=True)  # type: ignore[untyped-decorator]  # Celery is untyped
def make_version(job_id: str) -> None:
    """Make a dataset version that was asked for, unless a worker does already."""
    run_version_job(job_id=UUID(job_id))


@shared_task(ignore_result=True)  # type: ignore[untyped-decorator]  # Celery is untyped
def mark_dataset_versions() -> None:
    """Mark the versions that hold judgments voided since; sweep what nobody came back to, or nobody will."""
    mark_versions_of_voided()
    forget_drafts()
    sweep_abandoned()


@shared_task(ignore_result=True)  # type: ignore[untyped-decorator]  # Celery is untyped
def index_new_examples() -> None:
    """Make searchable what came since."""
    index_examples()


@shared_task(ignore_result=True)  # type: ignore[untyped-decorator]  # Celery is untyped
def measure_duplicates_of(project_id: int) -> None:
    """Look for near-duplicates among a project's prompts, and keep what was found for its page."""
    measure_duplicates(project=Project.objects.get(pk=project_id))


def ring_import(job_id: UUID) -> None:
    """Wake a worker for a job once it is stored; without a broker it waits for ring_waiting_imports."""
    transaction.on_commit(partial(_ring, run_import_job, str(job_id)))


def ring_version(job_id: UUID) -> None:
    """Wake a worker for a version once it is asked for, as ring_import does."""
    transaction.on_commit(partial(_ring, make_version, str(job_id)))


def _ring(bell: Any, job_id: str) -> None:
    try:
        bell.delay(job_id)
    except OperationalError as error:
        logger.warning("job %s waits: the broker does not answer (%s)", job_id, error)
