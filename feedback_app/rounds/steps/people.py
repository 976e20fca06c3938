"""The human gate: annotators compare a new policy's answers with its parent's, not knowing which is which."""

import json
from typing import Any

from django.core.exceptions import ValidationError
from django.utils.translation import gettext_noop as _

from feedback_app.annotation.models import Prompt, Response
from feedback_app.annotation.sampling import too_alike
from feedback_app.annotation.services import BlindPair, NewResponse, ask_blind_tasks
from feedback_app.annotation.splits import storable
from feedback_app.rounds.blind import BETTER, UNDECIDED, WORSE, BlindStanding, blind_standing
from feedback_app.rounds.leases import fenced
from feedback_app.rounds.models import RoundStep
from feedback_app.rounds.recipes import Gate
from feedback_app.rounds.steps.checks import in_percent, make_check
from feedback_app.rounds.steps.inputs import made_by, parent_of, recipe_of
from feedback_app.rounds.steps.versions import register_version
from feedback_app.rounds.supervisor import StepFailed, StepRun
from feedback_app.serving.backends import SamplingParameters
from feedback_app.serving.models import PolicyVersion
from training.config import EvaluateConfig, make_config

NAME = "blind comparisons"
WITHHELD = _("its round has not let it through: annotators compare it with its parent, or have found it no better")


def ask_people(run: StepRun, rules: Gate) -> dict[str, Any]:
    """Return what the comparisons add to the gate: {"waiting", "needs_approval", "checks", "blind"}.

    May be repeated: what was asked is not asked again, and what was decided stays decided.
    """
    held = run.held
    if not held.gate.get("blind", {}).get("outcome"):
        held.gate = held.gate | {"blind": _ask(run, rules)}
    standing = blind_standing(held)
    assert standing is not None  # asked for just now
    decided = bool(standing.outcome)
    return {
        "waiting": not decided,
        "needs_approval": standing.outcome == UNDECIDED and rules.human_undecided == "approval",
        "checks": [_check(standing, rules)] if decided else [],
        "blind": held.gate["blind"] | (standing.as_json() if decided else {}),
    }


def _ask(run: StepRun, rules: Gate) -> dict[str, Any]:
    """Put the tasks into the queue; return how many verdicts are wanted of how many prompts, and what was left out."""
    held = run.held
    policy = register_version(run, withheld=WITHHELD)
    pairs, left_out = _pairs(run, policy)
    simulated = held.config["judgments"].get("simulated", "exclude") != "exclude"
    try:
        with fenced(round_id=held.pk, fence=held.fence):
            tasks = ask_blind_tasks(
                project=held.project, round_id=held.pk, pairs=pairs, judgments=rules.human_judgments,
                with_simulated=simulated,
            )  # fmt: skip
    except ValidationError as error:  # the protocol has changed since the round began
        raise StepFailed("; ".join(error.messages)) from error
    return {"wanted": rules.human_judgments if tasks else 0, "tasks": tasks, **left_out}


def _pairs(run: StepRun, policy: PolicyVersion) -> tuple[list[BlindPair], dict[str, int]]:
    """Return the pairs that can be compared, whole answers first, and how many prompts were left out and why.

    alike: there is nothing to compare. cut: one of the two alone was cut off by the evaluation's length, and would be
    judged by where that fell; two that were both cut off stand as they are.
    """
    rows = _samples(run)
    there = Prompt.objects.filter(project=run.held.project, pk__in=[row["id"] for row in rows])
    prompts = {str(prompt.pk): prompt for prompt in there}
    sampling = _sampling(run)
    pairs: list[tuple[bool, BlindPair]] = []
    left_out = {"alike": 0, "cut": 0}
    for row in rows:
        new, old, prompt = row["policy"], row["parent"], prompts.get(row["id"])
        if prompt is None or not storable(new) or not storable(old):
            continue  # erased since, or an answer that no text column takes
        if too_alike(new, old):
            left_out["alike"] += 1
        elif row["ended_policy"] != row["ended_parent"]:
            left_out["cut"] += 1
        else:
            both = (_response(row, "policy", policy, sampling), _response(row, "parent", parent_of(run.held), sampling))
            pairs.append((not row["ended_policy"], BlindPair(prompt=prompt, new=both[0], old=both[1])))
    return [pair for _cut, pair in sorted(pairs, key=lambda item: item[0])], left_out


def _samples(run: StepRun) -> list[dict[str, Any]]:
    path = made_by(run.held, RoundStep.Name.EVALUATE) / "samples.jsonl"
    with path.open(encoding="utf-8") as lines:
        rows: list[dict[str, Any]] = [json.loads(line) for line in lines]
    if rows and not {"id", "seed", "ended_policy"} <= rows[0].keys():
        words = _("%(path)s: was written before samples named their prompts; do it again from the evaluation")
        raise StepFailed(words, path=str(path))
    return rows


def _sampling(run: StepRun) -> SamplingParameters:
    """Return how the evaluation draws answers, from the config that it ran with."""
    given = {"policy": "x", "prompts": "x", **recipe_of(run.held).evaluate}
    config = make_config(EvaluateConfig, given)
    return SamplingParameters(config.temperature, config.top_p, config.response_length)


def _response(
    row: dict[str, Any], role: str, policy: PolicyVersion, sampling: SamplingParameters
) -> NewResponse:  # fmt: skip
    return NewResponse(
        text=row[role],
        source=Response.Source.POLICY,
        policy=policy,
        sampling=sampling.as_json(),
        seed=row["seed"],
        token_count=row[f"tokens_{role}"],
        finish_reason="stop" if row[f"ended_{role}"] else "length",
    )


def _check(standing: BlindStanding, rules: Gate) -> dict[str, Any]:
    """Say what the comparisons came to."""
    passed = standing.outcome == BETTER or (standing.outcome == UNDECIDED and rules.human_undecided != "reject")
    if not standing.wanted:
        return make_check(NAME, passed, _("there was nothing to compare: all answers were alike, or one was cut off"))
    if standing.share is None:
        return make_check(NAME, passed, _("there is no verdict"))
    shares = {"share": standing.share, "low": standing.low, "high": standing.high, "bound": standing.bound}
    return make_check(
        NAME, passed, _SAID[standing.outcome], judged=str(standing.judged), prompts=str(standing.prompts),
        **in_percent(shares),
    )  # fmt: skip


_SAID = {
    BETTER: _(
        "%(share)s in %(judged)s verdicts on %(prompts)s prompts (95 %% interval %(low)s to %(high)s): above %(bound)s"
    ),
    WORSE: _(
        "%(share)s in %(judged)s verdicts on %(prompts)s prompts (95 %% interval %(low)s to %(high)s): below %(bound)s"
    ),
    UNDECIDED: _(
        "%(share)s in %(judged)s verdicts on %(prompts)s prompts (95 %% interval %(low)s to %(high)s): neither above"
        " nor below %(bound)s for certain"
    ),
}
