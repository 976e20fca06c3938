"""Raw text is cleaned, packed without loss, and learned by a model made on the spot."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from training.__main__ import main
from training.models import load_causal, load_tokenizer
from training.pretrain import pack, train_tokenizer
from training.records import DataError, verify_manifest
from training.text import clean_texts, drop_near_duplicates, normalise, read_texts, strip_html

TEXT = "the cat sat on the mat and looked at the old dog that slept under a tree near the river"
WORDS = TEXT.split()


@pytest.mark.parametrize(
    ("html", "text"),
    [
        ("<p>One<br>two</p><script>if (a < b) {}</script><p>&amp; three</p>", "One\ntwo\n& three"),
        ("<html><head><title>x</title></head><body>a<!-- b -->c</body></html>", "ac"),
        ("if a < b and c > d: pass", "if a < b and c > d: pass"),
        ("AT&T & sons", "AT&T & sons"),
        ("<style>p{}</style>left <b>bold</b> word", "left bold word"),
    ],
)
def test_markup_goes_and_text_stays(html: str, text: str) -> None:
    assert [line for line in normalise(strip_html(html)).split("\n") if line] == text.split("\n")


def test_one_text_has_one_form() -> None:
    # e and a combining accent are one letter in NFC; the bell and the lone carriage return go.
    assert normalise("cafe\u0301\a  x\r\n\r\n\r\n\r\ny\u00a0z ") == "caf\u00e9 x\n\ny z"


def test_a_near_duplicate_is_dropped_and_the_first_stays() -> None:
    text = " ".join(WORDS)
    nearly = text.replace("river", "lake")  # the last of 16 shingles differs: 15 common of 17, 0.88
    other = " ".join(reversed(WORDS))
    assert drop_near_duplicates([text, other, nearly, text.upper()], 0.8) == [text, other]
    assert drop_near_duplicates([text, nearly], 0.99) == [text, nearly]
    assert clean_texts([text, text], near_duplicates=0) == [text, text]


def test_short_and_unspaced_texts_are_told_apart() -> None:
    texts = ["hi", "ho", "一二三四五六七", "七六五四三二一"]
    assert drop_near_duplicates([*texts, "hi", "一二三四五六七"], 0.8) == texts


def test_packing_learns_every_token_but_the_first_once() -> None:
    rows = pack([[1, 2, 3], [4, 5], [6]], separator=0, length=4)
    assert rows == [([1], [2, 3, 0]), ([0], [4, 5, 0]), ([0], [6, 0])]
    assert [token for _, learned in rows for token in learned] == [2, 3, 0, 4, 5, 0, 6, 0]


def test_documents_are_lines_of_jsonl_or_stand_between_blank_lines(tmp_path: Path, write_rows: Any) -> None:
    assert read_texts(write_rows("a.jsonl", [{"text": "one\n\ntwo"}, {"text": " "}])) == ["one\n\ntwo"]
    (tmp_path / "a.txt").write_text("one\nmore\n  \n\ntwo\n")
    assert [text.strip() for text in read_texts(tmp_path / "a.txt")] == ["one\nmore", "two"]
    with pytest.raises(DataError, match=r"b\.jsonl:2: text"):
        read_texts(write_rows("b.jsonl", [{"text": "a"}, {"txt": "b"}]))
    (tmp_path / "empty.txt").write_text(" \n\n ")
    with pytest.raises(DataError, match=r"empty\.txt: no text"):
        read_texts(tmp_path / "empty.txt")


def test_a_tokenizer_made_on_the_spot_reads_everything_back() -> None:
    tokenizer = train_tokenizer([" ".join(WORDS)] * 3, 300)
    assert len(tokenizer) <= 300
    for text in (" ".join(WORDS), "naïve 你好 🙂\n\ttab"):
        assert tokenizer.decode(tokenizer(text)["input_ids"]) == text
    assert len(tokenizer(" ".join(WORDS))["input_ids"]) < len(" ".join(WORDS))


def test_pretraining_from_nothing_learns_and_what_it_made_is_pretrained_further(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    texts = []
    for _ in range(60):
        order = torch.randperm(len(WORDS), generator=generator).tolist()
        texts.append("<p>" + " ".join(WORDS[i] for i in order) + "</p>")
    (tmp_path / "train.txt").write_text("\n\n".join(texts[:50] + texts[:5]))
    (tmp_path / "held.txt").write_text("\n\n".join(texts[50:]))
    settings = {
        "train": tmp_path / "train.txt", "validation": tmp_path / "held.txt", "vocabulary": 320, "hidden_size": 32,
        "layers": 2, "heads": 2, "max_length": 32, "epochs": 8, "lr": 1e-2, "threads": 1, "dtype": "float32",
    }  # fmt: skip

    def run(name: str, **more: object) -> list[dict[str, Any]]:
        flags = [f"--set={key}={value}" for key, value in (settings | more).items()]
        assert main(["pretrain", "--output", str(tmp_path / name), *flags]) == 0
        verify_manifest(tmp_path / name)
        return [json.loads(line) for line in (tmp_path / name / "progress.jsonl").read_text().splitlines()]

    lines = run("first")
    metrics = json.loads((tmp_path / "first" / "metrics.json").read_text())
    # 320 tokens: 5.8 nats at random; knowing the words alone is worth half of it.
    assert lines[0]["loss/train"] > 5
    assert metrics["loss/validation"] < 3
    assert metrics["perplexity/validation"] == pytest.approx(2.718281828 ** metrics["loss/validation"], rel=1e-6)
    assert load_tokenizer(str(tmp_path / "first")).chat_template
    assert load_causal(str(tmp_path / "first"), torch.float32).generation_config.eos_token_id == [2, 0]
    assert "canary.json" in verify_manifest(tmp_path / "first")["files"]
    again = run("second", model=tmp_path / "first", epochs=1, lr=1e-3)
    assert again[0]["loss/train"] < 3
    assert set(verify_manifest(tmp_path / "second")["parents"]) == {str(tmp_path / "first")}
