"""Take in a policy made elsewhere, and put it to the same gates as a round's own."""

from argparse import ArgumentParser
from pathlib import Path
from typing import Any

from django.core.management.base import CommandError

from feedback_app.projects.models import Project
from feedback_app.rounds.management.commands import start_round
from feedback_app.rounds.models import Round
from feedback_app.rounds.services import register_elsewhere
from feedback_app.serving.models import PolicyVersion


class Command(start_round.Command):
    help = (
        "Register a Hugging Face directory (config.json, safetensors, a tokenizer with a chat template) as a project's"
        " next policy version: copied, shown to load, measured. Then evaluate it beside the live version and, where"
        " every gate holds, push it."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("project")
        parser.add_argument("directory", type=Path)
        parser.add_argument(
            "--parent", action="append", default=[], metavar="NAME",
            help="a version that it was made of, the main one first; may be given again",
        )  # fmt: skip
        parser.add_argument("--note", default="", help="how it was made")
        parser.add_argument("--only", action="store_true", help="register it and do no more")
        parser.add_argument("--wait", action="store_true")

    def start(self, project: Project, options: dict[str, Any]) -> Round:
        known = {policy.name: policy for policy in PolicyVersion.objects.filter(project=project)}
        if missing := [name for name in options["parent"] if name not in known]:
            raise CommandError(f"--parent: {project.slug} has no version {missing[0]!r}")
        return register_elsewhere(
            project=project,
            directory=options["directory"],
            parents=[known[name] for name in options["parent"]],
            note=options["note"],
            evaluate=not options["only"],
            by_operator=True,
        )
