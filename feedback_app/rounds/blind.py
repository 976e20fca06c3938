"""How a round's blind comparisons stand: a new policy against its parent, by people who cannot tell them apart."""

from collections import defaultdict
from dataclasses import asdict, dataclass
from typing import Any
from uuid import UUID

from django.db.models import F

from feedback_app.annotation.models import Judgment, Task, TaskResponse
from feedback_app.datasets.exporting.options import ExportOptions, parse_options
from feedback_app.datasets.exporting.pairs import weighted_score
from feedback_app.rounds.models import Round
from feedback_app.rounds.win_rate import running_interval

BETTER, WORSE, UNDECIDED = "better", "worse", "undecided"


@dataclass(frozen=True, kw_only=True)
class BlindStanding:
    """The new policy's win rate (None before a verdict) with its interval, and what is still to come.

    judged: verdicts that count, of so many prompts. wanted: verdicts at most. waiting: places that are free or held.
    outcome: better, worse or undecided than bound; empty while it waits.
    """

    judged: int
    prompts: int
    wanted: int
    waiting: int
    bound: float
    share: float | None
    low: float
    high: float
    outcome: str

    def as_json(self) -> dict[str, Any]:
        """Return the form that a round keeps once it is decided."""
        return asdict(self)


def waits_for_people(held: Round) -> bool:
    """Say whether a round has come to its gate and waits for blind comparisons, and not to begin."""
    return held.state == Round.State.WAITING_FOR_JUDGMENTS and bool(held.gate.get("waiting"))


def blind_standing(held: Round) -> BlindStanding | None:
    """Return how the comparisons of a round stand, as they were once decided; None where none were asked for.

    A prompt's share is the mean of its verdicts (a win 1, a tie a half), and the interval is over prompts: what several
    people say of one pair of answers is not said independently. Reviewers' verdicts are not among them, for their page
    is not blind; simulated ones are where the round learns from them too.
    """
    kept = held.gate.get("blind")
    if not kept:
        return None
    if kept.get("outcome"):
        return BlindStanding(**{name: kept[name] for name in BlindStanding.__dataclass_fields__})
    scores = _scores(held)
    shares = [sum(of) / len(of) for of in scores.values()]
    low, high = running_interval(shares)
    waiting = sum(
        Task.objects.filter(kind=Task.Kind.GATE, round_id=held.pk, state=Task.State.ACTIVE).values_list(
            F("overlap") - F("counted"), flat=True
        )
    )
    judged, bound, wanted = sum(map(len, scores.values())), held.config["gate"]["human_win_rate"], kept["wanted"]
    ended = not waiting or judged >= wanted or bool(held.gate.get("settled"))
    return BlindStanding(
        judged=judged, prompts=len(shares), wanted=wanted, waiting=waiting, bound=bound,
        share=sum(shares) / len(shares) if shares else None, low=low, high=high,
        outcome=BETTER if low >= bound else WORSE if high < bound else UNDECIDED if ended else "",
    )  # fmt: skip


def blind_figure(held: Round) -> dict[str, Any] | None:
    """Return the comparisons as a page draws them, in hundredths; None where none were asked for."""
    standing = blind_standing(held)
    if standing is None:
        return None
    drawn = None
    if standing.share is not None:
        drawn = {
            "at": 100 * standing.share, "from": 100 * standing.low, "width": 100 * (standing.high - standing.low),
        }  # fmt: skip
    kept = held.gate["blind"]
    return {"standing": standing, "drawn": drawn, "tasks": kept["tasks"], "alike": kept["alike"], "cut": kept["cut"]}


def _scores(held: Round) -> dict[UUID, list[float]]:
    """Return by task what each verdict says of the new policy's answer: 1 better, 0.5 as good, 0 worse."""
    tasks = Task.objects.filter(kind=Task.Kind.GATE, round_id=held.pk)
    new: dict[UUID, TaskResponse] = {}
    old: dict[UUID, TaskResponse] = {}
    for place in TaskResponse.objects.filter(task__in=tasks).select_related("response"):
        (new if place.response.policy_id == held.policy_id else old)[place.task_id] = place
    options = parse_options(held.config["judgments"])
    judgments = Judgment.objects.filter(task__in=tasks, surplus=False, voided_at=None)
    if options.simulated == "exclude":
        judgments = judgments.exclude(origin=Judgment.Origin.SIMULATED)
    found: dict[UUID, list[float]] = defaultdict(list)
    for judgment in judgments.order_by("created_at").only("task_id", "ranks", "ratings", "all_bad"):
        said = _says(judgment, new[judgment.task_id], old[judgment.task_id], options)
        if said is not None:
            found[judgment.task_id].append(said)
    return found


def _says(judgment: Judgment, new: TaskResponse, old: TaskResponse, options: ExportOptions) -> float | None:
    """Return what a verdict says of the new answer; None where it says nothing of the two."""
    gap, smallest = None, 0.0
    if judgment.ranks:
        ours, theirs = judgment.ranks[new.position], judgment.ranks[old.position]
        gap = None if ours is None or theirs is None else float(theirs - ours)
    elif judgment.ratings:
        both = [judgment.ratings.get(str(place.response_id), {}) for place in (new, old)]
        ours_score, theirs_score = (weighted_score(scores, options.rating_weights) for scores in both)
        gap, smallest = ours_score - theirs_score, options.rating_gap
    if gap is None:
        return 0.5 if judgment.all_bad else None
    return 0.5 if gap == 0 or abs(gap) < smallest else float(gap > 0)
