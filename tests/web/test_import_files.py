"""Files of any kind and any malice: what can be read is read in little memory, the rest costs a clear message."""

import gzip
import io
import json
import re
import tracemalloc
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest
from django.utils import translation

from feedback_app.annotation.models import Prompt
from feedback_app.datasets import reading
from feedback_app.datasets.formats.base import FileRefused, SourceRow
from feedback_app.datasets.reading import RowReader
from feedback_app.datasets.rows import imported_protocol
from feedback_app.datasets.services import run_import, start_import
from feedback_app.datasets.services.imports import parse_rows
from feedback_app.projects.protocols import Protocol
from tests.factories import make_project
from tests.web.judged import as_lines, refusals, run_rows


def read(folder: Path, content: bytes, name: str = "rows.jsonl") -> list[SourceRow]:
    path = folder / name
    path.write_bytes(content)
    return list(RowReader(path))


def values(rows: list[SourceRow]) -> list[Any]:
    assert not any(row.problem for row in rows), rows
    return [row.value for row in rows]


ROWS = [{"prompt": "One?"}, {"prompt": "二？", "n": [1, {"a": None}]}]
LINES = b"\n".join(json.dumps(row).encode() for row in ROWS)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("rows.jsonl", LINES),
        ("rows.jsonl", LINES.replace(b"\n", b"\r\n\r\n") + b"\n"),
        ("bom.jsonl", b"\xef\xbb\xbf" + LINES),
        ("rows.jsonl", LINES.decode().encode("utf-16")),
        ("rows.jsonl.gz", gzip.compress(b"\xfe\xff" + LINES.decode().encode("utf-16-be"))),
        ("rows.json", json.dumps(ROWS).encode("utf-16")),
        ("rows.txt", LINES),
        ("rows.json", json.dumps(ROWS).encode()),
        ("rows.json", b"\n " + json.dumps(ROWS, indent=2).encode() + b"\n"),
        ("rows.jsonl.gz", gzip.compress(LINES)),
        ("unnamed", gzip.compress(json.dumps(ROWS).encode())),
    ],
)
def test_the_first_bytes_say_what_a_file_is(tmp_path: Path, name: str, content: bytes) -> None:
    assert values(read(tmp_path, content, name)) == ROWS


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be"])
def test_excels_unicode_text_is_a_table_by_tabs_and_its_letters_are_whole(tmp_path: Path, encoding: str) -> None:
    # Two halves of one letter on two sides of a piece: a piece is 2**18 bytes, of 2 a letter, behind mark and header.
    texts = ["😀" * 2**16, "一, 二", 'a "b"\nc', "x" + "😀" * 2**16]
    cells = "".join('"{}"\t{}\r\n'.format(text.replace('"', '""'), n) for n, text in enumerate(texts))
    content = ("\ufeffprompt\tn\r\n" + cells).encode(encoding)
    rows = read(tmp_path, content, "Book1.txt")
    assert values(rows) == [{"prompt": text, "n": str(n)} for n, text in enumerate(texts)]
    assert [row.line for row in rows] == [2, 3, 4, 6]  # the third row takes two lines


def test_half_a_letter_in_utf_16_is_its_lines_problem_alone(tmp_path: Path) -> None:
    text = '\ufeff{"a": 1}\r\n{"a": "é\ud83d"}\r\n{"a": "\ude00"}\n{"a": 2}'
    rows = read(tmp_path, text.encode("utf-16-le", "surrogatepass"))
    assert [(row.line, row.value) for row in rows if not row.problem] == [(1, {"a": 1}), (4, {"a": 2})]
    assert {row.line: row.problem for row in rows if row.problem} == {
        2: "half a surrogate pair at character 9 of the line", 3: "half a surrogate pair at character 8 of the line",
    }  # fmt: skip
    with pytest.raises(FileRefused, match="line 2: half a surrogate pair at character 2 of the line"):
        read(tmp_path, "\ufeffa\nb\ud83d\n".encode("utf-16-le", "surrogatepass"), "rows.csv")


def test_utf_16_is_read_in_little_memory(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(("\ufeff" + json.dumps({"prompt": "一" * 10_000}, ensure_ascii=False) + "\n").encode("utf-16-le"))
    path.write_bytes(path.read_bytes() + path.read_bytes()[2:] * 999)  # 20 MB
    tracemalloc.start()
    assert sum(1 for row in RowReader(path) if not row.problem) == 1000
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 4 * 2**20


def test_csv_cells_hold_texts_lists_or_nothing(tmp_path: Path) -> None:
    content = b'prompt,external_id,chosen\n"a, ""b""\nc",1,"[{""role"": ""user""}]"\n[not json,,x\n'
    rows = read(tmp_path, content, "rows.csv")
    assert values(rows) == [
        {"prompt": 'a, "b"\nc', "external_id": "1", "chosen": [{"role": "user"}]},
        {"prompt": "[not json", "external_id": None, "chosen": "x"},
    ]
    assert [row.line for row in rows] == [2, 4]  # the first row takes two lines
    assert "3 cells" in read(tmp_path, b"a,b\n1,2,3\n4,5\n", "rows.csv")[0].problem


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("rows.tsv", b"prompt\nOne, or two; three?\n"),
        ("rows.csv", b'sep=;\r\nprompt;n\r\n"One, or two; three?";\r\n'),
        ("rows.csv", b"prompt\tn\nOne, or two; three?\t\n"),
        ("rows.csv", b'prompt\n"One, or two; three?"\n'),
        ("rows.csv", b'\xef\xbb\xbfprompt\n"One, or two; three?"\n'),
    ],
)
def test_the_header_says_what_stands_between_cells(tmp_path: Path, name: str, content: bytes) -> None:
    (row,) = read(tmp_path, content, name)
    assert (row.value["prompt"], row.line) == ("One, or two; three?", 3 if content.startswith(b"sep") else 2)


def test_parquet_rows_are_numbered_from_one(tmp_path: Path) -> None:
    sink = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(ROWS[:1] * 2500), sink)
    rows = read(tmp_path, sink.getvalue(), "rows.parquet")
    assert (len(rows), rows[0].line, rows[-1].line, rows[-1].value) == (2500, 1, 2500, ROWS[0])
    with pytest.raises(FileRefused, match="Parquet"):
        read(tmp_path, sink.getvalue()[:-20], "cut.parquet")


def test_bad_lines_are_named_and_good_ones_read(tmp_path: Path) -> None:
    deep = b"[" * 100_000 + b"]" * 100_000
    content = b"\n".join(
        [b'{"a": 1}', b"{", b'{"a": "\xff"}', b'{"a": NaN}', b'{"x": ' + deep + b"}", b"", b'{"a": 2}']
    )
    rows = read(tmp_path, content)
    assert [(row.line, row.value) for row in rows if not row.problem] == [(1, {"a": 1}), (7, {"a": 2})]
    problems = {row.line: row.problem for row in rows if row.problem}
    assert list(problems) == [2, 3, 4, 5]
    assert "not UTF-8 at byte 8" in problems[3]
    assert "NaN" in problems[4]
    assert "nested too deeply" in problems[5]


def test_array_items_are_numbered_by_the_line_they_begin_on(tmp_path: Path) -> None:
    content = json.dumps([{"text": "x" * 300_000}, {"a": "]["}, 3], indent=1).encode()
    # Line 1 is the bracket; an object of one field takes three lines.
    assert [row.line for row in read(tmp_path, content, "rows.json")] == [2, 5, 8]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (json.dumps(ROWS).encode()[:-5], "line 1"),
        (b'[{"a": 1}, oops]', "line 1: not JSON"),
        (b'[\n{"a": 1},\n{"a": 1e', "line 3"),
        (b'[{"a": "\xff"}]', "not UTF-8"),
        (b"[1, " + b"[" * 100_000, "line 1"),
        (b'[\n{"a": 1},\n{"a": "\xff"}]', "line 3: not UTF-8"),
        ("[1]".encode("utf-16") + b"\n", "UTF-16 and ends in the middle of a letter, at byte 9"),
        ('[1,\n"\ud83d"]'.encode("utf-16", "surrogatepass"), "line 2: half a surrogate pair"),
        (b"PK\x03\x04....", "zip"),
        (gzip.compress(LINES * 1000)[:-9], "gzip file is damaged or ends in the middle"),
        (gzip.compress(LINES * 1000)[:100] + b"\x00" * 100, "gzip file is damaged"),
    ],
)
def test_a_file_that_breaks_off_says_where_and_why(tmp_path: Path, content: bytes, reason: str) -> None:
    with pytest.raises(FileRefused, match=reason):
        read(tmp_path, content)


def test_a_bomb_is_refused_before_it_fills_anything(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "BOMB_FREE", 2**20)
    bomb = gzip.compress((b" " * 1023 + b"\n") * 2**15)  # 32 MB in some 32 kB: a thousand times
    tracemalloc.start()
    with pytest.raises(FileRefused, match="refused as a bomb"):
        read(tmp_path, bomb)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 8 * 2**20


def test_an_endless_line_costs_its_own_row_and_no_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "LONGEST_ROW", 2**20)
    path = tmp_path / "rows.jsonl"
    with path.open("wb") as file:
        file.write(b'{"a": 1}\n"')
        for _ in range(48):
            file.write(b"x" * 2**20)
        file.write(b'"\n{"a": 2}\n')
    tracemalloc.start()
    rows = list(RowReader(path))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert [(row.line, row.value, row.problem) for row in rows] == [
        (1, {"a": 1}, ""),
        (2, None, "the line is longer than 1 MB"),
        (3, {"a": 2}, ""),
    ]
    assert peak < 8 * 2**20


@pytest.mark.django_db
@pytest.mark.parametrize("name", ["prompts.jsonl", "prompts.csv", "prompts.txt", "prompts.parquet", "prompts.jsonl.gz"])
def test_prompts_come_in_plain_or_as_chats_from_every_kind_of_file(tmp_path: Path, name: str) -> None:
    chat = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "二？"}]
    rows = [{"prompt": "One?", "messages": None}, {"prompt": None, "messages": chat}]
    if name.endswith(".parquet"):
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / name)
        content = (tmp_path / name).read_bytes()
    elif name.endswith((".csv", ".txt")):
        cell = json.dumps(chat, ensure_ascii=False).replace('"', '""')
        between, encoding = (",", "utf-8") if name.endswith(".csv") else ("\t", "utf-16")  # Excel's Unicode text
        lines = (f"prompt{between}messages", f"One?{between}", f'{between}"{cell}"', "")
        content = "\r\n".join(lines).encode(encoding)
    else:
        content = as_lines(rows)
        content = gzip.compress(content) if name.endswith(".gz") else content
    job = run_rows(make_project(), content, format="prompts", name=name)
    assert (job.rows_new, job.rows_refused, job.bytes_read) == (2, 0, job.bytes_total)
    stored = [prompt.messages for prompt in Prompt.objects.all()]
    assert sorted(stored, key=len) == [[{"role": "user", "content": "One?"}], chat]


@pytest.mark.django_db
def test_what_an_import_refuses_is_said_in_the_language_of_who_asked_for_it() -> None:
    with translation.override("zh-hans"):
        job = start_import(
            project=make_project(), format="judged", file_name="r.jsonl", content=io.BytesIO(b"{}\n"), requested_by=None
        )
        wanted = translation.gettext("prompt: is required")
    # A worker speaks English until it takes a job up, and again after it.
    done = run_import(job_id=job.pk)
    assert done is not None
    assert (refusals(done), done.options["language"]) == ({1: wanted}, "zh-hans")
    assert translation.get_language() == "en"


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("rows.jsonl", b'{"prompt": "x",}\n{"prompt": "a\x00b"}\n{"prompt" 3}\n{} {}\n'),
        ("rows.jsonl", b'{"a": "\\x"}\n{"a": "\\u12"}\n{"a": \n{"a\n[1 2]\n[1,]\n'),
        ("rows.jsonl", LINES + b'{"prompt": [{"role": "user", "content": 3}]}\n{"prompt": []}\n{"prompt": [3]}\n'),
        ("rows.json", b'[{"a": 1}, {"a": '),
        ("rows.json", b'[{"a": "\xff"}]'),
        ("rows.csv", b'prompt\n"never closed\n'),
        ("rows.csv", b'prompt\n"a"b\n'),
        ("rows.csv", b"prompt\na\rb\n"),
        ("rows.jsonl.gz", gzip.compress(LINES * 1000)[:-40]),
    ],
)
def test_what_is_wrong_is_said_in_one_language(tmp_path: Path, name: str, content: bytes) -> None:
    with translation.override("zh-hans"):
        path = tmp_path / name
        path.write_bytes(content)
        protocol = imported_protocol(Protocol(name="pairs"))
        try:
            _good, refused = parse_rows(list(RowReader(path)), protocol)
            reasons = [reason for _line, reason in refused]
        except FileRefused as error:
            reasons = [str(error)]
    assert reasons
    # Names of formats, fields and roles apart, there is no English word in them.
    for reason in reasons:
        rest = re.sub(r"UTF-8|JSON|MB|NUL|gzip|prompt|role|content|user|uXXXX", "", reason)
        assert not re.search("[A-Za-z]{2}", rest), reason
