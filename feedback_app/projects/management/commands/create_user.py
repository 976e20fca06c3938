"""Make a user, or give an existing one a role, and print an API token."""

from argparse import ArgumentParser
from typing import Any

from django.core.exceptions import ValidationError
from django.core.management.base import BaseCommand, CommandError
from django.db import transaction

from feedback_app.accounts.models import User
from feedback_app.accounts.services import create_user, issue_token
from feedback_app.projects.management.commands.create_project import one_line
from feedback_app.projects.models import Member, Project
from feedback_app.projects.services import add_member


class Command(BaseCommand):
    help = "Make a user (or take the one of that name), give a role in a project, print a new API token."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("name")
        parser.add_argument("--project")
        parser.add_argument("--role", choices=[*Member.Role.values, "administrator"], default=Member.Role.ANNOTATOR)
        parser.add_argument("--password", help="for signing in to the pages; without it the token alone opens")

    @transaction.atomic
    def handle(self, *args: Any, **options: Any) -> None:
        administrator = options["role"] == "administrator"
        if not administrator and not options["project"]:
            raise CommandError(f"--project: the role {options['role']} is held in a project; name one")
        user = User.objects.filter(username=options["name"]).first()
        if user is not None and (options["password"] or (administrator and not user.is_superuser)):
            raise CommandError(f"name: {user.username!r} exists already; an account's password and rights stay as is")
        try:
            user = user or create_user(
                username=options["name"], password=options["password"], is_superuser=administrator,
                password_given=True,
            )  # fmt: skip
        except ValidationError as error:
            raise CommandError(one_line(error)) from error
        if options["project"]:
            project = Project.objects.filter(slug=options["project"]).first()
            if project is None:
                raise CommandError(f"--project: no project {options['project']!r}")
            role = Member.Role.MANAGER if administrator else Member.Role(options["role"])
            add_member(project=project, user=user, role=role)
        self.stdout.write(issue_token(user=user, name="create_user"))
