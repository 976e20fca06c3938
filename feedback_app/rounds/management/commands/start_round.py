"""Start a training round from the command line."""

import json
import sys
import time
from argparse import ArgumentParser
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from feedback_app.embedded.inference import hold_inference
from feedback_app.projects.models import Project
from feedback_app.rounds.bells import ring_round
from feedback_app.rounds.models import Round
from feedback_app.rounds.runner import work_on_round
from feedback_app.rounds.selectors import round_as_json
from feedback_app.rounds.services import RoundRefused, start_round

POLL_S = 1.0
# A worker that is there answers its bell at once; after this the command does the work itself.
WORKER_ANSWERS_WITHIN_S = 5.0


class Command(BaseCommand):
    help = "Start a round; with --wait stay until it ends and print it as JSON, doing the work where no worker does."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("project")
        parser.add_argument("--wait", action="store_true")
        parser.add_argument("--simulated", action="store_true", help="learn from simulated judgments as well")

    def handle(self, *args: Any, **options: Any) -> None:
        project = Project.objects.filter(slug=options["project"]).first()
        if project is None:
            raise CommandError(f"no project {options['project']!r}")
        try:
            held = self.start(project, options)
        except RoundRefused as refused:
            raise CommandError(str(refused)) from refused
        ring_round(held.pk)
        if not options["wait"]:
            self.stdout.write(str(held.pk))
            return
        held = self._wait(held)
        self.stdout.write(json.dumps(_summary(held), indent=1, default=str))
        if held.state != Round.State.SUCCEEDED:
            raise CommandError(f"the round is {held.get_state_display()}: {held.error}")

    def start(self, project: Project, options: dict[str, Any]) -> Round:
        """Queue the round; raises RoundRefused."""
        return start_round(project=project, simulated=options["simulated"])

    def _wait(self, held: Round) -> Round:
        rung_at = time.monotonic()
        while True:
            held.refresh_from_db()
            if held.state not in (Round.State.QUEUED, Round.State.RUNNING):
                return held
            if held.state == Round.State.QUEUED and time.monotonic() - rung_at > WORKER_ANSWERS_WITHIN_S:
                self.stderr.write("No worker answers; doing the round here.")
                try:
                    with hold_inference(sys.executable):
                        work_on_round(round_id=held.pk)
                except RuntimeError as error:
                    raise CommandError(str(error)) from error
            time.sleep(POLL_S)


def _summary(held: Round) -> dict[str, Any]:
    """Return the round without its long curves."""
    shown = round_as_json(held=held)
    for step in shown["steps"]:
        step["progress"] = len(step["progress"])
    return shown
