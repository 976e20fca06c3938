"""Retained skills at the gate and on a page: what may be lost, and beside whom it was measured."""

from typing import Any

import pytest

from feedback_app.rounds.figures import skill_figures
from feedback_app.rounds.recipes import RecipeError, parse_recipe, with_preset
from feedback_app.rounds.steps.retained import judge_skills


def measured(key: str, own: float, parents: float, high: float) -> dict[str, Any]:
    """Return a score and its difference from the parent's, whose interval is as far below as above."""
    change = own - parents
    ends = {"_low": change - (high - change), "": change, "_high": high}
    compared = {f"skills/{key}_change_parent{end}": value for end, value in ends.items()}
    return {f"skills/{key}": own, f"skills/{key}_parent": parents, f"skills/{key}_base": 0.25, **compared}


@pytest.mark.parametrize(
    ("high", "lost", "passes"),
    [
        # Of the parent's 0.4 a tenth, 0.04, may be lost for certain.
        (-0.04, 0.1, True),
        (-0.041, 0.1, False),
        (-0.041, 0.2, True),
        (0.02, 0.1, True),  # the loss may be chance
        (float("nan"), 0.1, False),
    ],
)
def test_a_skill_fails_where_more_than_is_allowed_is_lost_for_certain(high: float, lost: float, passes: bool) -> None:
    [check] = judge_skills(measured("qa_f1", own=0.3, parents=0.4, high=high), lost)
    assert check["passed"] is passes
    assert check["name"] == "answering questions"


def test_the_reason_is_in_points_of_a_hundred() -> None:
    [check] = judge_skills(measured("qa_f1", own=0.3, parents=0.4, high=-0.05), 0.1)
    assert check["said"] == (
        "30.0 of 100 against the parent's 40.0: -10.0 (95 % interval -15.0 to -5.0); its upper end must reach -4.0"
    )


def test_a_parent_that_can_do_nothing_has_nothing_to_lose() -> None:
    [check] = judge_skills(measured("summary_rougeL", own=0.0, parents=0.0, high=0.0), 0.1)
    assert check["passed"] is True


def test_each_kind_that_was_measured_is_held_and_none_at_all_does_not_pass() -> None:
    both = measured("qa_f1", 0.4, 0.4, 0.0) | measured("dialogue_rougeL", 0.1, 0.4, -0.2)
    assert [(check["name"], check["passed"]) for check in judge_skills(both, 0.1)] == [
        ("answering questions", True), ("dialogue", False),
    ]  # fmt: skip
    [check] = judge_skills({"kl/parent": 3.0}, 0.1)
    assert (check["passed"], check["said"][:13]) == (False, "not measured:")


def test_what_is_not_measured_cannot_be_asked_for() -> None:
    with pytest.raises(RecipeError, match=r"^gate.max_skill_loss: 0, for evaluate.skill_items is 0"):
        parse_recipe({"evaluate": {"skill_items": 0}})
    parse_recipe({"evaluate": {"skill_items": 0}, "gate": {"max_skill_loss": 0}})
    with pytest.raises(RecipeError, match=r"^evaluate.skills: only set_recipe"):
        parse_recipe({"evaluate": {"skills": "/etc/passwd"}})
    assert parse_recipe(with_preset({"preset": "quick"})).evaluate["skill_items"] == 24


def test_a_page_shows_each_skill_beside_the_parents_and_the_bases() -> None:
    metrics = measured("qa_f1", own=0.3, parents=0.4, high=-0.05) | {"n/skills_qa": 39}
    # ln 8 = 2.079: a reply's token is one of eight that are as likely.
    metrics |= {"skills/dialogue_logprob": -2.0794415, "skills/dialogue_logprob_parent": -1.3862944}
    questions, replies = skill_figures(metrics)
    assert (questions.value, questions.beside) == (30.0, [("parent", 40.0), ("base", 25.0)])
    assert questions.note == "-10.0 from the parent's, -15.0 to -5.0; over 39 items"
    assert [replies.value, replies.beside[0][1]] == pytest.approx([8.0, 4.0])
    assert skill_figures({"kl/parent": 1.0}) == []
