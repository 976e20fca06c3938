"""An export is a stream: in the order of arrival, in memory that does not grow with it, whatever letters it carries."""

import json
import tracemalloc
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest

from feedback_app.annotation.models import Prompt, Response
from feedback_app.datasets.exporting.options import parse_options
from feedback_app.datasets.exporting.rows import Export, prepare_export
from feedback_app.datasets.exporting.writing import FILE_TYPES, write_pieces
from feedback_app.datasets.formats.exports import EXPORT_FORMATS
from feedback_app.projects.models import Project
from tests.factories import make_project
from tests.web.judged import judged_row, run_rows

pytestmark = pytest.mark.django_db


def judgments_of(project: Project) -> Export:
    return prepare_export(project=project, format="judgments", options=parse_options({}))


def rows_of(project: Project) -> list[dict[str, Any]]:
    return [json.loads(line) for _split, line in judgments_of(project).lines()]


def peak_of(export: Export) -> tuple[int, int]:
    """Return the most memory that Python held while the file was written, and the size of the file."""
    lines = (line for _split, line in export.lines())
    tracemalloc.start()
    try:
        size = sum(map(len, write_pieces(lines, file_type="jsonl", schema=export.schema)))
        return tracemalloc.get_traced_memory()[1], size
    finally:
        tracemalloc.stop()


def test_names_and_texts_carry_every_letter_that_parts_a_row_elsewhere() -> None:
    # What parts the fields of the stream, what JSON escapes, what ends lines, what COPY doubles, and no Latin letter.
    awkward = 'a\x1fb"c\\d\te\nf\u2028g\x85h好😀\x01'
    project = make_project()
    judgment = {"annotator": f"n{awkward}n", "ranking": [[0], [1]], "rationale": awkward}
    row = judged_row(0, prompt=awkward, language='e"n\\', external_id=awkward, judgments=[judgment])
    row["responses"] = [{"text": awkward, "model": f"m{awkward}"}, {"text": "", "model": ""}]
    run_rows(project, [row])
    [line] = [line for _split, line in judgments_of(project).lines()]
    assert len(line.splitlines()) == 1
    out = json.loads(line)
    assert (out["prompt"][0]["content"], out["language"], out["external_id"]) == (awkward, 'e"n\\', awkward)
    assert [(answer["text"], answer["model"]) for answer in out["responses"]] == [(awkward, f"m{awkward}"), ("", "")]
    [given] = out["judgments"]
    assert (given["annotator"], given["rationale"], given["ranking"]) == (f"n{awkward}n", awkward, [[0], [1]])


def test_rows_come_in_the_order_of_their_prompts_arrival_and_responses_in_their_own() -> None:
    project = make_project(protocol="ranking")
    row = judged_row(0, judgments=[{"annotator": "a", "ranking": [[8], [0, 1, 2, 3, 4, 5, 6, 7]]}])
    row["responses"] = [{"text": f"r{place}", "model": "m"} for place in range(9)]
    run_rows(project, [row])
    run_rows(project, [judged_row(number) for number in (1, 2, 3)])  # of other prompts: one's tasks have no order
    early = Prompt.objects.get(messages=[{"role": "user", "content": "Question 0?"}])
    # What is rewritten lies elsewhere in the table afterwards: it keeps its place in the file.
    Prompt.objects.filter(pk=early.pk).update(times_sampled=1)
    for response in Response.objects.filter(prompt=early).order_by("-text"):
        Response.objects.filter(pk=response.pk).update(model_name="m2")
    first = rows_of(project)[0]
    assert first["prompt_id"] == str(early.pk)
    assert [answer["text"] for answer in first["responses"]] == [f"r{place}" for place in range(9)]


@pytest.mark.parametrize("file_type", FILE_TYPES)
def test_rows_of_a_megabyte_go_out_a_few_at_a_time(file_type: str) -> None:
    schema = EXPORT_FORMATS["ranked"].schema_of([])
    lines = (json.dumps({"id": str(number), "responses": ["x" * 2**20]}) for number in range(30))
    pieces = list(write_pieces(lines, file_type=file_type, schema=schema))
    if file_type == "parquet":  # packed to next to nothing: what counts is how many rows were put together
        assert pyarrow.parquet.ParquetFile(pyarrow.BufferReader(b"".join(pieces))).num_row_groups == 4
    else:
        # Eight megabytes and a row; together they were thirty.
        assert 30 * 2**20 < sum(map(len, pieces)) < 31 * 2**20
        assert max(map(len, pieces)) < 10 * 2**20


def test_twice_the_rows_take_no_more_memory() -> None:
    few, many = make_project(), make_project()
    for project, count in ((few, 400), (many, 800)):
        rows = [judged_row(number) for number in range(count)]
        for number, row in enumerate(rows):
            row["responses"] = [{"text": f"{number} {side} " + "x" * 4000, "model": "m"} for side in (0, 1)]
        run_rows(project, rows)
    peak_of(judgments_of(few))  # whatever is kept from the first export on
    (small, size), (large, twice) = peak_of(judgments_of(few)), peak_of(judgments_of(many))
    assert twice > 1.9 * size > 1.9 * 400 * 8000
    # Two hundred kilobytes: of the file's other half, 3.2 MB, that is a sixteenth.
    assert large < small + 200_000
