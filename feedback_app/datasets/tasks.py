"""The bells of imports; the rows wait in the database whether or not anybody rings."""

from uuid import UUID

from celery import shared_task

from feedback_app.datasets.services import run_import, waiting_imports


@shared_task(ignore_result=True)  # type: ignore[untyped-decorator]  # Celery is untyped
def run_import_job(job_id: str) -> None:
    """Do one import job, if no other worker has it."""
    run_import(job_id=UUID(job_id))


@shared_task(ignore_result=True)  # type: ignore[untyped-decorator]  # Celery is untyped
def ring_waiting_imports() -> None:
    """Ring again for every job whose bell was lost or whose worker is gone."""
    for job_id in waiting_imports():
        run_import_job.delay(str(job_id))
