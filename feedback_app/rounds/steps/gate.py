"""Decide from the evaluation whether a policy may go live, and say why in words."""

from collections.abc import Callable
from typing import Any

from django.utils.translation import gettext_noop as _

from feedback_app.rounds.models import RoundStep
from feedback_app.rounds.recipes import Gate
from feedback_app.rounds.sentences import keep_sentence
from feedback_app.rounds.steps.inputs import metrics_of, recipe_of
from feedback_app.rounds.supervisor import StepRun


def gate(run: StepRun) -> dict[str, Any]:
    """Return {"passed", "needs_approval", "checks": [{"name", "passed", "said", and what said is made of}]}."""
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
        words = _("%(own)s tokens against the parent's %(parents)s; at most %(bound)s times")
        checks.append(_length(metrics, lambda ratio: ratio <= most, words, most))
    if rules.min_length_ratio:
        fewest = rules.min_length_ratio
        words = _("%(own)s tokens against the parent's %(parents)s; at least %(bound)s times")
        checks.append(_length(metrics, lambda ratio: ratio >= fewest, words, fewest))
    if rules.max_perplexity_ratio:
        checks.append(_perplexity(metrics, rules))
    return checks


def _win_rate(metrics: dict[str, Any], rules: Gate) -> dict[str, Any]:
    name, keys = "win rate over the parent", [f"win_rate/parent{end}" for end in ("", "_low", "_high")]
    if (missing := _missing(metrics, *keys)) is not None:
        return _check(name, False, _("not measured: %(keys)s"), keys=missing)
    mean, low, high = (metrics[key] for key in keys)
    wanted = rules.win_rate_over_parent
    words = _("%(mean)s (95 %% interval %(low)s to %(high)s); its upper end must reach %(wanted)s")
    shares = {"mean": mean, "low": low, "high": high, "wanted": wanted}
    return _check(name, high >= wanted, words, **{key: f"{share:.0%}" for key, share in shares.items()})


def _kl(metrics: dict[str, Any], rules: Gate) -> dict[str, Any]:
    name = "KL to the parent"
    if (missing := _missing(metrics, "kl/parent")) is not None:
        return _check(name, False, _("not measured: %(keys)s"), keys=missing)
    kl = metrics["kl/parent"]
    words = _("%(kl)s nats a response; at most %(bound)s")
    return _check(name, kl <= rules.max_kl, words, kl=f"{kl:.1f}", bound=f"{rules.max_kl:g}")


def _length(metrics: dict[str, Any], holds: Callable[[float], bool], words: str, bound: float) -> dict[str, Any]:
    name = "response length"
    if (missing := _missing(metrics, "response/length", "response/length_parent")) is not None:
        return _check(name, False, _("not measured: %(keys)s"), keys=missing)
    mine, parents = metrics["response/length"], metrics["response/length_parent"]
    # A parent that says nothing at all is as long as one token.
    held = holds(mine / max(parents, 1.0))
    return _check(name, held, words, own=f"{mine:.0f}", parents=f"{parents:.0f}", bound=f"{bound:g}")


def _perplexity(metrics: dict[str, Any], rules: Gate) -> dict[str, Any]:
    name = "perplexity on a fixed text"
    if (missing := _missing(metrics, "perplexity/policy", "perplexity/base")) is not None:
        return _check(name, False, _("not measured: %(keys)s"), keys=missing)
    ratio = metrics["perplexity/policy"] / metrics["perplexity/base"]
    most = rules.max_perplexity_ratio
    words = _("%(ratio)s times the base's; at most %(bound)s")
    return _check(name, ratio <= most, words, ratio=f"{ratio:.2f}", bound=f"{most:g}")


def _missing(metrics: dict[str, Any], *keys: str) -> str | None:
    missing = [key for key in keys if key not in metrics]
    return ", ".join(missing) or None


def _check(name: str, passed: bool, words: str, **values: str) -> dict[str, Any]:
    return {"name": name, "passed": bool(passed), **keep_sentence(words, **values)}
