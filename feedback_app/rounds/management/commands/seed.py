"""Make the projects that we ship, where they are missing."""

import json
from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand
from django.db import transaction

from feedback_app.annotation.models import Response
from feedback_app.annotation.services import NewPrompt, NewResponse, NewTask, create_prompts, create_tasks
from feedback_app.projects.models import Project
from feedback_app.projects.services import create_project
from feedback_app.serving.services import ensure_base_policy

SEEDS = Path(__file__).resolve().parents[3] / "projects" / "seeds"


class Command(BaseCommand):
    help = "Make the shipped projects; one whose slug is taken is left as it is."

    def handle(self, *args: Any, **options: Any) -> None:
        for path in sorted(SEEDS.glob("*.json")):
            spec = json.loads(path.read_text(encoding="utf-8"))
            made = make_project(spec)
            if made is not None and options["verbosity"]:
                self.stdout.write(made.slug)


@transaction.atomic
def make_project(spec: dict[str, Any]) -> Project | None:
    """Return a project made by a seed, None where its slug is taken."""
    tasks, prompts = spec.pop("tasks"), spec.pop("prompts")
    if Project.objects.filter(slug=spec["slug"]).exists():
        return None
    project = create_project(**spec)
    create_prompts(project=project, prompts=[NewPrompt(messages=text, source="seed") for text in prompts])
    stored = create_prompts(project=project, prompts=[NewPrompt(messages=t["prompt"], source="seed") for t in tasks])
    create_tasks(
        project=project,
        tasks=[
            NewTask(
                prompt=prompt,
                responses=[
                    NewResponse(text=r["text"], source=Response.Source.IMPORTED, model_name=r["model"])
                    for r in task["responses"]
                ],
            )
            for prompt, task in zip(stored, tasks, strict=True)
        ],
    )
    if prompts:
        ensure_base_policy(project=project)
    return project
