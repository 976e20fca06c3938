"""Reads of imports and dataset versions, for pages, API and commands alike."""

import csv
import io
import json
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

from django.db.models import Count, Q, QuerySet
from django.utils import timezone

from feedback_app.annotation.models import Judgment
from feedback_app.datasets.csv_cells import write_cell
from feedback_app.datasets.exporting.options import SPLITS
from feedback_app.datasets.models import DatasetVersion, DuplicateReport, Erasure, ImportJob, RefusedRow, VersionJob
from feedback_app.datasets.services.erasing import ErasureOutcome
from feedback_app.projects.models import Project
from feedback_app.serving.models import PolicyVersion

FIRST_REFUSED = 10
PIECE = 1000
FAILED_SHOWN = timedelta(days=1)


def imports_of(*, project: Project) -> QuerySet[ImportJob]:
    """Return a project's imports, newest first, without the files that are only looked at."""
    jobs = ImportJob.objects.filter(project=project, dry_run=False).exclude(state=ImportJob.State.DRAFT)
    return jobs.select_related("requested_by")


def judgments_held(*, project: Project) -> dict[str, int]:
    """Return how many judgments count, by origin, and how many are void or surplus."""
    counted = Q(voided_at=None, surplus=False)
    return Judgment.objects.filter(project=project).aggregate(
        total=Count("pk", filter=counted),
        human=Count("pk", filter=counted & Q(origin=Judgment.Origin.HUMAN)),
        imported=Count("pk", filter=counted & Q(origin=Judgment.Origin.IMPORTED)),
        simulated=Count("pk", filter=counted & Q(origin=Judgment.Origin.SIMULATED)),
        apart=Count("pk", filter=~counted),
    )


def refused_rows(*, job: ImportJob) -> QuerySet[RefusedRow]:
    """Return what an import refused, by line."""
    return RefusedRow.objects.filter(job=job)


def import_as_json(*, job: ImportJob) -> dict[str, Any]:
    """Return an import as the API shows it, with the first of its refused rows."""
    return {
        "id": str(job.pk),
        "project": job.project.slug,
        "format": job.format,
        "file_name": job.file_name,
        "state": job.state,
        "dry_run": job.dry_run,
        "mapping": job.options.get("mapping", {}),
        "rows_read": job.rows_read,
        "rows_new": job.rows_new,
        "rows_known": job.rows_known,
        "rows_refused": job.rows_refused,
        "bytes_total": job.bytes_total,
        "bytes_read": job.bytes_read,
        "error": job.error,
        "refused": list(refused_rows(job=job).values("line", "reason")[:FIRST_REFUSED]),
        "created_at": job.created_at.isoformat(),
        "finished_at": job.finished_at.isoformat() if job.finished_at else None,
    }


def report_as_json(*, job: ImportJob) -> Iterator[bytes]:
    """Yield {"id", "refused": [{"line", "reason"}]}, every refused row in it, piece by piece."""
    yield f'{{"id": "{job.pk}", "refused": ['.encode()
    first = True
    for row in refused_rows(job=job).values("line", "reason").iterator(PIECE):
        yield (b"" if first else b", ") + json.dumps(row, ensure_ascii=False).encode()
        first = False
    yield b"]}"


def report_as_csv(*, job: ImportJob) -> Iterator[bytes]:
    """Yield line,reason as CSV, row by row."""
    yield b"line,reason\r\n"
    for line, reason in refused_rows(job=job).values_list("line", "reason").iterator(PIECE):
        text = io.StringIO()
        csv.writer(text).writerow([line, write_cell(reason)])
        yield text.getvalue().encode()


def datasets_of(*, project: Project) -> QuerySet[DatasetVersion]:
    """Return a project's dataset versions, newest first."""
    return DatasetVersion.objects.filter(project=project).select_related("created_by")


def versions_under_way(*, project: Project) -> QuerySet[VersionJob]:
    """Return the versions that were asked for and are not there, newest first; those that failed for a day."""
    lately = Q(finished_at__gte=timezone.now() - FAILED_SHOWN)
    waiting = Q(state__in=[VersionJob.State.QUEUED, VersionJob.State.RUNNING])
    jobs = VersionJob.objects.filter(waiting | lately & Q(state=VersionJob.State.FAILED), project=project)
    return jobs.select_related("requested_by")


def version_job_as_json(*, job: VersionJob) -> dict[str, Any]:
    """Return a version on its way as the API shows it."""
    return {
        "id": str(job.pk),
        "project": job.project.slug,
        "format": job.format,
        "file": job.file_type,
        "options": job.options,
        "state": job.state,
        "tasks_written": job.tasks_written,
        "tasks_judged": job.tasks_judged,
        "error": job.error,
        "dataset": str(job.version_id) if job.version_id else None,
        "created_at": job.created_at.isoformat(),
        "finished_at": job.finished_at.isoformat() if job.finished_at else None,
    }


def parts_of(*, version: DatasetVersion) -> list[dict[str, Any]]:
    """Return the version's files that hold rows, with their split, rows, prompts and hash."""
    manifest, parts = version.manifest, []
    for split in SPLITS:  # JSON in PostgreSQL keeps no order
        if rows := manifest["rows"].get(split):
            name = f"{split}.{manifest['file_type']}"
            part = {"split": split, "name": name, "rows": rows, "prompts": manifest["prompts"][split]}
            parts.append(part | {"sha256": manifest["files"][name]})
    return parts


def lineage_of(*, version: DatasetVersion) -> dict[str, Any]:
    """Return the rounds that learned from a version, the policies they made, and those that came of these."""
    rounds = [
        {"id": str(found.pk), "number": found.number, "state": found.state,
         "policy": found.policy.name if found.policy else None}
        for found in version.rounds.select_related("policy").order_by("number")
    ]  # fmt: skip
    made = list(PolicyVersion.objects.filter(made_by__dataset=version).distinct().order_by("number"))
    descendants: list[PolicyVersion] = []
    generation = made
    while generation:
        children = PolicyVersion.objects.filter(parent__in=generation).order_by("number")
        generation = [child for child in children if child not in made and child not in descendants]
        descendants += generation
    return {
        "rounds": rounds,
        "policies": [policy.name for policy in made],
        "descendants": [policy.name for policy in descendants],
    }


def duplicates_of(*, project: Project) -> DuplicateReport | None:
    """Return the near-duplicates last found; None where nobody looked yet."""
    return DuplicateReport.objects.filter(project=project).first()


def erasures_of(*, project: Project) -> list[dict[str, Any]]:
    """Return what was erased from a project, newest first."""
    return [_erasure(erasure) for erasure in Erasure.objects.filter(project=project)]


def _erasure(erasure: Erasure) -> dict[str, Any]:
    return {
        "id": erasure.pk,
        "kind": erasure.kind,
        "judgments": erasure.judgments,
        "tasks": erasure.tasks,
        "created_at": erasure.created_at.isoformat(),
    }


def erasure_as_json(outcome: ErasureOutcome) -> dict[str, Any]:
    """Return an erasure as the API shows it, dataset versions by number and policies by name."""
    return _erasure(outcome.erasure) | {
        "marked": [version.number for version in outcome.marked],
        "renewed": [version.number for version in outcome.renewed],
        "withdrawn": [version.number for version in outcome.withdrawn],
        "policies": [policy.name for policy in outcome.policies],
    }


def dataset_as_json(*, version: DatasetVersion) -> dict[str, Any]:
    """Return a dataset version as the API shows it."""
    return {
        "id": str(version.pk),
        "project": version.project.slug,
        "number": version.number,
        "format": version.format,
        "options": version.options,
        "content_sha256": version.content_sha256,
        "manifest": version.manifest,
        "tainted_at": version.tainted_at.isoformat() if version.tainted_at else None,
        "taint_reason": version.taint_reason,
        "withdrawn_at": version.withdrawn_at.isoformat() if version.withdrawn_at else None,
        "lineage": lineage_of(version=version),
        "created_at": version.created_at.isoformat(),
    }
