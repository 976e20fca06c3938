"""Writes to datasets: imports and dataset versions."""

from feedback_app.datasets.services.drafts import (
    Preview,
    discard_draft,
    forget_drafts,
    preview_import,
    queue_draft,
    set_draft_format,
)
from feedback_app.datasets.services.erasing import ErasureOutcome, erase_from_project
from feedback_app.datasets.services.imports import claim_import, rows_as_file, run_import, start_import, waiting_imports
from feedback_app.datasets.services.marking import mark_if_holding, mark_versions_of_voided
from feedback_app.datasets.services.searching import index_examples, measure_duplicates
from feedback_app.datasets.services.version_jobs import (
    request_version,
    run_version_job,
    sweep_abandoned,
    waiting_versions,
)
from feedback_app.datasets.services.versions import (
    as_zip,
    create_dataset_version,
    file_names,
    folder_of,
    split_files,
    verify_dataset,
)

__all__ = [
    "ErasureOutcome",
    "Preview",
    "as_zip",
    "claim_import",
    "create_dataset_version",
    "discard_draft",
    "erase_from_project",
    "file_names",
    "folder_of",
    "forget_drafts",
    "index_examples",
    "mark_if_holding",
    "mark_versions_of_voided",
    "measure_duplicates",
    "preview_import",
    "queue_draft",
    "request_version",
    "rows_as_file",
    "run_import",
    "run_version_job",
    "set_draft_format",
    "split_files",
    "start_import",
    "sweep_abandoned",
    "verify_dataset",
    "waiting_imports",
    "waiting_versions",
]
