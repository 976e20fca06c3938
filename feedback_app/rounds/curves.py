"""A round's curves as a page draws them: aligned for the chart, as a line of SVG without one, and in words."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from django.utils.functional import Promise
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy, ngettext

from feedback_app.rounds.models import Round, RoundStep

WIDTH, HEIGHT = 300, 120
Points = dict[int, float]


@dataclass(frozen=True)
class Line:
    """One metric of a step's progress; part is who reported it where a step trains two models."""

    metric: str
    label: str | Promise
    part: str = ""


@dataclass(frozen=True)
class Chart:
    """One chart of the round page, and what its x axis counts."""

    key: str
    step: str
    label: str | Promise
    unit: str | Promise
    lines: tuple[Line, ...]


NOW = gettext_lazy("this round")
CHARTS = (
    Chart(
        "reward", RoundStep.Name.PPO, gettext_lazy("Reward"), gettext_lazy("mean score of a response"),
        (Line("objective/scores", NOW),),
    ),
    Chart(
        "kl", RoundStep.Name.PPO, gettext_lazy("KL to the reference"), gettext_lazy("nats a response"),
        (Line("objective/kl", NOW),),
    ),
    Chart(
        "length", RoundStep.Name.PPO, gettext_lazy("Response length"), gettext_lazy("tokens"),
        (Line("response/length", NOW),),
    ),
    Chart(
        "entropy", RoundStep.Name.PPO, gettext_lazy("Entropy"), gettext_lazy("nats a token"),
        (Line("objective/entropy", NOW),),
    ),
    Chart("policy_loss", RoundStep.Name.PPO, gettext_lazy("Policy loss"), "", (Line("loss/policy_avg", NOW),)),
    Chart("value_loss", RoundStep.Name.PPO, gettext_lazy("Value loss"), "", (Line("loss/value_avg", NOW),)),
    Chart(
        "reward_loss", RoundStep.Name.REWARD, gettext_lazy("Reward model: loss"), "",
        (
            Line("loss/reward", gettext_lazy("for PPO"), "reward"),
            Line("loss/reward", gettext_lazy("the judge"), "judge"),
        ),
    ),
    Chart(
        "reward_accuracy", RoundStep.Name.REWARD, gettext_lazy("Reward model: held-out accuracy"),
        "",
        (
            Line("reward/accuracy", gettext_lazy("for PPO"), "reward"),
            Line("reward/accuracy", gettext_lazy("the judge"), "judge"),
        ),
    ),
)  # fmt: skip


def points_of(progress: Iterable[Mapping[str, Any]], line: Line) -> Points:
    """Return a metric by update; a line that lacks it, or was written by another part, says nothing."""
    return {
        int(row["update"]): float(row[line.metric])
        for row in progress
        if row.get("part", "") == line.part and isinstance(row.get(line.metric), int | float)
    }


def charts_of(*, held: Round, parent: Round | None) -> list[dict[str, Any]]:
    """Return every chart that there is something to draw of, the parent's line behind where PPO is drawn.

    held, parent: with their steps and progress; parent is the round that made this round's parent.
    """
    own, before = _progress(held), _progress(parent) if parent else {}
    drawn = []
    for chart in CHARTS:
        lines = [
            {"label": str(line.label), "behind": False, "points": points_of(own.get(chart.step, []), line)}
            for line in chart.lines
        ]
        if chart.step == RoundStep.Name.PPO and parent is not None:
            old = points_of(before.get(chart.step, []), chart.lines[0])
            label = _("round %(number)d") % {"number": parent.number}
            lines.insert(0, {"label": label, "behind": True, "points": old})
        lines = [line for line in lines if line["points"]]
        if any(not line["behind"] for line in lines):
            drawn.append(_drawn(chart, lines, _length_of(own.get(chart.step, []))))
    return drawn


def _progress(held: Round) -> dict[str, list[dict[str, Any]]]:
    return {step.name: step.progress for step in held.steps.all()}


def _length_of(progress: Sequence[Mapping[str, Any]]) -> int:
    return max((int(row.get("updates", 0)) for row in progress), default=0)


def _drawn(chart: Chart, lines: list[dict[str, Any]], updates: int) -> dict[str, Any]:
    x = sorted({update for line in lines for update in line["points"]})
    values = [value for line in lines for value in line["points"].values()]
    frame = (min(x[0], 1), max(updates, x[-1]), min(values), max(values))
    newest = [list(line["points"].values())[-1] for line in lines if not line["behind"]]
    return {
        "key": chart.key,
        "label": str(chart.label),
        "unit": str(chart.unit),
        "updates": updates,
        "x": x,
        "lines": [
            {"label": line["label"], "behind": line["behind"], "y": [line["points"].get(at) for at in x]}
            for line in lines
        ],
        "legend": [line["label"] for line in lines if not line["behind"]] if len(newest) > 1 else [],
        "now": " · ".join(figure(value) for value in newest),
        "said": _said(chart, lines, updates),
        "svg": [{"behind": line["behind"], "points": polyline(line["points"], frame)} for line in lines],
    }


def polyline(points: Points, frame: tuple[float, float, float, float]) -> str:
    """Return the points of an SVG polyline within (first x, last x, lowest, highest)."""
    left, right, low, high = frame
    across, up = (right - left) or 1, (high - low) or 1
    placed = [(WIDTH * (x - left) / across, HEIGHT - HEIGHT * (y - low) / up) for x, y in points.items()]
    if len(placed) == 1:  # a line needs two ends; a single point is a short one
        placed.append((placed[0][0] + 2, placed[0][1]))
    return " ".join(f"{x:.1f},{y:.1f}" for x, y in placed)


def _said(chart: Chart, lines: list[dict[str, Any]], updates: int) -> str:
    """Return the chart in words, for whoever hears the page."""
    parts = []
    for line in lines:
        values = list(line["points"].values())
        known = {
            "line": line["label"], "first": figure(values[0]), "last": figure(values[-1]),
            "low": figure(min(values)), "high": figure(max(values)),
        }  # fmt: skip
        parts.append(_("%(line)s: from %(first)s to %(last)s, lowest %(low)s, highest %(high)s") % known)
    done = max(max(line["points"]) for line in lines if not line["behind"])
    counted = ngettext("%(done)d of %(all)d update", "%(done)d of %(all)d updates", updates) % {
        "done": done, "all": updates or done,
    }  # fmt: skip
    return f"{chart.label}. {counted}. {'; '.join(parts)}."


def figure(value: float) -> str:
    """Write a number with three digits that matter."""
    if value and abs(value) < 0.001:
        return f"{value:.1e}"
    digits = next((n for n, limit in enumerate((100, 10, 1)) if abs(value) >= limit), 3)
    return f"{value:.{digits}f}"


def pace(progress: Sequence[Mapping[str, Any]], newest: int = 5) -> float | None:
    """Return the seconds that an update takes, by its own clock and of the newest few; None before the first."""
    timed = [row for row in progress if "time/update_s" in row][-newest:]
    if not timed:
        return None
    return sum(float(row.get("time/rollout_s", 0.0)) + float(row["time/update_s"]) for row in timed) / len(timed)
