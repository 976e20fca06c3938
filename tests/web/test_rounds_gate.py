"""The gate: hand-made evaluations against bounds, each decision with its reason in words."""

import dataclasses
from typing import Any

import pytest

from feedback_app.rounds.recipes import Gate
from feedback_app.rounds.steps.gate import judge_evaluation

GOOD = {
    "win_rate/parent": 0.6, "win_rate/parent_low": 0.52, "win_rate/parent_high": 0.68, "kl/parent": 12.0,
    "response/length": 40.0, "response/length_parent": 50.0, "perplexity/policy": 22.0, "perplexity/base": 20.0,
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
        "perplexity on a fixed text",
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


def test_zero_turns_a_bound_off() -> None:
    worst = {
        **GOOD, "win_rate/parent_high": 0.0, "kl/parent": 1e9, "response/length": 1e9, "perplexity/policy": 1e9,
    }  # fmt: skip
    off = {"win_rate_over_parent": 0.0, "max_kl": 0.0, "max_length_ratio": 0.0, "max_perplexity_ratio": 0.0}
    assert len(failed(worst)) == 4
    assert judge_evaluation(worst, dataclasses.replace(Gate(), **off)) == []  # type: ignore[arg-type]


@pytest.mark.parametrize("missing", ["win_rate/parent", "kl/parent", "response/length", "perplexity/policy"])
def test_a_bound_whose_figure_is_missing_does_not_pass(missing: str) -> None:
    metrics = {name: value for name, value in GOOD.items() if name != missing}
    [reason] = failed(metrics)
    assert "not measured" in reason


@pytest.mark.parametrize("name", ["win_rate/parent_high", "kl/parent", "response/length", "perplexity/policy"])
def test_a_figure_that_is_no_number_does_not_pass(name: str) -> None:
    assert len(failed(GOOD | {name: float("nan")})) == 1
