"""How fast judged rows come in and go out, in how much memory, against what PostgreSQL's COPY does by itself.

    python manage.py shell is not needed: python benchmarks/datasets.py --rows 20000

Prints one JSON object. Rows are made up: a prompt of some 200 characters, two responses of some 500. The project it
makes is removed again. Label Studio 1.23.2, measured on the same kind of machine, imports 4,000 tasks/s and exports
508 judgments/s with memory that grows.

Rates are of the clock and need a quiet machine. *_cpu_us are microseconds of processor time a row, of Python and of the
PostgreSQL process that serves it: these hold on a busy one too, within a fifth.
"""

import argparse
import json
import os
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import psutil

ROOT = Path(__file__).resolve().parent.parent
WORDS = ("the", "of", "and", "to", "in", "is", "you", "that", "it", "was", "for", "on", "are", "as", "with", "his")
# In an order in which each names only what stands before it.
TABLES = ("annotation_prompt", "annotation_response", "annotation_task", "annotation_task_response",
          "annotation_assignment", "annotation_judgment")  # fmt: skip
# All of their columns are held in memory for the comparison: 4 kB a row.
MOST_HELD = 200_000
LABEL_STUDIO = {"import_tasks_per_s": 4000, "export_judgments_per_s": 508}


def words(seed: int, count: int) -> str:
    """Return text that no other seed gives."""
    return f"{seed} " + " ".join(WORDS[(seed * 7 + place * place) % len(WORDS)] for place in range(count))


def write_rows(path: Path, rows: int, *, judged: bool) -> None:
    """Write judged rows, one judgment each, or none."""
    with path.open("w", encoding="utf-8") as file:
        for number in range(rows):
            row: dict[str, Any] = {
                "prompt": words(number, 45),
                "responses": [{"text": words(number + side, 110), "model": f"m{side}"} for side in (0, 1)],
            }
            if judged:
                ranking = [[0], [1]] if number % 3 else [[1], [0]]
                row["judgments"] = [{"annotator": f"a{number % 16}", "ranking": ranking}]
            file.write(json.dumps(row) + "\n")


def timed(work: Callable[[], int]) -> tuple[float, int]:
    """Return the seconds that work took and what it returned."""
    began = time.perf_counter()
    result = work()
    return time.perf_counter() - began, result


class Meter:
    """Takes the processor time of this process and of its PostgreSQL server process."""

    def __init__(self) -> None:
        from django.db import connection

        with connection.cursor() as cursor:
            cursor.execute("SELECT pg_backend_pid()")
            self._server = psutil.Process(cursor.fetchone()[0])
        self._began = self._now()

    def _now(self) -> tuple[float, float]:
        server = self._server.cpu_times()
        return time.process_time(), server.user + server.system

    def per_row(self, rows: int) -> dict[str, float]:
        """Return the microseconds a row since the meter was made; of a server on another machine there is none."""
        spent = [after - before for after, before in zip(self._now(), self._began, strict=True)]
        return {
            name: round(seconds / rows * 1e6, 1) for name, seconds in zip(("python", "postgres"), spent, strict=True)
        }


def peak_mb() -> float:
    """Return the most memory that this process has had, in MB."""
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1 if sys.platform == "darwin" else 1024), 1)


def measure(rows: int, folder: Path) -> dict[str, Any]:
    """Import and export a project of so many tasks, and say how it went."""
    from django.db import connection

    from feedback_app.datasets.exporting.options import parse_options
    from feedback_app.datasets.exporting.rows import prepare_export
    from feedback_app.datasets.exporting.writing import write_pieces
    from feedback_app.datasets.services import run_import, start_import
    from feedback_app.projects.services import create_project

    report: dict[str, Any] = {"rows": rows, "label_studio": LABEL_STUDIO, "memory_before_mb": peak_mb()}

    def bring(path: Path, slug: str) -> tuple[Any, float]:
        project = create_project(slug=slug)
        with path.open("rb") as content:
            job = start_import(
                project=project, format="judged", file_name=path.name, content=content, requested_by=None
            )
        seconds, new = timed(lambda: (run_import(job_id=job.pk) or job).rows_new)
        if new != rows:
            raise RuntimeError(f"{new} of {rows} rows came in")
        return project, seconds

    with connection.cursor() as cursor:
        cursor.execute("ANALYZE")
    for name, judged in (("tasks", False), ("judged_rows", True)):
        path = folder / f"{name}.jsonl"
        write_rows(path, rows, judged=judged)
        meter = Meter()
        project, seconds = bring(path, f"bench-{os.getpid()}-{name.replace('_', '-')}")
        report[f"import_{name}_per_s"] = round(rows / seconds)
        report[f"import_{name}_cpu_us"] = meter.per_row(rows)
    report["memory_after_imports_mb"] = peak_mb()
    with connection.cursor() as cursor:
        cursor.execute("ANALYZE")
    for format in ("judgments", "preference"):
        for file_type in ("jsonl", "parquet", "csv"):
            export = prepare_export(project=project, format=format, options=parse_options({"split": "all"}))
            as_text = export.format.as_text

            def write(export: Any = export, file_type: str = file_type, as_text: Any = as_text) -> int:
                lines = (line for _, line in export.lines())
                pieces = write_pieces(lines, file_type=file_type, schema=export.schema, as_text=as_text)
                return sum(map(len, pieces))

            meter = Meter()
            seconds, size = timed(write)
            report[f"export_{format}_{file_type}_per_s"] = round(rows / seconds)
            report[f"export_{format}_{file_type}_cpu_us"] = meter.per_row(rows)
            report[f"export_{format}_{file_type}_mb"] = round(size / 2**20, 1)
    report["memory_after_exports_mb"] = peak_mb()
    report |= copy_alone(project.pk, rows)
    if rows <= MOST_HELD:
        report |= floor_of_imports(project.pk, rows)
    # Of one run on one machine: these compare, the rates themselves only orient.
    report["ratios"] = {
        "export_judgments_to_copy": report["export_judgments_jsonl_per_s"] / report["copy_out_judgments_per_s"],
        "export_judgments_to_copy_of_all_tables": (
            report["export_judgments_jsonl_per_s"] / report["copy_out_rows_per_s"]
        ),
        "import_judged_rows_to_copy_into_bare_tables": (
            report["import_judged_rows_per_s"] / report["copy_in_bare_rows_per_s"]
        ),
        "export_to_label_studio": report["export_judgments_jsonl_per_s"] / LABEL_STUDIO["export_judgments_per_s"],
        "import_to_label_studio": report["import_tasks_per_s"] / LABEL_STUDIO["import_tasks_per_s"],
    }
    report["ratios"] = {name: round(ratio, 2) for name, ratio in report["ratios"].items()}
    return report


def copy_alone(project: int, rows: int) -> dict[str, Any]:
    """Return the rate of PostgreSQL's COPY for the rows of this project with nothing done to them, in judged rows.

    Out: the rows of all their tables into files, and judgments beside their texts as one statement. In: these files
    into bare tables of the same columns, without an index, a constraint or a foreign key. In flat memory.
    """
    from django.db import connection, transaction

    def beside_texts() -> int:
        query = (
            "COPY (SELECT j.*, r.text FROM annotation_judgment j JOIN annotation_task_response p USING (task_id)"
            " JOIN annotation_response r ON r.id = p.response_id WHERE j.project_id = %s) TO STDOUT"
        )
        with connection.cursor() as cursor, cursor.copy(query, [project]) as copy:
            return sum(len(row) for row in copy)

    def out(folder: Path) -> int:
        for table in TABLES:
            with (
                connection.cursor() as cursor,
                cursor.copy(query_of(table), [project]) as copy,
                (folder / table).open("wb") as file,
            ):
                file.writelines(copy)
        return 0

    def back(folder: Path) -> int:
        with connection.cursor() as cursor:
            for table in TABLES:
                cursor.execute(f"CREATE TABLE bench_{table} (LIKE {table})")
                with (folder / table).open("rb") as file, cursor.copy(f"COPY bench_{table} FROM STDIN") as copy:
                    while piece := file.read(2**16):
                        copy.write(piece)
        return 0

    report: dict[str, Any] = {"copy_out_judgments_per_s": round(rows / timed(beside_texts)[0])}
    with tempfile.TemporaryDirectory() as name, transaction.atomic():
        folder = Path(name)
        for direction, work in (("out", out), ("in_bare", back)):
            meter = Meter()
            report[f"copy_{direction}_rows_per_s"] = round(rows / timed(partial(work, folder))[0])
            report[f"copy_{direction}_cpu_us"] = meter.per_row(rows)
        transaction.set_rollback(True)
    return report


def floor_of_imports(project: int, rows: int) -> dict[str, Any]:
    """Return what PostgreSQL takes for the same judged rows by COPY alone, into the same tables with their indexes:
    each foreign key looked up, and by the batch as imports have it (where the database's user may).

    The project's rows are gone after it.
    """
    from django.db import connection, transaction

    from feedback_app.datasets.copying import keys_by_the_batch

    held = {table: rows_held(table, project) for table in TABLES}
    with connection.cursor() as cursor:
        empty(cursor, f"bench-{os.getpid()}-judged-rows")
    report = {}
    for name, keys in (("keys_each", nullcontext), ("keys_by_the_batch", keys_by_the_batch)):
        with connection.cursor() as cursor:
            cursor.execute(f"VACUUM {', '.join(TABLES)}")
        with transaction.atomic(), connection.cursor() as cursor:
            meter = Meter()
            with keys():
                for table in TABLES:
                    with cursor.copy(f"COPY {table} FROM STDIN") as copy:
                        copy.write(held[table])
            cursor.execute("SET CONSTRAINTS ALL IMMEDIATE")
            report[f"copy_judged_rows_{name}_cpu_us"] = meter.per_row(rows)
            transaction.set_rollback(True)
    return report


def query_of(table: str) -> str:
    """Return the COPY of a project's rows of a table, in the order of their tasks."""
    keys = {"annotation_prompt": ("id", "prompt_id"), "annotation_response": ("prompt_id", "prompt_id"),
            "annotation_task": ("id", "id")}  # fmt: skip
    mine, theirs = keys.get(table, ("task_id", "id"))
    return (
        f"COPY (SELECT t.* FROM {table} t JOIN annotation_task task ON t.{mine} = task.{theirs}"
        " WHERE task.project_id = %s ORDER BY task.position) TO STDOUT"
    )


def rows_held(table: str, project: int) -> bytes:
    """Return a project's rows of a table as COPY writes them."""
    from django.db import connection

    with connection.cursor() as cursor, cursor.copy(query_of(table), [project]) as copy:
        return b"".join(map(bytes, copy))


def clean_up(prefix: str) -> None:
    """Remove the projects of this run and everything in them."""
    from django.db import connection

    from feedback_app.projects.models import Project

    with connection.cursor() as cursor:
        empty(cursor, prefix)

    for project in Project.objects.filter(slug__startswith=prefix):
        Project.objects.filter(pk=project.pk).update(protocol=None, guidelines=None)
        project.delete()


def empty(cursor: Any, prefix: str) -> None:
    """Delete the annotation rows of the projects whose slug begins so."""
    theirs = "project_id IN (SELECT id FROM projects_project WHERE slug LIKE %s)"
    by_task = f"task_id IN (SELECT id FROM annotation_task WHERE {theirs})"
    for table in ("datasets_example_index", *reversed(TABLES)):
        scope = {
            "datasets_example_index": by_task,
            "annotation_assignment": by_task,
            "annotation_task_response": by_task,
            "annotation_response": f"prompt_id IN (SELECT id FROM annotation_prompt WHERE {theirs})",
        }.get(table, theirs)
        cursor.execute(f"DELETE FROM {table} WHERE {scope}", [f"{prefix}%"])  # names of our own


def services() -> Any:
    """Return what holds the embedded services up, where no database is given."""
    if "DATABASE_URL" in os.environ:
        return nullcontext()
    from feedback_app.embedded.services import hold_services

    return hold_services(Path(os.environ.get("DATA_DIR", "var")).resolve())


def main() -> Iterator[str]:
    """Yield the report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=20_000)
    rows = parser.parse_args().rows
    sys.path.insert(0, str(ROOT))
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "feedback_app.settings")
    with services(), tempfile.TemporaryDirectory() as folder:
        import django

        django.setup()
        if "DATABASE_URL" not in os.environ:
            from feedback_app.embedded.migrations import migrate_embedded

            migrate_embedded()
        try:
            yield json.dumps(measure(rows, Path(folder)), indent=2)
        finally:
            clean_up(f"bench-{os.getpid()}-")


if __name__ == "__main__":
    for line in main():
        print(line)
