"""Find near-duplicate prompts, and those on two sides of a split, from the command line."""

import json
from argparse import ArgumentParser
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from feedback_app.datasets.services import measure_duplicates
from feedback_app.projects.models import Project


class Command(BaseCommand):
    help = "Print pairs of nearly equal prompts as JSON, those of two splits apart; the project's page shows them too."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("project")
        parser.add_argument("--threshold", type=float, default=0.8, help="share of shingles in common (default 0.8)")

    def handle(self, *args: Any, **options: Any) -> None:
        project = Project.objects.filter(slug=options["project"]).first()
        if project is None:
            raise CommandError(f"project: there is no {options['project']!r}")
        if not 0 < options["threshold"] <= 1:
            raise CommandError("--threshold: above 0, at most 1")
        kept = measure_duplicates(project=project, threshold=options["threshold"])
        self.stdout.write(json.dumps(kept.report, ensure_ascii=False, indent=2))
