"""What the next task costs with a thousand tasks and with a million, for a newcomer and for somebody with long service.

    python benchmarks/queue_depth.py [--tasks 1000 1000000] [--done 100000] [--calls 300]

Each depth is a project of its own, made by PostgreSQL alone (the million takes some minutes and 2 GB), on services made
for this run. The person with long service has judged the first tasks of the queue, all still open to others, and their
remembered position is forgotten once, as by a restore. Each call reserves a task as an annotator does, and is judged.
Prints one JSON object: milliseconds of the service, without HTTP.
"""

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.load import percentile
from benchmarks.stand import services_of_a_run

# One prompt, two responses and one task a number; ids follow from the number, as only a benchmark's may.
FILL = """
INSERT INTO annotation_prompt (id, project_id, messages, content_sha256, root_sha256, split, language, source,
    external_id, active, times_sampled, created_at)
SELECT md5(%(slug)s || 'p' || n)::uuid, %(project)s,
    jsonb_build_array(jsonb_build_object('role', 'user', 'content', 'Question ' || n || ' of the depth test?')),
    encode(sha256(n::text::bytea), 'hex'), encode(sha256(n::text::bytea), 'hex'), 'train', 'en', '', '', true, 0, now()
FROM generate_series(1, %(tasks)s) n;
INSERT INTO annotation_response (id, prompt_id, text, source, model_name, sampling, finish_reason, created_at)
SELECT md5(%(slug)s || 'r' || n || '.' || k)::uuid, md5(%(slug)s || 'p' || n)::uuid,
    repeat('A response of middle length to a short question. ', 3 + 2 * k), 'imported', 'model-' || k, '{}', '', now()
FROM generate_series(1, %(tasks)s) n, generate_series(0, 1) k;
INSERT INTO annotation_task (id, project_id, prompt_id, kind, state, overlap, reserved, counted, open, priority,
    external_id, created_at)
SELECT md5(%(slug)s || 't' || n)::uuid, %(project)s, md5(%(slug)s || 'p' || n)::uuid, 'normal', 'active', 3, 0, 0, true,
    0, '', now()
FROM generate_series(1, %(tasks)s) n;
INSERT INTO annotation_task_response (task_id, response_id, position)
SELECT md5(%(slug)s || 't' || n)::uuid, md5(%(slug)s || 'r' || n || '.' || k)::uuid, k
FROM generate_series(1, %(tasks)s) n, generate_series(0, 1) k;
"""
# The first of the queue, judged by one person and still open: the worst place to look for what they have not had.
SERVE = """
CREATE TEMPORARY TABLE had AS
SELECT id, gen_random_uuid() AS assignment FROM annotation_task WHERE project_id = %(project)s
ORDER BY position LIMIT %(done)s;
INSERT INTO annotation_assignment (id, task_id, annotator_id, state, created_at, shown_order, protocol_id,
    active_seconds, reason)
SELECT assignment, id, %(annotator)s, 'submitted', now(), '{0,1}', %(protocol)s, 30, '' FROM had;
INSERT INTO annotation_judgment (id, assignment_id, project_id, task_id, annotator_id, origin, ranks, all_bad, ratings,
    flags, rewrites, rationale, surplus, revision, body_sha256, created_at, updated_at, void_reason)
SELECT gen_random_uuid(), assignment, %(project)s, id, %(annotator)s, 'human', '{0,1}', false, '{}', '{}', '{}', '',
    false, 1, '', now(), now(), '' FROM had;
UPDATE annotation_task SET counted = 1 WHERE id IN (SELECT id FROM had);
DROP TABLE had;
"""


def fill(slug: str, tasks: int) -> Any:
    """Make a project of so many tasks, which no service could in the time, and return it."""
    from django.db import connection

    from feedback_app.projects.services import create_project

    project = create_project(slug=slug, overlap=3)
    with connection.cursor() as cursor:
        cursor.execute(FILL, {"slug": slug, "project": project.pk, "tasks": tasks})
        cursor.execute("VACUUM ANALYZE annotation_task, annotation_prompt, annotation_response")
        cursor.execute("VACUUM ANALYZE annotation_task_response")
    return project


def annotator(project: Any, name: str, done: int = 0) -> Any:
    """Return a member who has judged so many tasks of the project."""
    from django.db import connection

    from feedback_app.accounts.services import create_user
    from feedback_app.projects.services import add_member

    user = create_user(username=f"{project.slug}-{name}")
    add_member(project=project, user=user)
    if done:
        values = {"project": project.pk, "annotator": user.pk, "done": done, "protocol": project.protocol_id}
        with connection.cursor() as cursor:
            cursor.execute(SERVE, values)
            cursor.execute("VACUUM ANALYZE annotation_task, annotation_assignment, annotation_judgment")
    return user


def time_next(project: Any, user: Any, calls: int) -> dict[str, Any]:
    """Take and judge so many tasks; returns the first call's milliseconds apart, for it finds the position."""
    from feedback_app.annotation.services import next_task, submit_judgment

    took = []
    for _ in range(calls + 1):
        began = time.perf_counter()
        found = next_task(project=project, annotator=user)
        took.append(1000 * (time.perf_counter() - began))
        if found is None:
            raise RuntimeError("the queue is empty before the measurement ends")
        ranking = [[response["id"]] for response in found.responses]
        submit_judgment(task_id=found.id, annotator=user, body={"ranking": ranking})
    first, rest = took[0], took[1:]
    return {"first_ms": round(first, 2), "p50_ms": _ms(rest, 0.5), "p95_ms": _ms(rest, 0.95)}


def _ms(values: list[float], share: float) -> float | None:
    found = percentile([100 * value for value in values], share)  # two digits, where a load test needs one
    return None if found is None else round(found / 100, 2)


def main() -> int:
    """Make each depth, measure, report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", type=int, nargs="+", default=[1_000, 1_000_000])
    parser.add_argument("--done", type=int, default=100_000)
    parser.add_argument("--calls", type=int, default=300)
    options = parser.parse_args()
    report: dict[str, Any] = {}
    with services_of_a_run():
        for tasks in options.tasks:
            began = time.monotonic()
            project = fill(f"depth-{tasks}", tasks)
            print(f"{tasks} tasks made in {time.monotonic() - began:.0f} s", file=sys.stderr, flush=True)
            measured = {"newcomer": time_next(project, annotator(project, "new"), options.calls)}
            if tasks > options.done + options.calls:
                served = annotator(project, "served", options.done)
                measured[f"after_{options.done}"] = time_next(project, served, options.calls)
            report[str(tasks)] = measured
    print(json.dumps(report, indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main())
