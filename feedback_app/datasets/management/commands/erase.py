"""Erase a person's judgments or a prompt from the command line."""

import json
from argparse import ArgumentParser
from typing import Any
from uuid import UUID

from django.core.exceptions import ValidationError
from django.core.management.base import BaseCommand, CommandError

from feedback_app.datasets.selectors import erasure_as_json
from feedback_app.datasets.services import erase_from_project
from feedback_app.projects.models import Project


class Command(BaseCommand):
    help = "Erase what an annotator judged, or a prompt with all that hangs on it; prints what was marked as JSON."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("project")
        which = parser.add_mutually_exclusive_group(required=True)
        which.add_argument("--annotator", default="", metavar="NAME", help="as exports name them")
        which.add_argument("--prompt", type=UUID, metavar="ID", help="an export's prompt_id")
        parser.add_argument(
            "--withdraw", action="store_true", help="delete the files of the dataset versions that held it, too"
        )

    def handle(self, *args: Any, **options: Any) -> None:
        project = Project.objects.filter(slug=options["project"]).first()
        if project is None:
            raise CommandError(f"project: there is no {options['project']!r}")
        given = {name: options[name] for name in ("annotator", "prompt", "withdraw")}
        try:
            outcome = erase_from_project(project=project, erased_by=None, **given)
        except ValidationError as error:
            raise CommandError("; ".join(error.messages)) from error
        self.stdout.write(json.dumps(erasure_as_json(outcome), ensure_ascii=False))
