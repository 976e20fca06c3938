"""Register a server of language models, and have projects answered from it."""

import json
from argparse import ArgumentParser
from typing import Any

from django.core.exceptions import ValidationError
from django.core.management.base import BaseCommand, CommandError

from feedback_app.projects.models import Project
from feedback_app.serving.backends import BackendError
from feedback_app.serving.models import Endpoint
from feedback_app.serving.services import measure_endpoint, serve_project_from, set_endpoint
from training.records import DataError


class Command(BaseCommand):
    help = (
        "Make or change an endpoint. The options of tgi: "
        '{"blue": {"url": ..., "current_file": ...}, "green": {...}}; of external: {"speaks": "tgi" or "openai", '
        '"webhook": URL, "secret": ...}, or {"speaks": ..., "command": true} for DEPLOY_COMMAND; '
        'of vllm: none for LoRA rounds, {"weights": "disk"} for whole weights in place; '
        'of each kind, optionally: {"token": ...}. '
        "What it serves is asked the same several times: from how near it comes to itself and to the trainer follows"
        " how near a pushed version must come."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("name")
        parser.add_argument("--backend", choices=Endpoint.Backend.values, required=True)
        parser.add_argument("--url", required=True)
        parser.add_argument("--options", default="{}", metavar="JSON")
        parser.add_argument("--project", action="append", default=[], help="answered from here; may be given again")

    def handle(self, *args: Any, **options: Any) -> None:
        try:
            settings = json.loads(options["options"])
        except json.JSONDecodeError as error:
            raise CommandError(f"--options: {error}") from error
        if not isinstance(settings, dict):
            raise CommandError("--options: a JSON object is needed")
        projects = {project.slug: project for project in Project.objects.filter(slug__in=options["project"])}
        if missing := [slug for slug in options["project"] if slug not in projects]:
            raise CommandError(f"no project {missing[0]!r}")
        try:
            endpoint = set_endpoint(
                name=options["name"],
                backend=Endpoint.Backend(options["backend"]),
                url=options["url"],
                settings=settings,
            )
            for project in projects.values():
                serve_project_from(project=project, endpoint=endpoint)
            if not endpoint.calibration:
                measure_endpoint(endpoint=endpoint)
        except ValidationError as error:
            field, words = next(iter(error.message_dict.items()))
            raise CommandError(f"{field}: {words[0]}") from error
        except (BackendError, DataError) as error:
            raise CommandError(str(error)) from error
        self.stdout.write(endpoint.name)
