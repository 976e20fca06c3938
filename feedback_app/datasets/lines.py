"""New rows of the annotation tables as the lines that COPY reads, each column in the place that is named for it here.

Written out by hand: of an import's time in Python, calls for each cell took the most.
"""

import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from feedback_app.datasets.copying import array_cell, cell, text_cell
from feedback_app.datasets.places import Place
from feedback_app.datasets.rows import Row, RowJudgment
from feedback_app.projects.models import Project

RESPONSE_COLUMNS = ("id", "prompt_id", "text", "source", "model_name", "sampling", "finish_reason", "created_at")
TASK_COLUMNS = (
    "id", "project_id", "prompt_id", "kind", "state", "overlap", "reserved", "counted", "open", "priority",
    "identity_sha256", "external_id", "created_at",
)  # fmt: skip
ASSIGNMENT_COLUMNS = (
    "id", "task_id", "annotator_id", "state", "created_at", "shown_order", "protocol_id", "active_seconds", "reason",
)  # fmt: skip
JUDGMENT_COLUMNS = (
    "id", "assignment_id", "project_id", "task_id", "annotator_id", "origin", "ranks", "all_bad", "strength",
    "ratings", "flags", "rewrites", "rationale", "lead_time", "surplus", "revision", "body_sha256", "created_at",
    "updated_at", "void_reason",
)  # fmt: skip
PROMPT_COLUMNS = (
    "id", "project_id", "messages", "content_sha256", "root_sha256", "split", "language", "source", "external_id",
    "active", "times_sampled", "created_at",
)  # fmt: skip
JOIN_COLUMNS = ("task_id", "response_id", "position")
_JSON = json.JSONEncoder(ensure_ascii=False, check_circular=False).encode


class Made(NamedTuple):
    """The ids of a new assignment and of its judgment, and when it was given."""

    assignment: str
    judgment: str
    moment: str


def prompt_line(project: Project, pk: str, row: Row, now: str) -> str:
    """Return a row's prompt; what it is called is the task's, where there is one."""
    return (
        f"{pk}\t{project.pk}\t{text_cell(_JSON(row.messages))}\t{row.content_sha256}\t{row.root_sha256}\t{row.split}"
        f"\t{text_cell(row.language or project.language)}\t{text_cell(row.source)}"
        f"\t{'' if row.responses else text_cell(row.external_id)}\tt\t0\t{now}\n"
    )


def response_lines(places: Iterable[Place], prompts: Mapping[str, str], now: str) -> Iterator[str]:
    """Yield the responses of new tasks; prompts are their ids by content."""
    for place in places:
        content, answers = place.content
        prompt = prompts[content]
        for pk, (text, model) in zip(place.response_ids, answers, strict=True):
            yield f"{pk}\t{prompt}\t{text_cell(text)}\timported\t{text_cell(model)}\t{{}}\t\t{now}\n"


def join_lines(places: Iterable[Place]) -> Iterator[str]:
    """Yield where each response of new tasks stands."""
    for place in places:
        for position, pk in enumerate(place.response_ids):
            yield f"{place.task_id}\t{pk}\t{position}\n"


def task_line(project: Project, place: Place, prompts: Mapping[str, str], now: str) -> str:
    """Return a new task: what was judged more often than the project asks for is full."""
    assert place.row is not None
    count = len(place.added)
    overlap = max(project.overlap, count)
    return (
        f"{place.task_id}\t{project.pk}\t{prompts[place.content[0]]}\tnormal\tactive\t{overlap}\t0\t{count}"
        f"\t{cell(count < overlap)}\t0\t{place.row.identity_sha256}\t{text_cell(place.row.external_id)}\t{now}\n"
    )


def assignment_line(project: Project, place: Place, annotator: int, made: Made) -> str:
    """Return the assignment of an imported judgment, shown in canonical order for all that is known."""
    order = array_cell(range(len(place.response_ids)))
    return (
        f"{made.assignment}\t{place.task_id}\t{annotator}\tsubmitted\t{made.moment}\t{order}"
        f"\t{project.protocol_id}\t0\t\n"
    )


def judgment_line(project: Project, place: Place, judgment: RowJudgment, annotator: int, made: Made) -> str:
    """Return an imported judgment, its responses named by id."""
    verdict = judgment.verdict

    def by_id(values: dict[str, Any]) -> str:
        return text_cell(_JSON({place.response_ids[int(index)]: value for index, value in values.items()}))

    given = "\t".join(
        by_id(values) if values else "{}" for values in (verdict.ratings, verdict.flags, verdict.rewrites)
    )
    return (
        f"{made.judgment}\t{made.assignment}\t{project.pk}\t{place.task_id}\t{annotator}"
        f"\t{'simulated' if judgment.simulated else 'imported'}\t{array_cell(verdict.ranks)}"
        f"\t{cell(verdict.all_bad)}\t{cell(verdict.strength)}\t{given}\t{text_cell(verdict.rationale)}"
        f"\t{cell(verdict.lead_time)}\tf\t1\t{judgment.body_sha256}\t{made.moment}\t{made.moment}\t\n"
    )
