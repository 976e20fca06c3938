"""Bells of the annotation app: each names a row that waits, and losing or doubling one is harmless."""

from celery import shared_task

from feedback_app.annotation.sampling import claim_sample_job, run_sample_job


@shared_task(ignore_result=True)  # type: ignore[untyped-decorator]  # Celery is untyped
def sample(job_id: str) -> None:
    """Sample a job's responses, unless somebody does already."""
    if job := claim_sample_job(job_id=job_id):
        run_sample_job(job=job)
