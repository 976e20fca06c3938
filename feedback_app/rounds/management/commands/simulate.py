"""Let simulated annotators judge, over the real HTTP API."""

from argparse import ArgumentParser
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from feedback_app.projects.models import Project
from feedback_app.rounds.simulation.annotators import SimulationError
from feedback_app.rounds.simulation.preferences import PREFERENCES, PreferenceError, find_preference
from feedback_app.rounds.simulation.services import simulate
from feedback_app.rounds.simulation.web import hold_web


class Command(BaseCommand):
    help = "Let simulated annotators judge a project's tasks over HTTP; prints how many judgments were stored."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("project")
        parser.add_argument("--annotators", type=int, default=3)
        parser.add_argument("--judgments", type=int, default=100)
        parser.add_argument("--preference", default="concise", help=f"{', '.join(PREFERENCES)} or module:function")
        parser.add_argument("--noise", type=float, default=1.0, help="0: always what is preferred")
        parser.add_argument("--seed", type=int, default=0)
        parser.add_argument("--url", default="", help="of a running site; else one is started for the time being")

    def handle(self, *args: Any, **options: Any) -> None:
        project = Project.objects.filter(slug=options["project"]).first()
        if project is None:
            raise CommandError(f"no project {options['project']!r}")
        if options["annotators"] < 1 or options["judgments"] < 1 or options["noise"] < 0:
            raise CommandError("--annotators and --judgments: 1 or more; --noise: 0 or more")
        try:
            preference = find_preference(options["preference"], by_operator=True)
            with hold_web(options["url"]) as url:
                stored = simulate(
                    project=project,
                    url=url,
                    annotators=options["annotators"],
                    judgments=options["judgments"],
                    preference=preference,
                    noise=options["noise"],
                    seed=options["seed"],
                )
        except (PreferenceError, SimulationError, RuntimeError) as error:
            raise CommandError(str(error)) from error
        self.stdout.write(str(stored))
