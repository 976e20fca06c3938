"""Decide from the evaluation whether a policy may go live, and say why in words."""

import json
from collections.abc import Callable
from typing import Any

from django.utils.translation import gettext_noop as _

from feedback_app.rounds.models import Round, RoundStep
from feedback_app.rounds.recipes import Gate
from feedback_app.rounds.steps.checks import in_percent, make_check
from feedback_app.rounds.steps.inputs import made_by, metrics_of, recipe_of
from feedback_app.rounds.steps.people import ask_people
from feedback_app.rounds.steps.retained import judge_skills
from feedback_app.rounds.supervisor import StepRun


def gate(run: StepRun) -> dict[str, Any]:
    """Return {"passed", "needs_approval", "waiting", "checks": [{"name", "passed", "said", and what that is made of}]}.

    People are asked once all that is measured holds. While they judge, waiting is true, and nothing is decided.
    """
    rules = recipe_of(run.held).gate
    checks = judge_evaluation(metrics_of(run.held, RoundStep.Name.EVALUATE) | alarm_of(run.held), rules)
    verdict = {"waiting": False, "needs_approval": rules.approval}
    if rules.human_judgments and all(check["passed"] for check in checks):
        asked = ask_people(run, rules)
        checks += asked.pop("checks")
        verdict = asked | {"needs_approval": rules.approval or asked["needs_approval"]}
    return verdict | {"passed": all(check["passed"] for check in checks), "checks": checks}


def alarm_of(held: Round) -> dict[str, Any]:
    """Return which signs rang at which update of PPO for the first time; nothing where it watched for none."""
    if held.elsewhere:
        return {}
    with (made_by(held, RoundStep.Name.PPO) / "progress.jsonl").open(encoding="utf-8") as lines:
        rows = [json.loads(line) for line in lines]
    signs = [{name: rings for name, rings in row.items() if name.startswith("alarm/")} for row in rows]
    if not any(signs):
        return {}
    first = next((place for place, of in enumerate(signs) if any(of.values())), None)
    found: dict[str, Any] = {"alarm/rang": [], "alarm/update": 0}
    if first is not None:
        rang = [name for name, rings in signs[first].items() if rings]
        found = {"alarm/rang": rang, "alarm/update": rows[first]["update"]}
    ended = metrics_of(held, RoundStep.Name.PPO)
    return found | {name: ended[name] for name in ("alarm/back_to_update",) if name in ended}


def judge_evaluation(metrics: dict[str, Any], rules: Gate) -> list[dict[str, Any]]:
    """Return every bound that is on with whether it holds; one whose figure is missing does not."""
    checks = []
    if rules.win_rate_over_parent:
        checks.append(_win_rate(metrics, "parent", rules.win_rate_over_parent))
    if rules.win_rate_over_base:
        checks.append(_win_rate(metrics, "base", rules.win_rate_over_base))
    if rules.reward_accuracy:
        checks.append(_reward_accuracy(metrics, rules.reward_accuracy))
    if rules.no_alarm and "alarm/rang" in metrics:
        checks.append(_alarm(metrics))
    if rules.max_kl:
        checks.append(_kl(metrics, "parent", rules.max_kl))
    if rules.max_kl_from_base:
        checks.append(_kl(metrics, "base", rules.max_kl_from_base))
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
    if rules.max_skill_loss:
        checks += judge_skills(metrics, rules.max_skill_loss)
    return checks


def _win_rate(metrics: dict[str, Any], role: str, wanted: float) -> dict[str, Any]:
    name, keys = f"win rate over the {role}", [f"win_rate/{role}{end}" for end in ("", "_low", "_high")]
    if (missing := _missing(metrics, *keys)) is not None:
        return make_check(name, False, _("not measured: %(keys)s"), keys=missing)
    mean, low, high = (metrics[key] for key in keys)
    words = _("%(mean)s (95 %% interval %(low)s to %(high)s); its upper end must reach %(wanted)s")
    shares = {"mean": mean, "low": low, "high": high, "wanted": wanted}
    return make_check(name, high >= wanted, words, **in_percent(shares))


def _reward_accuracy(metrics: dict[str, Any], share: float) -> dict[str, Any]:
    """Hold PPO's reward model against the annotators: nobody can agree with them more than they do with each other."""
    name = "reward model against annotators"
    keys = [f"reward_under_test/accuracy{end}" for end in ("", "_low", "_high")]
    if (missing := _missing(metrics, *keys)) is not None:
        return make_check(name, False, _("not measured: %(keys)s"), keys=missing)
    if "agreement/held_out" not in metrics:
        words = _("how far annotators agree is not known: no two of them have judged the same held-out answers")
        return make_check(name, False, words)
    mean, low, high = (metrics[key] for key in keys)
    wanted = share * metrics["agreement/held_out"]
    words = _(
        "right on %(mean)s of held-out pairs (95 %% interval %(low)s to %(high)s), where annotators agree on"
        " %(ceiling)s; its upper end must reach %(wanted)s"
    )
    shares = {"mean": mean, "low": low, "high": high, "ceiling": metrics["agreement/held_out"], "wanted": wanted}
    return make_check(name, high >= wanted, words, **in_percent(shares))


def _alarm(metrics: dict[str, Any]) -> dict[str, Any]:
    """Let a policy pass where no alarm rang, or where the weights are those of before it did."""
    name = "over-optimisation alarm"
    if not metrics["alarm/rang"]:
        return make_check(name, True, _("it has not rung"))
    signs, update = ", ".join(metrics["alarm/rang"]), str(metrics["alarm/update"])
    if "alarm/back_to_update" in metrics:
        words = _("it rang at update %(update)s (%(signs)s); the weights are those of update %(back)s, before it")
        back = f"{metrics['alarm/back_to_update']:.0f}"
        return make_check(name, True, words, update=update, signs=signs, back=back)
    return make_check(name, False, _("it rang at update %(update)s (%(signs)s)"), update=update, signs=signs)


def _kl(metrics: dict[str, Any], role: str, most: float) -> dict[str, Any]:
    name, key = f"KL to the {role}", f"kl/{role}"
    if (missing := _missing(metrics, key)) is not None:
        return make_check(name, False, _("not measured: %(keys)s"), keys=missing)
    kl = metrics[key]
    words = _("%(kl)s nats a response; at most %(bound)s")
    return make_check(name, kl <= most, words, kl=f"{kl:.1f}", bound=f"{most:g}")


def _length(metrics: dict[str, Any], holds: Callable[[float], bool], words: str, bound: float) -> dict[str, Any]:
    name = "response length"
    if (missing := _missing(metrics, "response/length", "response/length_parent")) is not None:
        return make_check(name, False, _("not measured: %(keys)s"), keys=missing)
    mine, parents = metrics["response/length"], metrics["response/length_parent"]
    # A parent that says nothing at all is as long as one token.
    held = holds(mine / max(parents, 1.0))
    return make_check(name, held, words, own=f"{mine:.0f}", parents=f"{parents:.0f}", bound=f"{bound:g}")


def _perplexity(metrics: dict[str, Any], rules: Gate) -> dict[str, Any]:
    name = "perplexity on a fixed text"
    if (missing := _missing(metrics, "perplexity/policy", "perplexity/base")) is not None:
        return make_check(name, False, _("not measured: %(keys)s"), keys=missing)
    ratio = metrics["perplexity/policy"] / metrics["perplexity/base"]
    most = rules.max_perplexity_ratio
    words = _("%(ratio)s times the base's; at most %(bound)s")
    return make_check(name, ratio <= most, words, ratio=f"{ratio:.2f}", bound=f"{most:g}")


def _missing(metrics: dict[str, Any], *keys: str) -> str | None:
    missing = [key for key in keys if key not in metrics]
    return ", ".join(missing) or None
