"""Take a project's judgments away from the command line."""

import os
from argparse import ArgumentParser
from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from feedback_app.datasets.exporting.options import SPLITS, OptionsError, parse_options
from feedback_app.datasets.exporting.rows import prepare_export
from feedback_app.datasets.exporting.writing import FILE_TYPES, write_pieces
from feedback_app.datasets.formats.exports import EXPORT_FORMATS
from feedback_app.projects.models import Project


class Command(BaseCommand):
    help = "Export a project and print the number of rows; a trainer's file is the train split alone, unless --split."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("project")
        parser.add_argument("--format", default="preference", choices=list(EXPORT_FORMATS))
        parser.add_argument("--output", required=True, help=f"a file; its suffix is one of {', '.join(FILE_TYPES)}")
        parser.add_argument("--split", default="", choices=[*SPLITS, "all", ""])
        parser.add_argument("--simulated", default="exclude", choices=["exclude", "include", "only"])
        parser.add_argument("--truncated", action="store_true", help="take responses cut off by length too")
        parser.add_argument(
            "--set", action="append", default=[], metavar="NAME=VALUE", help="any other option of an export"
        )

    def handle(self, *args: Any, **options: Any) -> None:
        project = Project.objects.filter(slug=options["project"]).first()
        if project is None:
            raise CommandError(f"project: there is no {options['project']!r}")
        output = Path(options["output"])
        file_type = output.suffix.removeprefix(".")
        if file_type not in FILE_TYPES:
            raise CommandError(f"--output: its suffix is to be one of {', '.join(FILE_TYPES)}, not {file_type!r}")
        given = dict(item.partition("=")[::2] for item in options["set"])
        try:
            chosen = parse_options({**{name: options[name] for name in ("split", "simulated", "truncated")}, **given})
            export = prepare_export(project=project, format=options["format"], options=chosen)
        except OptionsError as error:
            raise CommandError(str(error)) from error
        count = 0

        def counted() -> Any:
            nonlocal count
            for _split, line in export.lines():
                count += 1
                yield line

        pieces = write_pieces(counted(), file_type=file_type, schema=export.schema, as_text=export.format.as_text)
        # A reader never sees half a file, and a failed export leaves the one that was there.
        part = output.with_name(f".{output.name}.{os.getpid()}")
        try:
            with part.open("wb") as file:
                file.writelines(pieces)
            part.replace(output)
        except OSError as error:
            raise CommandError(f"{output}: {error.strerror}") from error
        finally:
            part.unlink(missing_ok=True)
        self.stdout.write(str(count))
