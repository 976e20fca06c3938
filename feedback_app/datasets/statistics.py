"""What a project's data are like, as numbers for charts: lengths, strengths, agreement, positions."""

from collections.abc import Sequence
from typing import Any

from django.db import connection

from feedback_app.datasets.exporting.options import SPLITS
from feedback_app.projects.models import Project

COUNTED = "j.project_id = %(project)s AND NOT j.surplus AND j.voided_at IS NULL AND t.kind IN ('normal', 'gate')"
REAL = "j.origin <> 'simulated'"
# Histograms go by doubling lengths: bin n holds 2^n to 2^(n+1) - 1 characters, and none is bin 0's.
LENGTHS = """
SELECT bin, count(*) FROM (
    SELECT floor(log(2, greatest(char_length({text}), 1)))::int AS bin FROM {rows}
) AS lengths GROUP BY bin ORDER BY bin
"""
PROMPT_TEXT = "(SELECT string_agg(m ->> 'content', E'\\n') FROM jsonb_array_elements(p.messages) m)"
PROMPTS = "annotation_prompt p WHERE p.project_id = %(project)s"
RESPONSES = "annotation_response r JOIN annotation_prompt p ON p.id = r.prompt_id WHERE p.project_id = %(project)s"
STRENGTHS = f"""
SELECT j.strength, count(*) FROM annotation_judgment j JOIN annotation_task t ON t.id = j.task_id
WHERE {COUNTED} AND {REAL} GROUP BY j.strength ORDER BY j.strength NULLS FIRST
"""
# Of n verdicts on a task, n (n - 1) ordered pairs of annotators, of which those with equal ranks agree.
AGREEMENT = f"""
SELECT least(9, floor(10.0 * agreed / pairs))::int AS bin, count(*) FROM (
    SELECT task_id, sum(same * (same - 1)) AS agreed, sum(same) * (sum(same) - 1) AS pairs FROM (
        SELECT j.task_id, j.ranks, count(*) AS same
        FROM annotation_judgment j JOIN annotation_task t ON t.id = j.task_id
        WHERE {COUNTED} AND {REAL} AND j.ranks <> '{{}}' GROUP BY j.task_id, j.ranks
    ) AS verdicts GROUP BY task_id HAVING sum(same) > 1
) AS tasks GROUP BY bin ORDER BY bin
"""
# The only best response of a verdict, and where on the page it stood; imported rows were shown nowhere.
POSITIONS = f"""
SELECT cardinality(a.shown_order) AS shown,
       array_position(a.shown_order::int[], array_position(j.ranks, 0::smallint) - 1) AS place, count(*)
FROM annotation_judgment j
JOIN annotation_task t ON t.id = j.task_id JOIN annotation_assignment a ON a.id = j.assignment_id
WHERE {COUNTED} AND j.origin = 'human' AND cardinality(array_positions(j.ranks, 0::smallint)) = 1
GROUP BY 1, 2 ORDER BY 1, 2
"""
LONGER = f"""
SELECT count(*) FILTER (WHERE sign(j.ranks[2] - j.ranks[1]) = sign(char_length(one.text) - char_length(two.text))),
       count(*)
FROM annotation_judgment j JOIN annotation_task t ON t.id = j.task_id
JOIN annotation_task_response first ON first.task_id = t.id AND first.position = 0
JOIN annotation_task_response second ON second.task_id = t.id AND second.position = 1
JOIN annotation_response one ON one.id = first.response_id JOIN annotation_response two ON two.id = second.response_id
WHERE {COUNTED} AND {REAL} AND cardinality(j.ranks) = 2 AND j.ranks[1] <> j.ranks[2]
      AND char_length(one.text) <> char_length(two.text)
"""
PROMPTS_BY_SPLIT = "SELECT p.split, count(*) FROM annotation_prompt p WHERE p.project_id = %(project)s GROUP BY 1"
LANGUAGES = (
    "SELECT p.language, count(*) FROM annotation_prompt p WHERE p.project_id = %(project)s GROUP BY 1 ORDER BY 1"
)


def measure_data(*, project: Project) -> dict[str, Any]:
    """Return histograms and shares of a project's data, of judgments that count and nobody simulated.

    lengths: {"prompts", "responses"}: [{"from", "to", "count"}] by characters, to included; from the first bin that
        holds one to the last, the empty ones between them too, as of agreement.
    strengths: [{"strength", "count"}], null where none was stated.
    agreement: tasks judged twice or more, by the share of annotator pairs that give the whole ranking alike.
    positions: how often the best response stood at which place of how many, of what was judged here.
    longer_wins: of verdicts for one of two responses of different lengths, how many are for the longer.
    """
    lengths = {
        name: [{"from": 2**n if n else 0, "to": 2 ** (n + 1) - 1, "count": count} for n, count in _without_gaps(rows)]
        for name, rows in (
            ("prompts", _rows(project, LENGTHS.format(text=f"coalesce({PROMPT_TEXT}, '')", rows=PROMPTS))),
            ("responses", _rows(project, LENGTHS.format(text="r.text", rows=RESPONSES))),
        )
    }
    ((longer, compared),) = _rows(project, LONGER)
    splits = _rows(project, PROMPTS_BY_SPLIT)
    return {
        "lengths": lengths,
        "splits": {split: count for split in SPLITS for found, count in splits if found == split},
        "languages": dict(_rows(project, LANGUAGES)),
        "strengths": [{"strength": strength, "count": count} for strength, count in _rows(project, STRENGTHS)],
        "agreement": [
            {"from": tenth / 10, "to": (tenth + 1) / 10, "tasks": count}
            for tenth, count in _without_gaps(_rows(project, AGREEMENT))
        ],
        "positions": [
            {"of": shown, "place": place, "best": count} for shown, place, count in _rows(project, POSITIONS)
        ],
        "longer_wins": {"compared": compared, "share": round(longer / compared, 6) if compared else None},
    }


def _without_gaps(rows: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """Return (bin, count) of each bin from the first to the last: a histogram that leaves some out tells of a shape
    that is not there."""
    counts = dict(rows)
    return [(n, counts.get(n, 0)) for n in range(min(counts), max(counts) + 1)] if counts else []


def _rows(project: Project, query: str) -> Sequence[tuple[Any, ...]]:
    with connection.cursor() as cursor:
        cursor.execute(query, {"project": project.pk})
        rows: list[tuple[Any, ...]] = cursor.fetchall()
    return rows
