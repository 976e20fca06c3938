"""The lines of an evaluation as pages show them: a share with its interval, or a number beside the parent's."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from django.utils.translation import gettext as _


@dataclass(frozen=True, kw_only=True)
class Figure:
    """One line of an evaluation: a share with its interval, or a number beside the parent's and the base's."""

    label: str
    value: float
    unit: str = ""
    low: float | None = None
    high: float | None = None
    half: bool = False
    beside: list[tuple[str, float]] = field(default_factory=list)
    note: str = ""

    @property
    def share(self) -> dict[str, Any] | None:
        """Return the interval as the drawing takes it, in hundredths; None where there is none."""
        if self.low is None or self.high is None:
            return None
        return {
            "share": self.value, "low": self.low, "high": self.high, "at": 100 * self.value, "from": 100 * self.low,
            "width": max(100 * (self.high - self.low), 0.5),
        }  # fmt: skip


def compared(metrics: Mapping[str, Any], key: str, own: str, label: str, unit: str) -> list[Figure]:
    """Return one figure beside the parent's and the base's, none where it was not measured."""
    if f"{key}{own}" not in metrics:
        return []
    joint = "/" if own else "_"
    beside = [
        (name, metrics[f"{key}{joint}{role}"])
        for role, name in (("parent", _("parent")), ("base", _("base")))
        if f"{key}{joint}{role}" in metrics
    ]
    return [Figure(label=label, value=metrics[f"{key}{own}"], unit=unit, beside=beside)]


def skill_figures(metrics: Mapping[str, Any]) -> list[Figure]:
    """Return what was kept of the skills, in hundredths, each by the scores that say most; all are in metrics.json."""
    labels = (
        ("qa_exact", _("Questions answered to the letter")), ("qa_f1", _("Answering questions (F1)")),
        ("summary_rougeL", _("Summarising (ROUGE-L)")), ("dialogue_rougeL", _("Dialogue (ROUGE-L)")),
    )  # fmt: skip
    found = []
    for name, label in labels:
        key = f"skills/{name}"
        if key not in metrics:
            continue
        beside = [
            (word, 100 * metrics[f"{key}_{role}"])
            for role, word in (("parent", _("parent")), ("base", _("base")))
            if f"{key}_{role}" in metrics
        ]
        note = _("over %(n)d items") % {"n": int(metrics[f"n/skills_{name.partition('_')[0]}"])}
        if f"{key}_change_parent" in metrics:
            change, low, high = (f"{100 * metrics[f'{key}_change_parent{end}']:+.1f}" for end in ("", "_low", "_high"))
            note = _("%(change)s from the parent's, %(low)s to %(high)s; %(over)s") % {
                "change": change, "low": low, "high": high, "over": note,
            }  # fmt: skip
        found.append(Figure(label=label, value=100 * metrics[key], unit="/ 100", beside=beside, note=note))
    if "skills/dialogue_logprob" in metrics:
        # By the token, so that a likely reply's is small, as of the fixed text.
        values = {f"perplexity{role}": math.exp(-metrics[f"skills/dialogue_logprob{role}"])
                  for role in ("", "_parent", "_base") if f"skills/dialogue_logprob{role}" in metrics}  # fmt: skip
        found += compared(values, "perplexity", "", _("Perplexity of good replies"), "")
    return found
