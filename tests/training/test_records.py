"""Rows are checked where they are read; what is wrong is named by file and line."""

from pathlib import Path
from typing import Any

import pytest

from training.records import DataError, read_completions, read_preferences, read_prompts

USER = {"role": "user", "content": "hi"}


def test_a_prompt_is_text_or_messages(write_rows: Any) -> None:
    path = write_rows("p.jsonl", [{"prompt": "hi"}, {"prompt": [USER], "id": "x"}])
    assert [row.prompt for row in read_prompts(path)] == [[USER], [USER]]
    assert [row.id for row in read_prompts(path)] == ["1", "x"]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("{", "not JSON"),
        ("[1]", "an object is needed"),
        ("{}", "prompt: text or a list of messages is needed"),
        ('{"prompt": []}', "prompt: text or a list of messages is needed"),
        ('{"prompt": [{"role": "king", "content": "x"}]}', r"prompt\[0\]: role"),
        ('{"prompt": [{"role": "user"}]}', r"prompt\[0\]: role"),
    ],
)
def test_a_bad_line_is_named_by_file_and_line(tmp_path: Path, line: str, reason: str) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"prompt": "fine"}\n\n' + line + "\n")
    with pytest.raises(DataError, match=rf"rows\.jsonl:3: {reason}"):
        read_prompts(path)


@pytest.mark.parametrize("read", [read_prompts, read_completions, read_preferences])
def test_a_file_without_rows_or_not_there_or_not_text_is_named(tmp_path: Path, read: Any) -> None:
    empty, binary = tmp_path / "empty.jsonl", tmp_path / "binary.jsonl"
    empty.write_text("\n\n")
    binary.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DataError, match=r"empty\.jsonl: no rows"):
        read(empty)
    with pytest.raises(DataError, match=r"binary\.jsonl: not UTF-8"):
        read(binary)
    with pytest.raises(DataError, match=r"missing\.jsonl: No such file"):
        read(tmp_path / "missing.jsonl")


def test_a_preference_row_with_and_without_margin_and_weight(write_rows: Any) -> None:
    answers = {"prompt": "hi", "chosen": "a", "rejected": "b"}
    path = write_rows("p.jsonl", [answers, answers | {"margin": 0.5, "weight": 2, "prompt_id": "q", "id": "r"}])
    bare, full = read_preferences(path)
    assert (bare.margin, bare.weight) == (None, 1.0)
    assert (full.margin, full.weight, full.prompt_id, full.id) == (0.5, 2.0, "q", "r")
    assert bare.chosen == [{"role": "assistant", "content": "a"}]


def test_whole_dialogues_are_split_where_they_part(write_rows: Any) -> None:
    ends = [{"role": "assistant", "content": text} for text in "ab"]
    (row,) = read_preferences(write_rows("p.jsonl", [{"chosen": [USER, ends[0]], "rejected": [USER, ends[1]]}]))
    assert (row.prompt, row.chosen, row.rejected) == ([USER], [ends[0]], [ends[1]])


@pytest.mark.parametrize(
    ("more", "reason"),
    [({"margin": "much"}, "margin"), ({"margin": True}, "margin"), ({"weight": -1}, "weight"),
     ({"weight": float("nan")}, "weight"), ({"weight": float("inf")}, "weight"), ({"margin": 10**400}, "margin"),
     ({"chosen": None}, "chosen"), ({"rejected": []}, "rejected")],
)  # fmt: skip
def test_a_preference_that_cannot_be_used_is_named(write_rows: Any, more: dict[str, Any], reason: str) -> None:
    path = write_rows("p.jsonl", [{"prompt": "hi", "chosen": "a", "rejected": "b"} | more])
    with pytest.raises(DataError, match=rf"p\.jsonl:1: {reason}"):
        read_preferences(path)
