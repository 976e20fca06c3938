"""What the data browser reads that takes longer than a page may: the search's index, and the near-duplicates.

The index is made after the tasks, in batches: no signal writes it.
"""

import json
from typing import Any

from django.db import connection

from feedback_app.datasets.copying import copy_rows
from feedback_app.datasets.duplicates import find_duplicates
from feedback_app.datasets.models import DuplicateReport
from feedback_app.datasets.tokens import tokens_of
from feedback_app.projects.models import Project

BATCH = 2000
MISSING = """
SELECT task.id, prompt.messages,
       (SELECT coalesce(json_agg(response.text ORDER BY place.position), '[]')
        FROM annotation_task_response place JOIN annotation_response response ON response.id = place.response_id
        WHERE place.task_id = task.id) AS texts
FROM annotation_task task
JOIN annotation_prompt prompt ON prompt.id = task.prompt_id
WHERE {scope} NOT EXISTS (SELECT 1 FROM datasets_example_index known WHERE known.task_id = task.id)
LIMIT %(limit)s
"""
LOCK_SPACE = 0x73726368  # "srch"


def index_examples(*, project: Project | None = None, most: int = 20_000) -> int:
    """Index tasks that have no entry yet, of one project or of all, and return how many.

    One process at a time does; another finds nothing to do meanwhile.
    """
    done = 0
    scope = "task.project_id = %(project)s AND" if project is not None else ""
    values = {"project": project.pk if project is not None else None}
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_try_advisory_lock(%s, 0)", [LOCK_SPACE])
        if not cursor.fetchone()[0]:
            return 0
        try:
            while done < most:
                cursor.execute(MISSING.format(scope=scope), values | {"limit": min(BATCH, most - done)})
                if not (rows := cursor.fetchall()):
                    break
                copy_rows("datasets_example_index", ("task_id", "tokens"), map(_entry, rows))
                done += len(rows)
        finally:
            cursor.execute("SELECT pg_advisory_unlock(%s, 0)", [LOCK_SPACE])
    return done


def _entry(row: tuple[Any, Any, Any]) -> tuple[str, str]:
    task_id, messages, texts = row
    said = [message["content"] for message in _read(messages)] + _read(texts)
    tokens: set[str] = set().union(*map(tokens_of, said))
    # Tokens are letters and digits alone: nothing in them needs a quote in an array.
    return str(task_id), "{" + ",".join(f'"{token}"' for token in sorted(tokens)) + "}"


def _read(value: Any) -> Any:
    return json.loads(value) if isinstance(value, str) else value


def measure_duplicates(*, project: Project, threshold: float = 0.8) -> DuplicateReport:
    """Look for near-duplicates among a project's prompts and keep the report; see find_duplicates."""
    report = find_duplicates(project=project, threshold=threshold)
    kept, _made = DuplicateReport.objects.update_or_create(project=project, defaults={"report": report})
    return kept
