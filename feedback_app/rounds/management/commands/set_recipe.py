"""Give a project its next recipe from a TOML file."""

from argparse import ArgumentParser
from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from feedback_app.projects.models import Project
from feedback_app.rounds.recipes import RecipeError, parse_recipe_toml
from feedback_app.rounds.services import publish_recipe


class Command(BaseCommand):
    help = 'Give a project its next recipe; `preset = "quick"` in the file begins with a preset.'

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("project")
        parser.add_argument("file")

    def handle(self, *args: Any, **options: Any) -> None:
        project = Project.objects.filter(slug=options["project"]).first()
        if project is None:
            raise CommandError(f"no project {options['project']!r}")
        try:
            # Whoever runs commands on the machine may name code and addresses in a recipe.
            recipe = parse_recipe_toml(Path(options["file"]).read_text(encoding="utf-8"), by_operator=True)
        except OSError as error:
            raise CommandError(f"{options['file']}: {error.strerror}") from error
        except UnicodeDecodeError as error:
            raise CommandError(f"{options['file']}: is no UTF-8 text") from error
        except RecipeError as error:
            raise CommandError(f"{options['file']}: {error}") from error
        self.stdout.write(str(publish_recipe(project=project, recipe=recipe).number))
