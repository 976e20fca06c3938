"""Writes to datasets: imports and dataset versions."""

from feedback_app.datasets.services.imports import claim_import, run_import, start_import, waiting_imports

__all__ = ["claim_import", "run_import", "start_import", "waiting_imports"]
