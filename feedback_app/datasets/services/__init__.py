"""Writes to datasets: imports and dataset versions."""

from feedback_app.datasets.services.imports import claim_import, run_import, start_import, waiting_imports
from feedback_app.datasets.services.versions import create_dataset_version, folder_of, split_files, verify_dataset

__all__ = [
    "claim_import",
    "create_dataset_version",
    "folder_of",
    "run_import",
    "split_files",
    "start_import",
    "verify_dataset",
    "waiting_imports",
]
