"""Decide from the evaluation whether a policy may go live, and say why in words."""

from collections.abc import Callable
from typing import Any

from feedback_app.rounds.models import RoundStep
from feedback_app.rounds.recipes import Gate
from feedback_app.rounds.steps.inputs import metrics_of, recipe_of
from feedback_app.rounds.supervisor import StepRun


def gate(run: StepRun) -> dict[str, Any]:
    """Return {"passed", "needs_approval", "checks": [{"name", "passed", "said"}]}."""
    rules = recipe_of(run.held).gate
    checks = judge_evaluation(metrics_of(run.held, RoundStep.Name.EVALUATE), rules)
    return {
        "passed": all(check["passed"] for check in checks),
        "needs_approval": rules.approval,
        "checks": checks,
    }


def judge_evaluation(metrics: dict[str, Any], rules: Gate) -> list[dict[str, Any]]:
    """Return every bound that is on with whether it holds; one whose figure is missing does not."""
    checks = []
    if rules.win_rate_over_parent:
        checks.append(_win_rate(metrics, rules))
    if rules.max_kl:
        checks.append(_kl(metrics, rules))
    if rules.max_length_ratio:
        most = rules.max_length_ratio
        checks.append(_length(metrics, lambda ratio: ratio <= most, f"at most {most:g} times"))
    if rules.min_length_ratio:
        fewest = rules.min_length_ratio
        checks.append(_length(metrics, lambda ratio: ratio >= fewest, f"at least {fewest:g} times"))
    if rules.max_perplexity_ratio:
        checks.append(_perplexity(metrics, rules))
    return checks


def _win_rate(metrics: dict[str, Any], rules: Gate) -> dict[str, Any]:
    name, keys = "win rate over the parent", [f"win_rate/parent{end}" for end in ("", "_low", "_high")]
    if (missing := _missing(metrics, *keys)) is not None:
        return _check(name, False, missing)
    mean, low, high = (metrics[key] for key in keys)
    wanted = rules.win_rate_over_parent
    said = f"{mean:.0%} (95 % interval {low:.0%} to {high:.0%}); its upper end must reach {wanted:.0%}"
    return _check(name, high >= wanted, said)


def _kl(metrics: dict[str, Any], rules: Gate) -> dict[str, Any]:
    name = "KL to the parent"
    if (missing := _missing(metrics, "kl/parent")) is not None:
        return _check(name, False, missing)
    kl = metrics["kl/parent"]
    return _check(name, kl <= rules.max_kl, f"{kl:.1f} nats a response; at most {rules.max_kl:g}")


def _length(metrics: dict[str, Any], holds: Callable[[float], bool], bound: str) -> dict[str, Any]:
    name = "response length"
    if (missing := _missing(metrics, "response/length", "response/length_parent")) is not None:
        return _check(name, False, missing)
    mine, parents = metrics["response/length"], metrics["response/length_parent"]
    # A parent that says nothing at all is as long as one token.
    return _check(
        name, holds(mine / max(parents, 1.0)), f"{mine:.0f} tokens against the parent's {parents:.0f}; {bound}"
    )


def _perplexity(metrics: dict[str, Any], rules: Gate) -> dict[str, Any]:
    name = "perplexity on a fixed text"
    if (missing := _missing(metrics, "perplexity/policy", "perplexity/base")) is not None:
        return _check(name, False, missing)
    ratio = metrics["perplexity/policy"] / metrics["perplexity/base"]
    return _check(
        name, ratio <= rules.max_perplexity_ratio,
        f"{ratio:.2f} times the base's; at most {rules.max_perplexity_ratio:g}",
    )  # fmt: skip


def _missing(metrics: dict[str, Any], *keys: str) -> str | None:
    missing = [key for key in keys if key not in metrics]
    return f"not measured: {', '.join(missing)}" if missing else None


def _check(name: str, passed: bool, said: str) -> dict[str, Any]:
    return {"name": name, "passed": bool(passed), "said": said}
