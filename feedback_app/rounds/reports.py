"""What the round page says: how each step goes, how long it still takes, what the evaluation and the gate found."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from django.conf import settings
from django.db.models import Prefetch, QuerySet
from django.utils import timezone
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from feedback_app.projects.models import Project
from feedback_app.rounds.curves import pace
from feedback_app.rounds.figures import Figure, compared, skill_figures
from feedback_app.rounds.models import Round, RoundStep
from feedback_app.rounds.selectors import rounds_of
from feedback_app.sentences import say_sentence

State = RoundStep.State


@dataclass(frozen=True, kw_only=True)
class StepReport:
    """One step as the strip shows it: share of its work done (None where it is not known), seconds taken and left."""

    step: RoundStep
    share: float | None = None
    done: int = 0
    total: int = 0
    seconds: float | None = None
    seconds_left: float | None = None
    notes: list[str] = field(default_factory=list)

    @property
    def percent(self) -> int:
        return round(100 * (self.share or 0))


def rounds_with_steps(*, project: Project) -> QuerySet[Round]:
    """Return a project's rounds, newest first, with their steps but without the long curves."""
    steps = RoundStep.objects.defer("progress").order_by("position")
    return rounds_of(project=project).prefetch_related(Prefetch("steps", queryset=steps))


def round_by_number(*, project: Project, number: int) -> Round | None:
    """Return one round with its steps and curves."""
    related = ("policy", "parent", "recipe", "created_by", "dataset")
    found = Round.objects.filter(project=project, number=number).select_related(*related)
    return found.prefetch_related("steps").first()


def round_before(held: Round) -> Round | None:
    """Return the round that made this one's parent policy, with its steps; None where no round did."""
    if held.parent is None or held.parent.round_id is None:
        return None
    return Round.objects.filter(pk=held.parent.round_id).prefetch_related("steps").first()


def strip_of(held: Round, now: datetime | None = None) -> list[StepReport]:
    """Return the round's steps as they stand."""
    now = now or timezone.now()
    parts = _reward_parts(held)
    return [_report(step, now, parts if step.name == RoundStep.Name.REWARD else 1) for step in held.steps.all()]


def _reward_parts(held: Round) -> int:
    """Return how many models the reward step trains: a judge of its own too, where there were prompts for one."""
    exported = step_named(held, RoundStep.Name.EXPORT)
    return 2 if exported is not None and exported.metrics.get("pairs/judge") else 1


def _report(step: RoundStep, now: datetime, parts: int) -> StepReport:
    seconds = None
    if step.started_at is not None and step.state != State.PENDING:
        seconds = ((step.finished_at or now) - step.started_at).total_seconds()
    notes = [_(note) for note in step.metrics.get("notes", [])]
    if step.metrics.get("skipped"):
        notes.append(_("skipped: %(why)s") % {"why": _(step.metrics["skipped"])})
    if step.state == State.DONE:
        return StepReport(step=step, share=1.0, seconds=seconds, notes=notes)
    done, total = _counted(step.progress, parts)
    share = done / total if total else None
    left = _seconds_left(step, share, seconds, total - done) if step.state == State.RUNNING else None
    return StepReport(
        step=step, share=share, done=done, total=total, seconds=seconds, seconds_left=left, notes=notes
    )  # fmt: skip


def _counted(progress: Sequence[Mapping[str, Any]], parts: int) -> tuple[int, int]:
    """Return (updates done, updates in all); a part that has not begun is taken to be as long as the one that has."""
    newest: dict[str, Mapping[str, Any]] = {str(row.get("part", "")): row for row in progress if "update" in row}
    done = sum(int(row["update"]) for row in newest.values())
    total = sum(int(row.get("updates", 0)) for row in newest.values())
    if newest and len(newest) < parts:
        total += (parts - len(newest)) * (total // len(newest))
    return done, total


def _seconds_left(step: RoundStep, share: float | None, seconds: float | None, updates_left: int) -> float | None:
    """Return how long the step still takes: by its updates' own clock, else by the share done so far."""
    if (each := pace(step.progress)) is not None:
        return each * updates_left
    if share and seconds:
        return seconds * (1 - share) / share
    return None


def seconds_left(strip: Sequence[StepReport], like: Round | None) -> float | None:
    """Return how long the round still takes: the running step by its pace, later ones as they took in another round.

    None where the running step has not shown its pace yet. like: a finished round of the project, where there is one.
    """
    left = None
    took = {} if like is None else {step.name: took_seconds(step) for step in like.steps.all()}
    for report in strip:
        if report.step.state == State.RUNNING:
            if report.seconds_left is None:
                return None
            left = report.seconds_left
        elif left is not None and report.step.state == State.PENDING:
            left += took.get(report.step.name) or 0.0
    return left


def took_seconds(step: RoundStep) -> float | None:
    """Return how long a finished step took."""
    if step.started_at is None or step.finished_at is None:
        return None
    return (step.finished_at - step.started_at).total_seconds()


def newest_finished(*, project: Project, before: Round) -> Round | None:
    """Return the newest round that went through, to estimate another by."""
    done = rounds_with_steps(project=project).filter(state=Round.State.SUCCEEDED, elsewhere={})
    return done.filter(number__lt=before.number).first()


def step_named(held: Round, name: str) -> RoundStep | None:
    """Return a step of a round whose steps are at hand."""
    return next((step for step in held.steps.all() if step.name == name), None)


def running_step(held: Round) -> RoundStep | None:
    """Return the step at work, or else the next one; None where all are done."""
    steps = list(held.steps.all())
    return next((s for s in steps if s.state == State.RUNNING), None) or next(
        (s for s in steps if s.state != State.DONE), None
    )


def evaluation_figures(metrics: Mapping[str, Any]) -> list[Figure]:
    """Return what an evaluation found, in the order that a person decides by; what was not measured is left out."""
    asked = int(metrics.get("n/prompts", 0))
    note = _("over %(n)d prompts") % {"n": asked} if asked else ""
    if metrics and not metrics.get("independent_judge", True):
        note = _("by the reward model that PPO was trained against: too few prompts for a judge of its own")
    figures = [
        *_shares(metrics, "win_rate/parent", _("Wins over the parent"), half=True, note=note),
        *_shares(metrics, "win_rate/base", _("Wins over the base"), half=True, note=note),
        *_accuracies(metrics),
    ]
    figures += [
        Figure(label=label, value=metrics[key], unit=_("nats a response"))
        for key, label in (("kl/parent", _("KL to the parent")), ("kl/base", _("KL to the base")))
        if key in metrics
    ]
    figures += compared(metrics, "response/length", "", _("Response length"), _("tokens"))
    figures += compared(metrics, "perplexity", "/policy", _("Perplexity on a fixed text"), "")
    figures += compared(metrics, "objective/scores", "", _("The judge's mean score"), "")
    figures += skill_figures(metrics)
    if "response/eos_fraction" in metrics:
        figures.append(Figure(
            label=_("Answers that end by themselves"), value=100 * metrics["response/eos_fraction"], unit="%"
        ))  # fmt: skip
    return figures


def _shares(metrics: Mapping[str, Any], key: str, label: str, *, half: bool = False, note: str = "") -> list[Figure]:
    if key not in metrics:
        return []
    low, high = metrics.get(f"{key}_low"), metrics.get(f"{key}_high")
    return [Figure(label=label, value=metrics[key], low=low, high=high, half=half, note=note)]


def _accuracies(metrics: Mapping[str, Any]) -> list[Figure]:
    pairs = int(metrics.get("n/pairs", 0))
    note = _("on %(n)d held-out pairs") % {"n": pairs} if pairs else ""
    found = _shares(
        metrics, "reward_under_test/accuracy", _("Reward model agrees with people"), half=True, note=note
    ) + _shares(metrics, "reward/accuracy", _("The judge agrees with people"), half=True, note=note)
    if "agreement/held_out" in metrics:
        found.append(Figure(
            label=_("One annotator agrees with another"), value=metrics["agreement/held_out"], half=True,
            low=metrics["agreement/held_out"], high=metrics["agreement/held_out"],
            note=_("what a reward model can reach at the most"),
        ))  # fmt: skip
    if "reward/length_rule" in metrics:
        found.append(Figure(
            label=_("“The longer answer wins” agrees with people"), value=metrics["reward/length_rule"], half=True,
            low=metrics["reward/length_rule"], high=metrics["reward/length_rule"],
            note=_("what a reward model has to beat"),
        ))  # fmt: skip
    return found + _length_bias(metrics)


def _length_bias(metrics: Mapping[str, Any]) -> list[Figure]:
    """Return whether the reward model likes longer answers more than people do, and what it makes of short ones."""
    found = []
    if "reward_under_test/longer_preferred" in metrics:
        note = _("people: %(share).0f %% of the pairs; rank correlation of score and length %(rank).2f") % {
            "share": 100 * metrics["reward_under_test/longer_chosen"],
            "rank": metrics.get("reward_under_test/length_spearman", 0.0),
        }
        label, share = _("Reward model prefers the longer answer"), metrics["reward_under_test/longer_preferred"]
        found.append(Figure(label=label, value=share, low=share, high=share, half=True, note=note))
    if "reward_under_test/accuracy_shorter_chosen" in metrics:
        label = _("Reward model agrees where people chose the shorter")
        share = metrics["reward_under_test/accuracy_shorter_chosen"]
        note = _("on %(n)d held-out pairs") % {"n": int(metrics["reward_under_test/n_shorter_chosen"])}
        found.append(Figure(label=label, value=share, low=share, high=share, half=True, note=note))
    return found


def evaluation_answers(held: Round) -> list[dict[str, Any]]:
    """Return what the new policy, its parent and the base answered to the same prompts, none chosen for its answer.

    Each is {"prompt": messages, "answers": [{"role", "label", "text", "score"}], "gain"}, in the evaluation's order,
    which a hash made; gain is None without a judge.
    """
    step = step_named(held, RoundStep.Name.EVALUATE)
    path = Path(settings.DATA_DIR) / step.directory / "samples.jsonl" if step and step.directory else None
    if path is None or not path.is_file():
        return []
    with path.open(encoding="utf-8") as lines:
        return [_answer(json.loads(line)) for line in lines]


def _answer(row: Mapping[str, Any]) -> dict[str, Any]:
    roles = [("policy", _("new")), ("parent", _("parent")), ("base", _("base"))]
    answers = [
        {"role": role, "label": label, "text": row[role], "score": row.get(f"score_{role}")}
        for role, label in roles
        if role in row
    ]
    gain = None
    if "score_policy" in row and "score_parent" in row:
        gain = row["score_policy"] - row["score_parent"]
    return {"prompt": row["prompt"], "answers": answers, "gain": gain}


GATE_NAMES = {
    "win rate over the parent": gettext_lazy("Win rate over the parent"),
    "win rate over the base": gettext_lazy("Win rate over the base"),
    "reward model against annotators": gettext_lazy("Reward model against annotators"),
    "over-optimisation alarm": gettext_lazy("Over-optimisation alarm"),
    "KL to the parent": gettext_lazy("KL to the parent"),
    "KL to the base": gettext_lazy("KL to the base"),
    "response length": gettext_lazy("Response length"),
    "perplexity on a fixed text": gettext_lazy("Perplexity on a fixed text"),
    "blind comparisons": gettext_lazy("Blind comparisons by annotators"),
    "retained skills": gettext_lazy("Retained skills"),
    "answering questions": gettext_lazy("Answering questions (F1)"),
    "summarising": gettext_lazy("Summarising (ROUGE-L)"),
    "dialogue": gettext_lazy("Dialogue (ROUGE-L)"),
}


def gate_rows(held: Round) -> list[dict[str, Any]]:
    """Return the gate's checks as the page lists them."""
    return [
        {"name": GATE_NAMES.get(check["name"], check["name"]), "passed": check["passed"], "said": say_sentence(check)}
        for check in held.gate.get("checks", [])
    ]


def beside(metrics: Mapping[str, Any], parents: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return what was measured of a version and of its parent alike, each over its own parent, in words and figures."""
    labels = [
        ("win_rate/parent", _("Wins over its own parent"), True),
        ("win_rate/base", _("Wins over the base"), True),
        ("reward_under_test/accuracy", _("Its reward model agrees with people"), True),
        ("kl/base", _("KL to the base"), False),
        ("response/length", _("Response length"), False),
        ("perplexity/policy", _("Perplexity on a fixed text"), False),
    ]
    return [
        {"label": label, "share": share, "own": metrics.get(key), "parents": parents.get(key)}
        for key, label, share in labels
        if key in metrics and key in parents
    ]
