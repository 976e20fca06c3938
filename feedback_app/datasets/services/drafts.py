"""Files that are looked at before they are imported: their first rows, a dry run, and then the import itself."""

from dataclasses import dataclass, field
from datetime import timedelta
from itertools import islice
from typing import Any

from django.core.exceptions import ValidationError
from django.db import transaction
from django.db.models.functions import Now
from django.utils import timezone
from django.utils.translation import gettext as _

from feedback_app.datasets.formats.base import FileRefused
from feedback_app.datasets.formats.imports import IMPORT_FORMATS
from feedback_app.datasets.mapping import columns_of, parse_mapping
from feedback_app.datasets.models import ImportJob, RefusedRow
from feedback_app.datasets.reading import RowReader
from feedback_app.datasets.rows import Row
from feedback_app.datasets.services.imports import file_of, parse_rows, project_protocol, rows_of

PREVIEWED = 20
KEPT_FOR = timedelta(days=1)


@dataclass(frozen=True)
class Preview:
    """The first rows of a file as they would be read; broken is why the file cannot be read on.

    columns: those of the file's own rows, for a mapping to choose from.
    """

    rows: list[Row]
    refused: list[tuple[int, str]]
    broken: str = ""
    more: bool = False
    columns: list[str] = field(default_factory=list)


def preview_import(*, job: ImportJob) -> Preview:
    """Read the first rows of a draft's file by its format, and store nothing."""
    _reader, source = rows_of(job)
    taken, broken = [], ""
    try:
        for row in islice(source, PREVIEWED + 1):
            taken.append(row)
    except FileRefused as error:
        broken = str(error)
    good, refused = parse_rows(taken[:PREVIEWED], project_protocol(job.project))
    return Preview(rows=good, refused=refused, broken=broken, more=len(taken) > PREVIEWED, columns=_columns(job))


def _columns(job: ImportJob) -> list[str]:
    try:
        return columns_of(islice(RowReader(file_of(job), name=job.file_name), PREVIEWED))
    except FileRefused:
        return []  # the preview says why


def set_draft_format(*, job: ImportJob, format: str, mapping: Any = None) -> None:
    """Read a draft as another format, by another mapping, from now on; None keeps the mapping.

    Raises:
        ValidationError: the format is unknown or the mapping malformed.
    """
    if format not in IMPORT_FORMATS:
        raise ValidationError({"format": [_("one of %(names)s") % {"names": ", ".join(IMPORT_FORMATS)}]})
    options = job.options if mapping is None else {**job.options, "mapping": parse_mapping(mapping)}
    draft = ImportJob.objects.filter(pk=job.pk, state=ImportJob.State.DRAFT)
    if draft.update(format=format, dry_run=False, options=options):
        job.format, job.dry_run, job.options = format, False, options


@transaction.atomic
def queue_draft(*, job: ImportJob, dry_run: bool) -> bool:
    """Queue a draft's import or its dry run from the first row; False where it is no draft any more."""
    queued = ImportJob.objects.filter(pk=job.pk, state=ImportJob.State.DRAFT).update(
        state=ImportJob.State.QUEUED, dry_run=dry_run, rows_read=0, rows_new=0, rows_known=0, rows_refused=0,
        bytes_read=0, error="", finished_at=None, created_at=timezone.now(),
    )  # fmt: skip
    if queued:
        RefusedRow.objects.filter(job=job).delete()
    return bool(queued)


def discard_draft(*, job: ImportJob) -> None:
    """Forget a draft and its file."""
    if ImportJob.objects.filter(pk=job.pk, state=ImportJob.State.DRAFT).delete()[0]:
        file_of(job).unlink(missing_ok=True)


def forget_drafts() -> int:
    """Discard the drafts that nobody came back to, and return how many."""
    stale = list(ImportJob.objects.filter(state=ImportJob.State.DRAFT, created_at__lt=Now() - KEPT_FOR))
    for job in stale:
        discard_draft(job=job)
    return len(stale)
