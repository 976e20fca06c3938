"""Rounds for tests: judged projects, and a recipe whose trainer is the fake one."""

import sys
from pathlib import Path
from typing import Any

from feedback_app.projects.models import Project
from feedback_app.rounds.models import Round, RoundStep
from feedback_app.rounds.recipes import parse_recipe
from feedback_app.rounds.services import publish_recipe, start_round
from tests.factories import make_project
from tests.web.judged import judged_rows, run_rows

LAUNCHER = [sys.executable, str(Path(__file__).with_name("fake_trainer.py"))]
# An evaluation that passes the default gate.
GOOD = {
    "win_rate/parent": 0.6, "win_rate/parent_low": 0.5, "win_rate/parent_high": 0.7, "kl/parent": 9.0,
    "response/length": 40.0, "response/length_parent": 50.0, "perplexity/policy": 20.0, "perplexity/base": 20.0,
    "skills/qa_f1": 0.3, "skills/qa_f1_parent": 0.3, "skills/qa_f1_change_parent": 0.0,
    "skills/qa_f1_change_parent_low": -0.1, "skills/qa_f1_change_parent_high": 0.1, "n/skills_qa": 39,
}  # fmt: skip


def judged_project(rows: int = 60, **more: Any) -> Project:
    """Return a project with imported judged rows: three annotators on each."""
    project = make_project(**more)
    job = run_rows(project, judged_rows(rows))
    assert job.rows_new == rows, job.error
    return project


def start(project: Project, **recipe: Any) -> Round:
    """Queue a round with the fake trainer and whatever else the recipe says."""
    values = {"launcher": LAUNCHER, **recipe}
    publish_recipe(project=project, recipe=parse_recipe(values, by_operator=True))
    return start_round(project=project)


def states(held: Round) -> dict[str, str]:
    """Return the state of each of a round's steps."""
    return dict(RoundStep.objects.filter(round=held).values_list("name", "state"))
