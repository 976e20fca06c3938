"""The gate: hand-made evaluations against bounds, each decision with its reason in words."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
from django.conf import settings

from feedback_app.annotation.splits import hash_root, split_of
from feedback_app.rounds.recipes import Gate
from feedback_app.rounds.steps.ceiling import agreement_on_held_out
from feedback_app.rounds.steps.gate import alarm_of, judge_evaluation
from tests.factories import make_project
from tests.web.judged import RANKINGS, judged_row, run_rows
from tests.web.round_rows import round_at

GOOD = {
    "win_rate/parent": 0.6, "win_rate/parent_low": 0.52, "win_rate/parent_high": 0.68, "kl/parent": 12.0,
    "response/length": 40.0, "response/length_parent": 50.0, "perplexity/policy": 22.0, "perplexity/base": 20.0,
    "skills/qa_f1": 0.25, "skills/qa_f1_parent": 0.3, "skills/qa_f1_change_parent": -0.05,
    "skills/qa_f1_change_parent_low": -0.1, "skills/qa_f1_change_parent_high": 0.0,
}  # fmt: skip


def failed(metrics: dict[str, Any], **bounds: float) -> list[str]:
    """Return what the gate says of each bound that does not hold."""
    checks = judge_evaluation(metrics, dataclasses.replace(Gate(), **bounds))  # type: ignore[arg-type]
    return [f"{check['name']}: {check['said']}" for check in checks if not check["passed"]]


def test_a_good_policy_passes_every_bound_and_all_are_named() -> None:
    checks = judge_evaluation(GOOD, Gate(min_length_ratio=0.5))
    assert all(check["passed"] for check in checks)
    assert [check["name"] for check in checks] == [
        "win rate over the parent", "KL to the parent", "response length", "response length",
        "perplexity on a fixed text", "answering questions",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("changed", "bounds", "said"),
    [
        # The interval's upper end decides: 49 % is plainly worse than the parent, 50 % may be as good.
        ({"win_rate/parent_high": 0.49}, {}, "win rate over the parent: 60% (95 % interval 52% to 49%)"),
        ({"kl/parent": 12.1}, {"max_kl": 12.0}, "KL to the parent: 12.1 nats a response; at most 12"),
        # 40 tokens against 9 are 4.4 times as many.
        ({"response/length_parent": 9.0}, {}, "response length: 40 tokens against the parent's 9; at most 4 times"),
        # 40 of 50 are 0.8.
        ({}, {"min_length_ratio": 0.81}, "response length: 40 tokens against the parent's 50; at least 0.81 times"),
        # 61 / 20 = 3.05.
        ({"perplexity/policy": 61.0}, {}, "perplexity on a fixed text: 3.05 times the base's; at most 3"),
    ],
)
def test_one_bound_that_is_broken_is_the_one_that_is_named(
    changed: dict[str, float], bounds: dict[str, float], said: str
) -> None:
    [reason] = failed(GOOD | changed, **bounds)
    assert reason.startswith(said)


@pytest.mark.parametrize(
    ("changed", "bounds"),
    [
        ({"win_rate/parent_high": 0.5}, {}),
        ({"kl/parent": 12.0}, {"max_kl": 12.0}),
        ({"response/length": 200.0}, {}),  # 200 / 50 = 4, the bound itself
        ({}, {"min_length_ratio": 0.8}),
        ({"perplexity/policy": 60.0}, {}),  # 60 / 20 = 3
    ],
)
def test_a_bound_itself_still_passes(changed: dict[str, float], bounds: dict[str, float]) -> None:
    assert failed(GOOD | changed, **bounds) == []


BASE = {"win_rate/base": 0.7, "win_rate/base_low": 0.6, "win_rate/base_high": 0.8, "kl/base": 30.0}
REWARD = {
    "reward_under_test/accuracy": 0.66, "reward_under_test/accuracy_low": 0.6, "reward_under_test/accuracy_high": 0.72,
    "agreement/held_out": 0.8,
}  # fmt: skip


@pytest.mark.parametrize(
    ("changed", "bounds", "said"),
    [
        ({}, {"win_rate_over_base": 0.81}, "win rate over the base: 70% (95 % interval 60% to 80%); its upper end"),
        ({}, {"max_kl_from_base": 29.0}, "KL to the base: 30.0 nats a response; at most 29"),
        # Of the 80 % that annotators agree on, 91 % are 72.8 %: above the interval's end at 72 %.
        ({}, {"reward_accuracy": 0.91}, "reward model against annotators: right on 66% of held-out pairs (95 % inter"),
        # The more annotators agree, the more is asked: 90 % of 81 % are 72.9 %.
        ({"agreement/held_out": 0.81}, {"reward_accuracy": 0.9}, "reward model against annotators: right on 66%"),
        ({"alarm/rang": ["alarm/kl"], "alarm/update": 12}, {}, "over-optimisation alarm: it rang at update 12 (alarm"),
    ],
)
def test_what_a_recipe_asks_for_beside_the_usual_bounds_is_looked_at_too(
    changed: dict[str, Any], bounds: dict[str, float], said: str
) -> None:
    [reason] = failed(GOOD | BASE | REWARD | changed, **bounds)
    assert reason.startswith(said)


@pytest.mark.parametrize(
    ("changed", "bounds"),
    [
        ({}, {"win_rate_over_base": 0.8, "max_kl_from_base": 30.0, "reward_accuracy": 0.89}),
        ({"alarm/rang": [], "alarm/update": 0}, {}),
        ({"alarm/rang": ["alarm/kl"], "alarm/update": 12}, {"no_alarm": False}),
        # The weights that were put back had not rung.
        ({"alarm/rang": ["alarm/kl"], "alarm/update": 12, "alarm/back_to_update": 9.0}, {}),
    ],
)
def test_what_is_met_or_not_asked_for_passes(changed: dict[str, Any], bounds: dict[str, float]) -> None:
    assert failed(GOOD | BASE | REWARD | changed, **bounds) == []


def test_a_reward_model_is_not_held_against_an_agreement_that_nobody_knows() -> None:
    unknown = {name: value for name, value in (GOOD | REWARD).items() if name != "agreement/held_out"}
    [reason] = failed(unknown, reward_accuracy=0.5)
    assert "no two of them have judged the same held-out answers" in reason


@pytest.mark.django_db
@pytest.mark.parametrize(
    ("lines", "ended", "found"),
    [
        ([{}, {}], {}, {}),  # PPO was asked to watch for nothing
        ([{"alarm/kl": 0.0}, {"alarm/kl": 0.0}], {}, {"alarm/rang": [], "alarm/update": 0}),
        (
            [{"alarm/kl": 0.0, "alarm/length": 0.0}, {"alarm/kl": 0.0, "alarm/length": 1.0}, {"alarm/kl": 1.0}],
            {"alarm/back_to_update": 1.0},
            {"alarm/rang": ["alarm/length"], "alarm/update": 2, "alarm/back_to_update": 1.0},
        ),
    ],
)
def test_the_alarm_is_read_from_every_update_that_ppo_wrote(
    lines: list[dict[str, float]], ended: dict[str, float], found: dict[str, Any]
) -> None:
    held = round_at(make_project(), "queued", "gate")
    folder = Path(settings.DATA_DIR) / "rounds" / str(held.pk) / "f1" / "ppo"
    folder.mkdir(parents=True)
    rows = [json.dumps({"update": place, **line}) + "\n" for place, line in enumerate(lines, start=1)]
    (folder / "progress.jsonl").write_text("".join(rows))
    held.steps.filter(name="ppo").update(directory=str(folder.relative_to(settings.DATA_DIR)), metrics=ended)
    assert alarm_of(held) == found


@pytest.mark.django_db
def test_the_ceiling_is_how_often_one_annotator_is_right_about_another_on_held_out_pairs() -> None:
    project = make_project()
    texts = [text for number in range(60) if split_of(hash_root(text := f"Question {number}?")) == "validation"]
    # Three annotators on each of two held-out prompts, and one prompt of the train side that must not count.
    verdicts = {texts[0]: (1, 1, 0), texts[1]: (1, 2, 2), "Question 0?": (1, 1, 1)}
    assert split_of(hash_root("Question 0?")) == "train"
    rows = [
        judged_row(
            number,
            prompt=text,
            judgments=[{"annotator": f"a{i}", "ranking": RANKINGS[verdict]} for i, verdict in enumerate(given)],
        )
        for number, (text, given) in enumerate(verdicts.items())
    ]
    assert run_rows(project, rows).rows_new == 3
    # First: two say 1 (each right about the other, and half right by the tie's author): 2 * (1 + 0.5) of 4; the tie
    # itself prefers nothing. Second: the 1 is wrong about both 2s, and each 2 is right once of two: 0 + 0 + 1 + 1 of 6.
    found = agreement_on_held_out(project=project, judgments={})
    assert found == {"agreement/held_out": pytest.approx((3 + 2) / 10), "agreement/held_out_n": 10.0}
    assert agreement_on_held_out(project=make_project(), judgments={}) == {}


def test_zero_turns_a_bound_off() -> None:
    worst = {
        **GOOD, "win_rate/parent_high": 0.0, "kl/parent": 1e9, "response/length": 1e9, "perplexity/policy": 1e9,
        "skills/qa_f1_change_parent_high": -1.0,
    }  # fmt: skip
    off = {"win_rate_over_parent": 0.0, "max_kl": 0.0, "max_length_ratio": 0.0, "max_perplexity_ratio": 0.0,
           "max_skill_loss": 0.0}  # fmt: skip
    assert len(failed(worst)) == 5
    assert judge_evaluation(worst, dataclasses.replace(Gate(), **off)) == []  # type: ignore[arg-type]


@pytest.mark.parametrize("missing", ["win_rate/parent", "kl/parent", "response/length", "perplexity/policy"])
def test_a_bound_whose_figure_is_missing_does_not_pass(missing: str) -> None:
    metrics = {name: value for name, value in GOOD.items() if name != missing}
    [reason] = failed(metrics)
    assert "not measured" in reason


@pytest.mark.parametrize("name", ["win_rate/parent_high", "kl/parent", "response/length", "perplexity/policy"])
def test_a_figure_that_is_no_number_does_not_pass(name: str) -> None:
    assert len(failed(GOOD | {name: float("nan")})) == 1
