"""Bring a file into a project from the command line."""

import json
import sys
from argparse import ArgumentParser
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from django.core.exceptions import ValidationError
from django.core.management.base import BaseCommand, CommandError

from feedback_app.datasets.formats.imports import IMPORT_FORMATS
from feedback_app.datasets.models import ImportJob
from feedback_app.datasets.selectors import import_as_json, refused_rows
from feedback_app.datasets.services import run_import, start_import
from feedback_app.projects.models import Project

SHOWN = 20


class Command(BaseCommand):
    help = "Import a file: prints the outcome as JSON; refused rows, with line and reason, go to standard error."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("project")
        parser.add_argument(
            "file", help="JSON lines, a JSON array, CSV or Parquet, packed with gzip or not; - is standard input"
        )
        parser.add_argument("--format", default="judged", choices=list(IMPORT_FORMATS))
        parser.add_argument(
            "--map",
            action="append",
            default=[],
            metavar="THEIRS=OURS",
            help="a column, and our name for it",
        )
        parser.add_argument("--dry-run", action="store_true", help="report what the import would do, and store nothing")

    def handle(self, *args: Any, **options: Any) -> None:
        project = Project.objects.select_related("protocol").filter(slug=options["project"]).first()
        if project is None:
            raise CommandError(f"project: there is no {options['project']!r}")
        chosen = {"format": options["format"], "mapping": ",".join(options["map"]), "dry_run": options["dry_run"]}
        job = self._run(project, options["file"], chosen)
        for row in refused_rows(job=job)[:SHOWN]:
            self.stderr.write(f"line {row.line}: {row.reason}")
        if job.rows_refused > SHOWN:
            self.stderr.write(f"and {job.rows_refused - SHOWN} more rows refused")
        if job.state != ImportJob.State.DONE:
            raise CommandError(f"{options['file']}: {job.error}")
        self.stdout.write(json.dumps(import_as_json(job=job), ensure_ascii=False))

    def _run(self, project: Project, file: str, chosen: dict[str, Any]) -> ImportJob:
        try:
            with nullcontext(sys.stdin.buffer) if file == "-" else Path(file).open("rb") as content:
                name = "rows.jsonl" if file == "-" else Path(file).name
                job = start_import(project=project, file_name=name, content=content, requested_by=None, **chosen)
        except OSError as error:
            raise CommandError(f"{file}: {error.strerror}") from error
        except ValidationError as error:
            raise CommandError("; ".join(error.messages)) from error
        done = run_import(job_id=job.pk)
        if done is None:  # a worker was quicker than we were
            raise CommandError(f"import {job.pk}: a worker has taken it; see its progress in the project")
        return done
