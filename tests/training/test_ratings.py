"""Attribute scores as judged answers: whose weighted sum is higher is better, and by how much is the margin."""

from pathlib import Path
from typing import Any

import pytest

from training.config import RewardConfig
from training.ratings import read_ratings
from training.records import DataError, PreferenceRow, RankingRow
from training.reward import RewardTraining

BESIDE = {"id": "j:0", "prompt_id": "p", "response_id": "r", "policy": "m", "finish_reason": "stop"}


def rated(response: str, prompt: str = "hi", **scores: Any) -> dict[str, Any]:
    return {"prompt": prompt, "response": response, **scores}


def test_two_responses_are_a_pair_whose_margin_is_their_share_of_the_widest_distance(write_rows: Any) -> None:
    path = write_rows("r.jsonl", [
        rated("b", helpfulness=1, verbosity=4), rated("a", helpfulness=4, verbosity=2),
        rated("c", "yo", helpfulness=2, verbosity=2), rated("d", "yo", helpfulness=3, verbosity=2),
    ])  # fmt: skip
    # 2 h - v: a 6, b -2, d 4, c 2; the widest distance is 8.
    first, second = read_ratings(path, {"helpfulness": 2.0, "verbosity": -1.0})
    assert isinstance(first, PreferenceRow)
    assert isinstance(second, PreferenceRow)
    assert [first.chosen[0]["content"], first.rejected[0]["content"], first.margin] == ["a", "b", 1.0]
    assert [second.chosen[0]["content"], second.margin] == ["d", 0.25]
    # Without weights each counts alike: a 3, b 2.5.
    assert [row.margin for row in read_ratings(path, {}) if isinstance(row, PreferenceRow)] == [1.0, 1.0]


def test_more_responses_are_a_ranking_in_which_equal_sums_tie_and_judgments_are_averaged(write_rows: Any) -> None:
    rows = [rated("a", quality=2), rated("b", quality=5), rated("c", quality=1), rated("c", quality=3)]
    (row,) = read_ratings(write_rows("r.jsonl", [each | BESIDE for each in rows]), {})
    assert isinstance(row, RankingRow)
    assert [answer[0]["content"] for answer in row.responses] == ["b", "a", "c"]
    assert row.ranks == [0, 1, 1]
    assert row.prompt_id == "p"


def test_two_that_tie_are_no_pair(write_rows: Any) -> None:
    (row,) = read_ratings(write_rows("r.jsonl", [rated("a", quality=2), rated("b", quality=2)]), {})
    assert isinstance(row, RankingRow)
    assert row.ranks == [0, 0]


def test_turns_of_a_prompt_are_told_apart_as_helpsteer2_writes_them(write_rows: Any) -> None:
    prompt = "<extra_id_0>System\nBe brief.\n<extra_id_1>User\nhi\n<extra_id_1>Assistant\nyo\n<extra_id_1>User\nand?"
    (row,) = read_ratings(write_rows("r.jsonl", [rated("a", prompt, q=1), rated("b", prompt, q=2)]), {})
    assert [turn["role"] for turn in row.prompt] == ["system", "user", "assistant", "user"]
    assert [turn["content"] for turn in row.prompt] == ["Be brief.", "hi", "yo", "and?"]


@pytest.mark.parametrize(
    ("rows", "weights", "reason"),
    [
        ([rated("a", q=1)], {}, "1 rated responses; 2 to 9"),
        ([rated("a", q=1), rated("b", q="x")], {}, r"r\.jsonl:2: q: a number"),
        ([rated("a", q=1), rated("b", q=2)], {"z": 1.0}, r"r\.jsonl:1: z: a number"),
        ([rated("a"), rated("b")], {}, r"r\.jsonl:1: an attribute's score is needed"),
        ([{"prompt": "a", "response": 3, "q": 1}], {}, r"r\.jsonl:1: response: text"),
        ([{"response": "a", "q": 1}], {}, r"r\.jsonl:1: prompt: text"),
    ],
)
def test_a_rating_that_cannot_be_used_is_named(
    rows: list[dict[str, Any]], weights: dict[str, float], reason: str, write_rows: Any
) -> None:
    with pytest.raises(DataError, match=reason):
        read_ratings(write_rows("r.jsonl", rows), weights)


def test_a_reward_model_learns_from_ratings(tiny: Path, write_rows: Any) -> None:
    # More vowels are more helpful, and more letters more verbose, which counts against them.
    answers = ["aeio", "xzkw", "aezk"]
    rows = [rated(text, f"Say {i}", helpfulness=sum(c in "aeio" for c in text), verbosity=4)
            for i in range(12) for text in answers]  # fmt: skip
    held = [rated(text, f"Tell {i}", helpfulness=sum(c in "aeio" for c in text), verbosity=4)
            for i in range(4) for text in answers]  # fmt: skip
    config = RewardConfig(model=str(tiny), train=write_rows("r.jsonl", rows), validation=write_rows("h.jsonl", held),
                          attributes=("helpfulness=1", "verbosity=-0.5"), lr=5e-3, batch=4, dtype="float32",
                          epochs=6)  # fmt: skip
    training = RewardTraining(config)
    first = training.validate(0)["loss/validation"]
    for step in range(training.steps):
        training.step(step)
    last = training.validate(training.steps)
    assert last["loss/validation"] < 0.5 * first
    assert last["reward/accuracy"] == 1.0
