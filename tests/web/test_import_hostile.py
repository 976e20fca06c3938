"""A broken or hostile file costs one clear message, and neither memory nor a worker."""

import gzip
import json
import os
import subprocess
import sys
import tracemalloc
from itertools import chain
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest

from feedback_app.annotation.models import Prompt
from feedback_app.datasets import reading
from feedback_app.datasets.formats.base import FileRefused, SourceRow
from feedback_app.datasets.formats.imports import IMPORT_FORMATS
from feedback_app.datasets.models import ImportJob
from feedback_app.datasets.reading import RowReader
from feedback_app.datasets.services.imports import BATCH_BYTES, in_batches
from tests.factories import make_project
from tests.web.judged import as_lines, judged_rows, refusals, run_rows

ROOT = Path(__file__).resolve().parents[2]
GOOD = as_lines(judged_rows(2))
DEEP = b"[" * 5000 + b"]" * 5000


@pytest.mark.django_db
@pytest.mark.parametrize(
    ("name", "content", "message", "stored"),
    [
        ("rows.jsonl", b"", "the file is empty", 0),
        ("rows.jsonl.gz", gzip.compress(GOOD * 500)[:-40], "the gzip file is damaged or ends in the middle", 2),
        ("rows.jsonl.gz", gzip.compress(GOOD)[:30], "the gzip file is damaged or ends in the middle", 0),
        ("rows.jsonl", GOOD.decode().encode("utf-32"), "the file is UTF-32", 0),
        ("rows.jsonl", GOOD.decode().encode("utf-16")[:-1], "the file is UTF-16 and ends in the middle of a letter", 1),
        ("rows.jsonl", GOOD.decode().encode("utf-16-le"), "the file begins with a NUL byte", 0),
        ("rows.csv", "prompt\nGrüße\n".encode("cp1252"), "line 2: not UTF-8", 0),
        ("rows.csv", b'prompt\n"never closed\n' + b"x\n" * 1000, "line 1002: unexpected end of data", 0),
        ("rows.xlsx", b"PK\x03\x04" + b"\x00" * 100, "the file is a zip archive or an Excel workbook", 0),
        ("rows.jsonl.xz", b"\xfd7zXZ\x00" + b"\x00" * 100, "the file is packed with xz", 0),
        ("rows.json", b'[{"prompt": ' + DEEP, "line 1: nested too deeply", 0),
        ("rows.json", b'[{"junk": [' + b"{}," * 600_000 + b"{}]}]", "line 1: more than 1000000 values", 0),
        ("rows.parquet", b"PAR1" + b"\x00" * 100, "the Parquet file is damaged after row 0", 0),
    ],
)
def test_a_broken_file_fails_with_one_message(name: str, content: bytes, message: str, stored: int) -> None:
    format = "prompts" if name.endswith(".csv") else "judged"
    job = run_rows(make_project(), content, format=format, name=name)
    assert (job.state, job.error[: len(message)]) == (ImportJob.State.FAILED, message)
    assert refusals(job) == {}
    assert Prompt.objects.count() == stored


@pytest.mark.django_db
@pytest.mark.parametrize(
    ("row", "reason"),
    [
        (b'{"prompt": "a\\u0000b"}', "prompt[0].content: a text without NUL"),
        (b'{"prompt": "a\x00b"}', "not JSON: Invalid control character"),
        (b'{"prompt": "\\ud800"}', "prompt[0].content: a text without NUL or lone surrogates"),
        (b'{"prompt": ' + DEEP + b"}", "not JSON: nested too deeply"),
        (b'{"prompt": ' + b"[" * 300 + b"]" * 300 + b"}", "not JSON: nested too deeply"),
        ('{"prompt": "Grüße"}'.encode("latin-1"), "not UTF-8 at byte 15"),
        (b'{"prompt": 1e999}', "prompt: a text, or a list"),
        (
            b'{"prompt": "x", "responses": [' + b'{"text": "r"},' * 100_000 + b'{"text": "r"}]}',
            "responses: the project",
        ),
        (b'"just a text"', "an object is needed, not a text"),
    ],
)
def test_a_hostile_row_is_refused_and_the_good_ones_land(row: bytes, reason: str) -> None:
    job = run_rows(make_project(), GOOD + row + b"\n" + as_lines(judged_rows(3)[2:]))
    assert (job.state, job.rows_new) == (ImportJob.State.DONE, 3)
    assert [(line, text[: len(reason)]) for line, text in refusals(job).items()] == [(3, reason)]


@pytest.mark.django_db
@pytest.mark.parametrize("format", ["oasst", "label-studio", "preference", "hh-rlhf", "helpsteer2"])
def test_no_format_trips_over_rows_of_another_shape(format: str) -> None:
    values: list[Any] = [
        None, 3, "x", [], {}, {"prompt": None}, {"prompt": {"text": 3}}, {"data": []}, {"data": {"prompt": {}}},
        {"chosen": 1, "rejected": {}}, {"prompt": [[]], "chosen": [[]]}, {"preference_strength": "much"},
        {"prompt": {"role": "prompter", "text": "x", "replies": [3]}},
        {"data": {"prompt": "x", "answer1": "a", "answer2": 2}, "annotations": [{"result": [{"value": 1}]}]},
        {"data": {"prompt": "x", "items": [None]}, "annotations": 7}, {"prompt": "x", "response": []},
    ]  # fmt: skip
    job = run_rows(make_project(), values, format=format)
    assert (job.state, job.rows_new) == (ImportJob.State.DONE, 0)
    # HelpSteer2's rows of one prompt, or of none, are refused as one.
    assert job.rows_refused == (12 if format == "helpsteer2" else len(values))


def test_helpsteer2_rows_of_one_prompt_without_end_are_one_problem_and_are_not_kept() -> None:
    def rated(line: int, prompt: str, response: str) -> SourceRow:
        return SourceRow(line, {"prompt": prompt, "response": response, "helpfulness": 1}, size=len(response))

    # Texts of 10 kB: 40 MB in all, and 10 MB in the thousand rows that are held at most.
    endless = (rated(line, "x", f"{line:010000}") for line in range(1, 4001))
    good = [rated(4001, "y", "a"), rated(4002, "y", "b"), rated(4003, "y", "a")]
    tracemalloc.start()
    first, second = IMPORT_FORMATS["helpsteer2"](chain(endless, good))
    _now, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert (first.line, first.problem[:27]) == (1, "prompt: more than 1000 rows")
    assert peak < 20 * 2**20
    assert (second.line, [sorted(judgment["ratings"]) for judgment in second.value["judgments"]]) == (
        4001, [["0", "1"], ["0"]],
    )  # fmt: skip


def test_helpsteer2_rows_of_one_prompt_are_held_up_to_the_size_of_a_row() -> None:
    rows = [SourceRow(line, {"prompt": "x", "response": str(line)}, size=7 * 2**20) for line in range(3)]
    (only,) = IMPORT_FORMATS["helpsteer2"](rows)
    assert only.problem.endswith("more than 16 MB")


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.csv"])
def test_empty_lines_without_end_keep_no_worker_busy(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reading, "MOST_BLANK", 100)
    path = tmp_path / name
    path.write_bytes(b'{"prompt": "x"}\n' * 10 + b"\n" * 100 + b'{"prompt": "y"}\n')
    assert sum(1 for _row in RowReader(path)) >= 10  # as many as an honest file may have
    path.write_bytes(b'{"prompt": "x"}\n' * 10 + b"\n" * 1000 + b'{"prompt": "y"}\n')
    with pytest.raises(FileRefused, match=r"line 1\d\d: next to nothing but empty lines"):
        list(RowReader(path))


def test_a_csv_row_that_goes_on_over_many_lines_is_bounded_as_a_line_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reading, "LONGEST_ROW", 2**20)
    path = tmp_path / "rows.csv"
    cell = ",".join(['"' + "x" * 99 + '\n"'] * 2)  # no cell and no line is long
    path.write_text("a,b\n" + f"{cell}\n" * 10_000)  # 2 MB of rows, each of two lines or three
    assert sum(1 for row in RowReader(path) if not row.problem) == 10_000
    path.write_text("a,b\n" + ",".join([cell] * 10_000))
    with pytest.raises(FileRefused, match="longer than 1 MB"):
        list(RowReader(path))


def deep_tree(depth: int) -> bytes:
    return b'{"prompt": ' + b'{"role": "prompter", "text": "x", "replies": [' * depth + b"]}" * depth + b"}\n"


@pytest.mark.django_db
def test_a_tree_deeper_than_any_conversation_is_one_refused_row() -> None:
    job = run_rows(make_project(), deep_tree(400), format="oasst")
    assert (job.state, refusals(job)) == (ImportJob.State.DONE, {1: "not JSON: nested too deeply"})


@pytest.mark.parametrize("junk", [[0] * 2**19, [[{"a": [0] * 2**9}]] * 2**9])
def test_rows_that_hold_much_are_few_in_a_batch_whatever_it_is(tmp_path: Path, junk: list[Any]) -> None:
    path = tmp_path / "rows.jsonl"
    line = as_lines([{"prompt": "x", "junk": junk}])
    path.write_bytes(line * 20)
    reader = RowReader(path)
    batches = [len(batch) for batch in in_batches(IMPORT_FORMATS["judged"](reader), reader)]
    # As many as it takes to come to 8 MB, and the last to weigh it.
    most = -(-BATCH_BYTES // len(line))
    assert (sum(batches), max(batches)) == (20, most)
    assert most < 20


# What only a process of its own shows: how much memory reading a file ever takes.
READ = """
import sys
import tracemalloc
from itertools import chain
from pathlib import Path
import django
django.setup()  # what is refused is said in a language
from feedback_app.datasets.formats.base import FileRefused
from feedback_app.datasets.reading import RowReader


def peak():
    # VmHWM is of this program alone; getrusage's figure is inherited from whoever started it.
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmHWM"))


before = peak()
rows = problems = 0
try:
    for row in RowReader(Path(sys.argv[1])):
        rows, problems = rows + 1, problems + bool(row.problem)
    said = ""
except FileRefused as error:
    said = str(error)
grown = (peak() - before) // 1024
import json
print(json.dumps([rows, problems, said, grown]))
"""


def read_apart(path: Path) -> tuple[int, int, str, int]:
    """Return rows, refused ones, the file's message and the growth of memory in MB, of a process that reads a file."""
    done = subprocess.run(
        [sys.executable, "-c", READ, str(path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
        timeout=300,
        env=os.environ | {"DJANGO_SETTINGS_MODULE": "feedback_app.settings"},
    )
    rows, problems, said, grown = json.loads(done.stdout)
    return rows, problems, said, grown


def test_a_line_of_a_gigabyte_is_one_refused_row_in_flat_memory(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    with path.open("wb") as file:  # sparse: the line is a hole, its end a byte
        file.write(b'{"a": 1}\n"')
        file.seek(2**30)
        file.write(b'"\n{"a": 2}\n')
    rows, problems, said, grown = read_apart(path)
    assert (rows, problems, said) == (3, 1, "")
    assert grown < 100


def test_an_array_item_of_a_gigabyte_ends_the_file_in_flat_memory(tmp_path: Path) -> None:
    path = tmp_path / "rows.json"
    with path.open("wb") as file:
        file.write(b'[{"a": "' + b"x" * 2**26)
        file.truncate(2**30)
    rows, _problems, said, grown = read_apart(path)
    assert (rows, said[:37]) == (0, "line 1: an item is longer than 16 MB,")
    assert grown < 300  # texts of 16 MB, doubled, once as bytes and once as characters


def test_ten_gigabytes_of_zeros_in_ten_megabytes_are_refused_as_a_bomb(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl.gz"
    # 10 GB as a hundred members of 100 MB each, packed once: gzip files may be joined.
    member = gzip.compress(b"0" * (100 * 2**20), 9)
    path.write_bytes(member * 100)
    assert path.stat().st_size < 11 * 2**20
    _rows, _problems, said, grown = read_apart(path)
    assert said.endswith("refused as a bomb")
    assert grown < 100


def test_a_parquet_column_that_unpacks_to_far_more_than_honest_ones_is_refused_as_a_bomb(tmp_path: Path) -> None:
    path = tmp_path / "rows.parquet"
    text = pyarrow.array(["x" * 2**26] * 5)
    pyarrow.parquet.write_table(pyarrow.table({"prompt": text}), path, compression="zstd", use_dictionary=False)
    assert path.stat().st_size < 2**20
    rows, _problems, said, grown = read_apart(path)
    assert (rows, said[:26]) == (0, "column 'prompt' unpacks to")
    assert grown < 100


@pytest.mark.parametrize("nested", [False, True])
def test_a_parquet_text_named_again_and_again_is_not_unpacked_as_often(tmp_path: Path, nested: bool) -> None:
    path = tmp_path / "rows.parquet"
    # Of 17 MB, once, and named by 256 rows: over 4 GB. Or of 1 MB, by each of a row's 256 places: 256 MB a row.
    text = "x" * 2**20 if nested else "x" * (17 * 2**20)
    indices = pyarrow.array([0] * 256 + [1], pyarrow.int32())
    texts = pyarrow.DictionaryArray.from_arrays(indices, [text, "good"])
    if nested:
        texts = pyarrow.ListArray.from_arrays(pyarrow.array([0, 256, 257], pyarrow.int32()), texts)
    pyarrow.parquet.write_table(pyarrow.table({"prompt": texts}), path, compression="zstd")
    assert path.stat().st_size < 2**20
    rows, problems, said, grown = read_apart(path)
    assert (rows, problems, said) == ((2, 1, "") if nested else (257, 256, ""))
    assert grown < 300


def test_a_parquet_list_of_repeated_numbers_is_refused_as_a_bomb(tmp_path: Path) -> None:
    path = tmp_path / "rows.parquet"
    number = 2**26  # of 8 bytes each as Python's list holds them: 512 MB
    offsets = pyarrow.array([0, number], pyarrow.int32())
    lists = pyarrow.ListArray.from_arrays(offsets, pyarrow.array(bytearray(number), pyarrow.int8()))
    pyarrow.parquet.write_table(pyarrow.table({"junk": lists}), path)
    assert path.stat().st_size < 2**20
    rows, _problems, said, grown = read_apart(path)
    assert (rows, said[:23]) == (0, "column 'junk.list.eleme")
    assert grown < 100


def test_a_row_of_millions_of_brackets_is_refused_before_they_take_memory(tmp_path: Path) -> None:
    # 5.5 million of them would be 350 MB of Python's; the line itself is 16 MB as bytes and as characters.
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b'{"prompt": "x", "junk": [' + b"{}," * 5_500_000 + b"{}]}\n" + GOOD)
    rows, problems, _said, grown = read_apart(path)
    assert (rows, problems) == (3, 1)
    assert grown < 60


def test_the_measure_itself_sees_memory(tmp_path: Path) -> None:
    # A line just short of the limit is held whole: some 16 MB as bytes and as characters.
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b'{"a": "' + b"x" * (15 * 2**20) + b'"}\n')
    rows, problems, _said, grown = read_apart(path)
    assert (rows, problems) == (1, 0)
    assert grown >= 15
