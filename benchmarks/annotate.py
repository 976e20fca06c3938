"""Prepare what a load test of judging needs: a project full of comparison tasks, and one token an annotator.

    python manage.py shell < /dev/null   # any command: makes and migrates the embedded database
    python benchmarks/annotate.py --project load --tasks 20000 --overlap 3 --annotators 16 --tokens tokens.txt

then run the web server on the same settings and any closed-loop client with those tokens: POST
/api/v1/projects/load/tasks/next/, POST /api/v1/tasks/{id}/judgments/, again.
"""

import argparse
import os
import sys
from pathlib import Path

import django

TEXT = "A response of middle length, as a small model would write it to a short question. "


def prepare(*, slug: str, tasks: int, overlap: int, annotators: int) -> list[str]:
    """Make the project, its tasks and its annotators; returns their tokens."""
    # Django's models can be imported only after django.setup().
    from feedback_app.accounts.services import create_user, issue_token
    from feedback_app.annotation.models import Response
    from feedback_app.annotation.services import NewResponse, NewTask, create_prompts, create_tasks
    from feedback_app.projects.services import add_member, create_project

    project = create_project(slug=slug, overlap=overlap)
    prompts = create_prompts(
        project=project, prompts=[f"Question {number} of the load test?" for number in range(tasks)]
    )
    pair = [NewResponse(text=TEXT * n, source=Response.Source.IMPORTED, model_name=f"model-{n}") for n in (3, 5)]
    create_tasks(project=project, tasks=[NewTask(prompt=prompt, responses=pair) for prompt in prompts])
    tokens = []
    for number in range(annotators):
        user = create_user(username=f"{slug}-{number}")
        add_member(project=project, user=user)
        tokens.append(issue_token(user=user, name="load test"))
    return tokens


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--project", default="load")
    parser.add_argument("--tasks", type=int, default=20_000)
    parser.add_argument("--overlap", type=int, default=3)
    parser.add_argument("--annotators", type=int, default=16)
    parser.add_argument("--tokens", type=Path, required=True)
    options = parser.parse_args()
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "feedback_app.settings")
    django.setup()
    tokens = prepare(slug=options.project, tasks=options.tasks, overlap=options.overlap, annotators=options.annotators)
    options.tokens.write_text("\n".join(tokens) + "\n")


if __name__ == "__main__":
    main()
