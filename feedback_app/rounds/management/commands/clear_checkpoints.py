"""Clear away what rounds have left on disk, by the rule, or say what the rule would take."""

import sys
from argparse import ArgumentParser
from typing import Any

from django.core.management.base import BaseCommand

from feedback_app.rounds.retention import Removal, clear_away, plan_removals


class Command(BaseCommand):
    help = "Clear away old checkpoints and weights of this machine by the rule; --dry-run says what and how much."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--dry-run", action="store_true", help="take nothing away")

    def handle(self, *args: Any, **options: Any) -> None:
        if options["dry_run"]:
            planned = list(plan_removals())
            freed = [self._say(removal) for removal in planned]
            self.stdout.write(f"{sum(freed) / 2**30:.2f} GiB would be freed")
            return
        sweep = clear_away()
        for removal in sweep.taken:
            self.stdout.write(f"cleared: {removal.held}: {removal.why}")
        for removal, error in sweep.failed:
            self.stderr.write(f"not cleared: {removal.held}: {removal.why}: {error}")
        if sweep.failed:
            sys.exit(1)

    def _say(self, removal: Removal) -> int:
        freed = removal.bytes
        name = removal.policy.name if removal.policy else str(removal.held)
        self.stdout.write(f"{freed / 2**20:10.1f} MiB  {name}: {removal.why}")
        return freed
