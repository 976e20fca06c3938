"""Decide from the evaluation whether a policy may go live, and say why in words."""

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
    """Return every bound with whether it holds."""
    checks = []
    if rules.win_rate_over_parent and "win_rate/parent" in metrics:
        mean, low, high = (metrics[f"win_rate/parent{end}"] for end in ("", "_low", "_high"))
        checks.append(_check(
            "win rate over the parent", high >= rules.win_rate_over_parent,
            f"{mean:.0%} (95 % interval {low:.0%} to {high:.0%}); its upper end must reach"
            f" {rules.win_rate_over_parent:.0%}",
        ))  # fmt: skip
    if rules.max_kl and "kl/parent" in metrics:
        kl = metrics["kl/parent"]
        checks.append(
            _check("KL to the parent", kl <= rules.max_kl, f"{kl:.1f} nats a response; at most {rules.max_kl:g}")
        )
    checks += _length(metrics, rules)
    if rules.max_perplexity_ratio and metrics.get("perplexity/base"):
        ratio = metrics["perplexity/policy"] / metrics["perplexity/base"]
        checks.append(_check(
            "perplexity on a fixed text", ratio <= rules.max_perplexity_ratio,
            f"{ratio:.2f} times the base's; at most {rules.max_perplexity_ratio:g}",
        ))  # fmt: skip
    return checks


def _length(metrics: dict[str, Any], rules: Gate) -> list[dict[str, Any]]:
    if not metrics.get("response/length_parent"):
        return []
    ratio = metrics["response/length"] / metrics["response/length_parent"]
    said = f"{metrics['response/length']:.0f} tokens against the parent's {metrics['response/length_parent']:.0f}"
    checks = []
    if rules.max_length_ratio:
        checks.append(_check(
            "response length", ratio <= rules.max_length_ratio, f"{said}; at most {rules.max_length_ratio:g} times"
        ))  # fmt: skip
    if rules.min_length_ratio:
        checks.append(_check(
            "response length", ratio >= rules.min_length_ratio, f"{said}; at least {rules.min_length_ratio:g} times"
        ))  # fmt: skip
    return checks


def _check(name: str, passed: bool, said: str) -> dict[str, Any]:
    return {"name": name, "passed": bool(passed), "said": said}
