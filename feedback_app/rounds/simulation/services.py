"""Hire simulated annotators and let them work."""

import random

from django.db import transaction

from feedback_app.accounts.models import User
from feedback_app.accounts.services import create_user, issue_token
from feedback_app.projects.models import Member, Project
from feedback_app.projects.services import add_member
from feedback_app.rounds.simulation.annotators import Annotator, judge_together
from feedback_app.rounds.simulation.preferences import Preference


@transaction.atomic
def hire_simulated(*, project: Project, number: int) -> tuple[User, str]:
    """Return the project's simulated annotator of a number, made where missing, with a fresh token.

    Its judgments are marked by its kind, and never exported together with people's unless asked for.
    """
    username = f"simulated.{project.slug}.{number}"
    user = User.objects.filter(username=username, kind=User.Kind.SIMULATED).first() or create_user(
        username=username, kind=User.Kind.SIMULATED, display_name=f"Simulated {number}"
    )
    user.api_tokens.filter(revoked_at=None).delete()
    add_member(project=project, user=user, role=Member.Role.ANNOTATOR)
    return user, issue_token(user=user, name="simulation")


def simulate(
    *, project: Project, url: str, annotators: int, judgments: int, preference: Preference, noise: float, seed: int = 0
) -> int:
    """Let simulated annotators judge over HTTP at url; return how many judgments were stored."""
    hired = [hire_simulated(project=project, number=number) for number in range(1, annotators + 1)]
    workers = [
        Annotator(url, project.slug, token, preference, noise, random.Random(f"{seed}:{number}"))
        for number, (_, token) in enumerate(hired)
    ]
    return judge_together(workers, judgments)
