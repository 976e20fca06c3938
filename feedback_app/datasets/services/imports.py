"""Import jobs: the row is the queue, a worker claims it by a lease, and every batch lands whole or not at all."""

import gc
import io
import json
import shutil
from collections.abc import Generator, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import timedelta
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import IO, Any
from uuid import UUID

from django.conf import settings
from django.core.exceptions import ValidationError
from django.db import transaction
from django.db.models import F
from django.db.models.functions import Now
from django.utils import translation
from django.utils.translation import gettext as _

from feedback_app.accounts.models import User
from feedback_app.accounts.services import record_audit
from feedback_app.datasets.formats.base import FileRefused, RowRefused, SourceRow
from feedback_app.datasets.formats.imports import IMPORT_FORMATS
from feedback_app.datasets.loading import Loader
from feedback_app.datasets.mapping import map_rows, parse_mapping
from feedback_app.datasets.models import ImportJob, RefusedRow
from feedback_app.datasets.places import Loaded
from feedback_app.datasets.reading import RowReader
from feedback_app.datasets.rehearsing import Rehearsal
from feedback_app.datasets.rows import Row, imported_protocol, parse_row
from feedback_app.leases import claim, claimable
from feedback_app.projects.models import Project
from feedback_app.projects.protocols import Protocol, parse_protocol

BATCH = 2500
# A batch's rows are held in memory at once: large ones make smaller batches.
BATCH_BYTES = 8 * 2**20
# Lists, dicts and rows that a batch comes to, about: Python looks for lost ones among as many new ones.
OBJECTS_OF_A_BATCH = 50_000
LEASE = timedelta(seconds=120)
# More lines of a report than anybody reads; the count goes on.
MOST_REFUSED_KEPT = 100_000


class LeaseLost(Exception):
    """Another worker has taken the job over: this one writes nothing more."""


def start_import(
    *,
    project: Project,
    format: str,
    file_name: str,
    content: IO[bytes],
    requested_by: User | None,
    state: ImportJob.State = ImportJob.State.QUEUED,
    mapping: Any = None,
    dry_run: bool = False,
) -> ImportJob:
    """Keep a file and queue its import; the caller rings a worker, or calls run_import. As a draft it waits.

    mapping: their columns by our names for them, as parse_mapping takes it.
    dry_run: report what the import would come to, and store nothing; its file goes when it is done.

    Raises:
        ValidationError: the format is unknown, the mapping malformed or the project archived.
    """
    if format not in IMPORT_FORMATS:
        raise ValidationError({"format": [_("one of %(names)s") % {"names": ", ".join(IMPORT_FORMATS)}]})
    if project.archived_at is not None:
        raise ValidationError({"project": [_("is archived")]})
    name = PurePosixPath(file_name.replace("\\", "/")).name[-200:] or "rows.jsonl"
    options: dict[str, Any] = {"mapping": parse_mapping(mapping)} if mapping else {}
    job = ImportJob(
        project=project, format=format, file_name=name, requested_by=requested_by, state=state, options=options,
        dry_run=dry_run,
    )  # fmt: skip
    if dry_run:
        job.options["once"] = True
    if (language := translation.get_language()) and language != settings.LANGUAGE_CODE:
        job.options["language"] = language  # of whoever will read the report
    job.path = f"imports/{job.pk}"
    path = file_of(job)
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with path.open("wb") as kept:
            shutil.copyfileobj(content, kept, 2**20)
        job.bytes_total = path.stat().st_size
        with transaction.atomic():
            job.save(force_insert=True)
            record_audit(
                actor=requested_by, action="import.start", subject=name, project_slug=project.slug,
                detail={"format": format, "job": str(job.pk), "dry_run": dry_run},
            )  # fmt: skip
    except BaseException:
        path.unlink(missing_ok=True)
        raise
    return job


def file_of(job: ImportJob) -> Path:
    """Return where the job's file is kept."""
    return Path(settings.DATA_DIR) / job.path


def waiting_imports() -> list[UUID]:
    """Return the jobs that wait for a worker: queued ones, and running ones whose worker is gone."""
    return list(ImportJob.objects.filter(claimable()).values_list("pk", flat=True))


def claim_import(*, job_id: UUID) -> ImportJob | None:
    """Take a waiting job; None where another worker has it or it has ended."""
    return claim(ImportJob.objects.filter(pk=job_id).select_related("project__protocol"), lease=LEASE)


def run_import(*, job_id: UUID) -> ImportJob | None:
    """Do a job to its end and return it; None where another worker has it.

    A job taken over goes on after the last batch that landed. A file that cannot be read on ends as failed, with the
    reason in the job; what landed before stands.
    """
    job = claim_import(job_id=job_id)
    if job is None:
        return None
    try:
        with translation.override(job.options.get("language", settings.LANGUAGE_CODE)):
            _import_all(job)
    except LeaseLost:
        return None
    except FileRefused as error:
        _finish(job, ImportJob.State.FAILED, str(error))
    except Exception as error:
        _finish(job, ImportJob.State.FAILED, f"{type(error).__name__}: {error}")
        raise
    else:
        # A dry run asked for on a page leaves its file for the import that may follow.
        kept = job.dry_run and not job.options.get("once")
        _finish(job, ImportJob.State.DRAFT if kept else ImportJob.State.DONE)
    return job


def _import_all(job: ImportJob) -> None:
    if job.dry_run:
        _start_over(job)
    loader = (Rehearsal if job.dry_run else Loader)(project=job.project)
    with closing(_ahead(_parsed_batches(job))) as batches, _collecting_only_new():
        for batch in batches:
            with transaction.atomic():
                loaded = loader.load(batch.good)
                loaded.refused += batch.refused
                _record(job, read=batch.read, loaded=loaded, bytes_read=batch.bytes_read)


@contextmanager
def _collecting_only_new() -> Iterator[None]:
    """Let Python's collector pass over what was there before, and come by the batch: every few rows it walked all of
    them, in a fifth of the time, and of the rows of two batches in a tenth."""
    before = gc.get_threshold()
    gc.freeze()
    gc.set_threshold(OBJECTS_OF_A_BATCH, *before[1:])
    try:
        yield
    finally:
        gc.set_threshold(*before)
        gc.unfreeze()


def _start_over(job: ImportJob) -> None:
    """Begin a dry run anew: of one that was taken over, what its earlier batches held is known to nobody any more."""
    job.rows_read = job.rows_refused = 0
    with transaction.atomic():
        ImportJob.objects.filter(pk=job.pk, fence=job.fence).update(
            rows_read=0, rows_new=0, rows_known=0, rows_refused=0, bytes_read=0
        )
        RefusedRow.objects.filter(job=job).delete()


@dataclass(frozen=True)
class _Batch:
    """Rows that were read together: those that can be stored, and the line and reason of each that cannot."""

    good: list[Row]
    refused: list[tuple[int, str]]
    read: int
    bytes_read: int


def _parsed_batches(job: ImportJob) -> Iterator[_Batch]:
    """Yield the rest of a job's rows; asks nothing of the database once it has begun."""
    protocol = project_protocol(job.project)
    reader, rows = rows_of(job)

    def batches() -> Iterator[_Batch]:
        for batch in in_batches(islice(rows, job.rows_read, None), reader):
            good, refused = parse_rows(batch, protocol)
            yield _Batch(good, refused, len(batch), reader.bytes_read)

    return batches()


def _ahead(batches: Iterator[_Batch]) -> Generator[_Batch]:
    """Yield batches, and read the next while PostgreSQL stores the last: each takes about as long as the other."""
    language = translation.get_language() or settings.LANGUAGE_CODE  # each thread has its own
    with ThreadPoolExecutor(1, "import", initializer=translation.activate, initargs=(language,)) as reading:
        following = reading.submit(next, batches, None)
        while (batch := following.result()) is not None:
            following = reading.submit(next, batches, None)
            yield batch


def rows_of(job: ImportJob) -> tuple[RowReader, Iterator[SourceRow]]:
    """Return the reader of a job's file, and its rows as judged rows, columns mapped."""
    reader = RowReader(file_of(job), name=job.file_name)
    return reader, IMPORT_FORMATS[job.format](map_rows(reader, job.options.get("mapping", {})))


def project_protocol(project: Project) -> Protocol:
    """Return the protocol that imported verdicts of a project must fit."""
    if project.protocol is None:
        raise ValidationError({"project": [_("has no protocol")]})
    return imported_protocol(parse_protocol(project.protocol.spec))


def in_batches(rows: Iterator[SourceRow], reader: RowReader) -> Iterator[list[SourceRow]]:
    """Group a reader's rows by number and by what they took in the file, whatever a converter made of them.

    A file that breaks off gives up what it had first, then the reason.
    """
    batch: list[SourceRow] = []
    before = reader.unpacked
    try:
        for row in rows:
            batch.append(row)
            if len(batch) >= BATCH or reader.unpacked - before >= BATCH_BYTES:
                yield batch
                batch, before = [], reader.unpacked
    except FileRefused:
        if batch:
            yield batch
        raise
    if batch:
        yield batch


def parse_rows(batch: Iterable[SourceRow], protocol: Protocol) -> tuple[list[Row], list[tuple[int, str]]]:
    """Return the rows that can be stored, and the line and reason of each that cannot."""
    good, refused = [], []
    for source in batch:
        if source.problem:
            refused.append((source.line, source.problem))
            continue
        try:
            good.append(parse_row(source.line, source.value, protocol=protocol))
        except RowRefused as error:
            refused.append((source.line, str(error)))
    return good, refused


def _record(job: ImportJob, *, read: int, loaded: Loaded, bytes_read: int) -> None:
    """Write a batch's outcome beside its rows, in their transaction; only the newest fence writes."""
    room = max(0, MOST_REFUSED_KEPT - job.rows_refused)
    RefusedRow.objects.bulk_create(
        RefusedRow(job=job, line=line, reason=reason[:1000]) for line, reason in sorted(loaded.refused)[:room]
    )
    written = ImportJob.objects.filter(pk=job.pk, fence=job.fence).update(
        rows_read=F("rows_read") + read,
        rows_new=F("rows_new") + loaded.new,
        rows_known=F("rows_known") + loaded.known,
        rows_refused=F("rows_refused") + len(loaded.refused),
        bytes_read=bytes_read,
        lease_until=Now() + LEASE,
    )
    if not written:
        raise LeaseLost
    job.rows_refused += len(loaded.refused)


def _finish(job: ImportJob, state: ImportJob.State, error: str = "") -> None:
    with transaction.atomic():
        changes: dict[str, Any] = {"state": state, "error": error, "finished_at": Now(), "lease_until": None}
        if state in (ImportJob.State.DONE, ImportJob.State.DRAFT):
            changes["bytes_read"] = F("bytes_total")
        if not ImportJob.objects.filter(pk=job.pk, fence=job.fence).update(**changes):
            return
        job.refresh_from_db()
        record_audit(
            actor=job.requested_by, action=f"import.{'dry_run' if job.dry_run else state}", subject=job.file_name,
            project_slug=job.project.slug,
            detail={"job": str(job.pk), "new": job.rows_new, "refused": job.rows_refused, "error": error[:300]},
        )  # fmt: skip
    if state != ImportJob.State.DRAFT:
        file_of(job).unlink(missing_ok=True)


def rows_as_file(rows: Iterable[Any]) -> IO[bytes]:
    """Return rows of a JSON request as the file of JSON lines that an import reads."""
    return io.BytesIO(b"".join(json.dumps(row).encode() + b"\n" for row in rows))
