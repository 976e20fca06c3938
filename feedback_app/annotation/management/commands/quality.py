"""Print a project's quality figures from the command line."""

import json
from argparse import ArgumentParser
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from feedback_app.annotation.quality import measure_quality
from feedback_app.projects.models import Project


class Command(BaseCommand):
    help = "Print agreement and per-annotator figures as JSON, of real judgments, or of simulated ones if all are."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("project")
        parser.add_argument("--simulated", action="store_true", help="measure the simulated judgments, and only them")

    def handle(self, *args: Any, **options: Any) -> None:
        project = Project.objects.filter(slug=options["project"]).first()
        if project is None:
            raise CommandError(f"project: there is no {options['project']!r}")
        figures = measure_quality(project=project, simulated=True if options["simulated"] else None)
        self.stdout.write(json.dumps(figures, indent=2, ensure_ascii=False))
