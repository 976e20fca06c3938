"""Judged rows for tests of imports and exports: three annotators, ties, five models, as PandaLM's file has them."""

import io
import json
from typing import Any

from feedback_app.accounts.models import User
from feedback_app.datasets.models import ImportJob
from feedback_app.datasets.services import run_import, start_import
from feedback_app.projects.models import Project

# The verdicts of three annotators on each of these rows: 1, 2, or 0 for a tie.
VERDICTS = [
    (1, 1, 1),
    (2, 2, 2),
    (1, 2, 1),
    (0, 0, 1),
    (2, 2, 0),
    (1, 1, 2),
    (0, 0, 0),
    (2, 1, 2),
    (1, 1, 1),
    (2, 2, 1),
]
RANKINGS: dict[int, list[list[int]]] = {1: [[0], [1]], 2: [[1], [0]], 0: [[0, 1]]}


def judged_row(number: int, **more: Any) -> dict[str, Any]:
    """Return one row; more replaces fields."""
    verdicts = VERDICTS[number % len(VERDICTS)]
    return {
        "prompt": f"Question {number}?",
        "responses": [{"text": f"Yes {number}.", "model": "llama"}, {"text": f"No {number}.", "model": "bloom"}],
        "judgments": [
            {"annotator": f"annotator{index}", "ranking": RANKINGS[verdict]}
            for index, verdict in enumerate(verdicts, start=1)
        ],
    } | more


def judged_rows(count: int = 10) -> list[dict[str, Any]]:
    """Return rows of which no two are alike."""
    return [judged_row(number) for number in range(count)]


def as_lines(rows: list[Any]) -> bytes:
    """Return rows as JSON lines."""
    return b"".join(json.dumps(row).encode() + b"\n" for row in rows)


def run_rows(
    project: Project,
    rows: list[Any] | bytes,
    *,
    format: str = "judged",
    name: str = "rows.jsonl",
    by: User | None = None,
    **more: Any,
) -> ImportJob:
    """Import rows, or a file's bytes, and return the ended job; more are start_import's: mapping, dry_run."""
    content = rows if isinstance(rows, bytes) else as_lines(rows)
    job = start_import(
        project=project, format=format, file_name=name, content=io.BytesIO(content), requested_by=by, **more
    )
    done = run_import(job_id=job.pk)
    assert done is not None
    return done


def refusals(job: ImportJob) -> dict[int, str]:
    """Return the reasons of a job's refused rows by line."""
    return dict(job.refused_rows.values_list("line", "reason"))
