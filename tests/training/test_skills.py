"""Retained skills: SQuAD's and ROUGE's figures against hand and reference, a user's file, and models side by side."""

import json
import random
from pathlib import Path
from typing import Any

import pytest
import torch
from rouge_score.rouge_scorer import RougeScorer

from training.config import EvaluateConfig
from training.models import load_causal, load_tokenizer
from training.overlap import answer_f1, exact_match, rouge_scores
from training.records import DataError
from training.skills import OURS, SCORES, SkillResult, SkillTest, choose_skills, read_skills

# SQuAD 2's script: normalise = lower, drop punctuation, drop a/an/the, squeeze spaces. Gold answers that normalise to
# nothing are dropped; where none is left, the gold answer is "". exact = normalised texts are equal, F1 is of bags of
# words; with no words on either side both are 1 if neither side has any, else 0. The best over gold answers counts.


@pytest.mark.parametrize(
    ("answer", "accepted", "exact", "f1"),
    [
        ("The  Eiffel-Tower!", ["eiffeltower"], 1.0, 1.0),  # punctuation goes without leaving a space
        ("an apple a day", ["the apple day"], 1.0, 1.0),
        ("The cat sat.", ["a cat sat down"], 0.0, 0.8),  # {cat, sat} of 2 and of 3: P 1, R 2/3, 2PR/(P+R) = 4/5
        ("cat cat", ["cat"], 0.0, 2 / 3),  # a word counts as often as both have it: P 1/2, R 1
        ("in the blue house", ["house", "blue house"], 0.0, 0.8),  # the better of 1/2 and 4/5
        ("Theodore", ["odore"], 0.0, 0.0),  # an article is a whole word
        ("", [""], 1.0, 1.0),
        ("the", [""], 1.0, 1.0),  # says nothing, once normalised
        ("Paris", [""], 0.0, 0.0),
        ("", ["Paris"], 0.0, 0.0),
        ("", ["Paris", "the"], 0.0, 0.0),  # "the" is no answer beside a real one
        ("是星期一。", ["星期一"], 0.0, 6 / 7),  # 3 characters of 4 and of 3
        ("“星期一”", ["星期一"], 1.0, 1.0),
        ("用 Python 写", ["用Python写"], 0.0, 1.0),  # the same words; MLQA compares texts with their spaces
    ],
)  # fmt: skip
def test_answers_are_scored_as_squad_does(answer: str, accepted: list[str], exact: float, f1: float) -> None:
    assert exact_match(answer, accepted) == exact
    assert answer_f1(answer, accepted) == pytest.approx(f1)


def test_rouge_is_that_of_lin_by_hand() -> None:
    # 5 words against 6. Words: police, killed, the, gunman, so 2 * 4 / 11. Pairs: "police killed" and "the gunman" of 4
    # and of 5, so 2 * 2 / 9. In order: "police killed" or "the gunman", so 2 * 2 / 11.
    found = rouge_scores("police killed by the gunman", "the gunman police killed was armed")
    assert found == pytest.approx({"rouge1": 8 / 11, "rouge2": 4 / 9, "rougeL": 4 / 11})


def test_rouge_agrees_with_googles() -> None:
    scorer, chance = RougeScorer(["rouge1", "rouge2", "rougeL"]), random.Random(5)
    words = ["The", "ferry", "sailed,", "was", "late", "at", "7:30", "don't", "re-open", "_", "..."]
    for _ in range(200):
        ours, theirs = (" ".join(chance.choices(words, k=chance.randint(0, 14))) for _ in "ab")
        wanted = {name: score.fmeasure for name, score in scorer.score(theirs, ours).items()}
        assert rouge_scores(ours, theirs) == pytest.approx(wanted), (ours, theirs)


def test_chinese_is_read_by_character() -> None:
    # 5 characters against 4, of which 4 are shared, in order: 2 * 4 / 9. Pairs: 今天 and 有风 of 4 and of 3: 2 * 2 / 7.
    found = rouge_scores("今天晴，有风。", "今天有风")
    assert found == pytest.approx({"rouge1": 8 / 9, "rouge2": 4 / 7, "rougeL": 8 / 9})


# Files


def write(path: Path, *rows: Any) -> Path:
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return path


QUESTION = {"kind": "qa", "prompt": "Who?", "answers": ["Ann"]}


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ("{", "not JSON"),
        ({**QUESTION, "kind": "maths"}, "kind: one of qa, summary, dialogue, not 'maths'"),
        ({**QUESTION, "kind": ["qa"]}, "kind: one of"),
        ({**QUESTION, "prompt": None}, "prompt: text or a list of messages"),
        ({**QUESTION, "prompt": [{"role": "user"}]}, "prompt[0]: role"),
        ({**QUESTION, "context": 3}, "context: a text is needed"),
        ({**QUESTION, "answers": "Ann"}, "answers: a list of texts is needed"),
        ({**QUESTION, "answers": [1]}, "answers: a list of texts is needed"),
        ({**QUESTION, "example": "yes"}, "example: true or false, not 'yes'"),
        ({"kind": "summary", "prompt": "Sum up"}, "reference: a text is needed"),
        ({"kind": "dialogue", "prompt": "Hi", "reference": " "}, "reference: a text is needed"),
    ],
)
def test_a_bad_line_is_named(tmp_path: Path, row: Any, said: str) -> None:
    file = write(tmp_path / "mine.jsonl", QUESTION, "", row)
    with pytest.raises(DataError) as caught:
        read_skills(file)
    assert str(caught.value).startswith(f"{file}:3: {said}")


def test_a_file_of_examples_alone_asks_nothing(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no rows to ask"):
        read_skills(write(tmp_path / "mine.jsonl", {**QUESTION, "example": True}))


def test_context_stands_before_the_question_and_examples_before_both(tmp_path: Path) -> None:
    asked = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Who?"}]
    rows = [
        {**QUESTION, "prompt": asked, "context": "Ann came.", "answers": ["Ann", "Anna"]},
        {"kind": "qa", "prompt": "When?", "answers": []},
        {"kind": "dialogue", "prompt": "Hi", "reference": "Hello"},
        {"kind": "qa", "prompt": "Where?", "answers": ["here"], "example": True},
    ]
    items = read_skills(write(tmp_path / "mine.jsonl", *rows))
    assert [[message["content"] for message in item.messages] for item in items] == [
        ["Be brief.", "Where?", "here", "Ann came.\n\nWho?"], ["Where?", "here", "When?"], ["Hi"],
    ]  # fmt: skip
    assert [item.accepted for item in items] == [("Ann", "Anna"), ("",), ("Hello",)]
    assert items[0].group == "Ann came."


def test_ours_is_large_enough_and_speaks_two_languages() -> None:
    items = read_skills(OURS)
    counts = {kind: sum(item.kind == kind for item in items) for kind in SCORES}
    assert counts == {"qa": 39, "summary": 15, "dialogue": 15}
    chinese = [item for item in items if any("\u4e00" <= letter <= "\u9fff" for letter in item.accepted[0])]
    assert {item.kind for item in chinese} == set(SCORES)
    # What is expected can be had: an item's own answer scores full marks.
    assert all(answer_f1(item.accepted[0], item.accepted) == 1.0 for item in items)
    few = choose_skills(items, 4, seed=1)
    assert [item.kind for item in few] == ["qa"] * 4 + ["summary"] * 4 + ["dialogue"] * 4
    assert {i.messages[-1]["content"] for i in few} <= {i.messages[-1]["content"] for i in choose_skills(items, 6, 1)}


# Models side by side


def evaluation(**more: Any) -> SkillTest:
    return SkillTest(EvaluateConfig(policy="p", prompts="q", **more))


def results(scores: list[float], name: str = "f1") -> list[SkillResult]:
    return [SkillResult("", dict.fromkeys(("exact", "f1"), 0.0) | {name: score}, cut=False) for score in scores]


def test_the_difference_is_paired_by_item_and_its_interval_over_contexts(tmp_path: Path) -> None:
    # Four questions on each of two contexts: whichever contexts a bootstrap draws, the mean lies between -1 and 0, and
    # both ends are drawn in a quarter of the draws. Taken for eight items of their own, -0.875 would be the end.
    rows = [{**QUESTION, "prompt": f"Who {i}?", "context": "one" if i < 4 else "two"} for i in range(8)]
    test = evaluation(skills=str(write(tmp_path / "mine.jsonl", *rows)))
    lost = [1.0 if item.group == "one" else 0.0 for item in test.items]
    metrics = test.metrics(results([0.0] * 8), {"parent": results(lost), "base": results([0.0] * 8)})
    assert metrics["skills/qa_f1"] == 0.0
    assert metrics["skills/qa_f1_parent"] == 0.5
    ends = [metrics[f"skills/qa_f1_change_parent{end}"] for end in ("_low", "", "_high")]
    assert ends == [-1.0, -0.5, 0.0]
    # Items that all lose alike leave nothing to chance, however much they differ among each other.
    theirs = [index / 10 for index in range(8)]
    metrics = test.metrics(results([value - 0.25 for value in theirs]), {"parent": results(theirs)})
    ends = [metrics[f"skills/qa_f1_change_parent{end}"] for end in ("_low", "", "_high")]
    assert ends == pytest.approx([-0.25, -0.25, -0.25])
    assert "skills/summary_rougeL" not in metrics


def test_of_one_item_nothing_is_known(tmp_path: Path) -> None:
    test = evaluation(skills=str(write(tmp_path / "mine.jsonl", QUESTION)))
    metrics = test.metrics(results([0.0]), {"parent": results([1.0])})
    assert (metrics["skills/qa_f1_change_parent_low"], metrics["skills/qa_f1_change_parent_high"]) == (-1.0, 1.0)


def test_answers_come_back_to_their_items_however_they_are_batched(tiny: Path) -> None:
    model, tokenizer = load_causal(str(tiny), torch.float32), load_tokenizer(str(tiny))
    steps: list[int] = []
    tests = [evaluation(skill_items=3, batch=batch) for batch in (1, 2)]
    one, two = (test.put_to(model, tokenizer, lambda: steps.append(1)) for test in tests)
    assert [a.text for a in one] == [b.text for b in two]
    assert len(steps) == tests[0].batches + tests[1].batches == 9 + 6
    logprobs = [[r.scores["logprob"] for r in several[-3:]] for several in (one, two)]
    assert logprobs[0] == pytest.approx(logprobs[1], rel=1e-4)
    # A random model of 258 tokens finds each about as likely as any other: ln 258 = 5.55.
    assert logprobs[0] == pytest.approx([-5.55] * 3, abs=0.3)
    assert evaluation(skill_items=0).put_to(model, tokenizer, lambda: None) == []
