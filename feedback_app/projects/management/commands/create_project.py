"""Make a project from the command line."""

import json
from argparse import ArgumentParser
from pathlib import Path
from typing import Any

from django.core.exceptions import ValidationError
from django.core.management.base import BaseCommand, CommandError

from feedback_app.projects.presets import PRESETS
from feedback_app.projects.protocols import ProtocolError
from feedback_app.projects.services import create_project


class Command(BaseCommand):
    help = "Make a project: no gold tasks, repeats, qualification or limits until a manager sets them."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("slug")
        parser.add_argument("--name", default="")
        parser.add_argument("--protocol", default="pairwise", help=f"{', '.join(PRESETS)}, or a FILE.json")
        parser.add_argument("--overlap", type=int, default=1, help="judgments wanted of each task")
        parser.add_argument("--language", default="en", help="of the prompts, as a BCP 47 tag")
        parser.add_argument("--responses-per-prompt", type=int, default=2)
        parser.add_argument("--max-new-tokens", type=int, default=96, help="of a sampled response")

    def handle(self, *args: Any, **options: Any) -> None:
        try:
            project = create_project(
                slug=options["slug"],
                name=options["name"],
                protocol=read_protocol(options["protocol"]),
                overlap=options["overlap"],
                language=options["language"],
                responses_per_prompt=options["responses_per_prompt"],
                max_new_tokens=options["max_new_tokens"],
            )
        except ProtocolError as error:
            raise CommandError(f"protocol: {error}") from error
        except ValidationError as error:
            raise CommandError(one_line(error)) from error
        self.stdout.write(project.slug)


def read_protocol(argument: str) -> str | dict[str, Any]:
    """Return a preset's name as it is, or the object that a .json file holds."""
    if not argument.endswith(".json"):
        return argument
    try:
        spec = json.loads(Path(argument).read_text(encoding="utf-8"))
    except OSError as error:
        raise CommandError(f"{argument}: {error.strerror}") from error
    except ValueError as error:
        raise CommandError(f"{argument}: not JSON: {error}") from error
    if not isinstance(spec, dict):
        raise CommandError(f"{argument}: an object is needed")
    return spec


def one_line(error: ValidationError) -> str:
    """Return a validation error as `field: reason; field: reason`."""
    if hasattr(error, "message_dict"):
        return "; ".join(f"{name}: {' '.join(texts)}" for name, texts in error.message_dict.items())
    return " ".join(error.messages)
