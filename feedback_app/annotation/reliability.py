"""Who can be relied on, and which policy is preferred: models fitted to the judgments, by libraries that know how."""

from collections import defaultdict
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import numpy as np
from django.db.models import Count

from feedback_app.annotation.comparisons import FIRST, SECOND, TIE, pairs_of
from feedback_app.annotation.models import Check, Judgment, Review, Task, TaskResponse
from feedback_app.annotation.verdict_table import KINDS
from feedback_app.projects.models import Project

Floats = np.ndarray[Any, np.dtype[np.float64]]
Integers = np.ndarray[Any, np.dtype[np.int64]]

BOOTSTRAPS = 200
INTERVAL = (2.5, 97.5)
# A small pull towards equal strength: without it a policy that never lost would be infinitely good.
REGULARISATION = 0.1
# The models are fitted to so many newest judgments: enough to know anybody by, and a second to compute.
FITTED_TO = 20_000


@dataclass(frozen=True)
class PolicyScore:
    """A policy's Bradley-Terry score (natural logarithm of odds, mean 0) with its bootstrap interval."""

    policy: str
    score: float
    low: float
    high: float
    pairs: int


def annotator_reliability(*, project: Project) -> dict[str, float]:
    """Return the probability that each annotator says what is true, by Dawid and Skene's model (1979).

    The truth is latent: who agrees with reliable people is reliable. Only annotators who judged a pair that somebody
    else judged too are in it; empty where nobody did.
    """
    # A second to import, and pandas with it: only who opens the quality page waits for it.
    import pandas
    from crowdkit.aggregation.classification.dawid_skene import DawidSkene

    rows = [
        (f"{task}:{i}:{j}", annotator, verdict)
        for task, annotator, ranks in _rankings(project)
        for i, j, verdict in pairs_of(ranks)
    ]
    votes: dict[str, int] = defaultdict(int)
    for unit, _annotator, _verdict in rows:
        votes[unit] += 1
    shared = [row for row in rows if votes[row[0]] > 1]
    if not shared:
        return {}
    table = pandas.DataFrame(shared, columns=["task", "worker", "label"])
    fitted = DawidSkene(n_iter=100).fit(table)
    priors: Any = fitted.priors_
    # errors_ holds P(said | true) in the row (annotator, said) and the column true.
    right: dict[str, float] = dict.fromkeys(table["worker"], 0.0)
    errors: Any = fitted.errors_
    for (annotator, said), row in errors.iterrows():
        right[annotator] += float(priors.get(said, 0.0)) * float(row.get(said, 0.0))
    return right


def _rankings(project: Project) -> list[tuple[UUID, str, list[int | None]]]:
    rows = (
        Judgment.objects.filter(project=project, voided_at=None, surplus=False, task__kind__in=KINDS)
        .exclude(origin=Judgment.Origin.SIMULATED)
        .order_by("-created_at")
        .values_list("task_id", "annotator__username", "ranks")[:FITTED_TO]
    )
    return list(rows)


def check_scores(*, project: Project) -> dict[str, dict[str, float]]:
    """Return each annotator's mean score and count on gold, qualification and repeated tasks."""
    found: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    rows = Check.objects.filter(project=project, judgment__voided_at=None).values_list(
        "annotator__username", "kind", "score"
    )
    for annotator, kind, score in rows:
        found[annotator][kind].append(score)
    names = {Task.Kind.GOLD: "gold", Task.Kind.QUALIFICATION: "qualification", Task.Kind.REPEAT: "consistency"}
    return {
        annotator: {
            key: value
            for kind, scores in kinds.items()
            for key, value in (
                (names[Task.Kind(kind)], sum(scores) / len(scores)),
                (f"{names[Task.Kind(kind)]}_n", float(len(scores))),
            )
        }
        for annotator, kinds in found.items()
    }


def review_counts(*, project: Project) -> dict[str, dict[str, int]]:
    """Return how many of each annotator's judgments stand at each review outcome."""
    found: dict[str, dict[str, int]] = defaultdict(lambda: dict.fromkeys(Review.Outcome.values, 0))
    rows = Review.objects.filter(judgment__project=project).values_list("judgment__annotator__username", "outcome")
    for annotator, outcome, count in rows.annotate(count=Count("id")):
        found[annotator][outcome] = count
    return dict(found)


def policy_scores(*, project: Project, seed: int = 0) -> list[PolicyScore]:
    """Return Bradley-Terry scores of the policies whose responses were judged against each other, best first.

    Ties count half a win for each side. Intervals: bootstrap over tasks, for pairs of one task depend on each other.
    Responses of imported models stand under the model's name.
    """
    names, wins = _wins(project)
    if len(names) < 2:
        return []
    tasks = int(wins.task.max()) + 1
    scores = wins.fit(np.ones(tasks), len(names))
    chance = np.random.default_rng(seed)
    draws = np.array(
        [wins.fit(chance.multinomial(tasks, np.full(tasks, 1 / tasks)), len(names)) for _ in range(BOOTSTRAPS)]
    )
    low, high = np.percentile(draws, INTERVAL, axis=0)
    met = np.bincount(np.concatenate([wins.winner, wins.loser]), np.tile(wins.weight, 2), len(names))
    found = [
        PolicyScore(name, float(scores[i]), float(low[i]), float(high[i]), round(met[i]))
        for i, name in enumerate(names)
    ]
    return sorted(found, key=lambda score: -score.score)


@dataclass(frozen=True)
class _Wins:
    """Wins of one policy over another, one entry each (N): the task it was on, both policies' numbers, its weight."""

    task: Integers
    winner: Integers
    loser: Integers
    weight: Floats

    def fit(self, task_weights: Floats | Integers, policies: int) -> Floats:
        """Return scores (policies) of mean 0, each task counted so many times."""
        import choix  # scipy's optimisers come with it: only who asks for scores waits for them

        cells = self.winner * policies + self.loser
        weights = self.weight * np.asarray(task_weights, dtype=np.float64)[self.task]
        matrix: Floats = np.bincount(cells, weights, policies * policies).astype(np.float64)
        fitted: Floats = choix.ilsr_pairwise_dense(matrix.reshape(policies, policies), alpha=REGULARISATION)
        return np.asarray(fitted - fitted.mean(), dtype=np.float64)


def _wins(project: Project) -> tuple[list[str], _Wins]:
    """Return the names of the policies by number, and every win between two different ones."""
    judged = Judgment.objects.filter(
        project=project, voided_at=None, surplus=False, task__kind__in=KINDS
    ).exclude(origin=Judgment.Origin.SIMULATED)  # fmt: skip
    rows = list(judged.order_by("-created_at").values_list("task_id", "ranks")[:FITTED_TO])
    names_of = _policies_of({task for task, _ranks in rows})
    policies: dict[str, int] = {}
    tasks: dict[UUID, int] = {}
    wins: list[tuple[int, int, int, float]] = []
    for task, ranks in rows:
        for i, j, verdict in pairs_of(ranks):
            left, right = names_of[task][i], names_of[task][j]
            if not left or not right or left == right:
                continue
            a, b = (policies.setdefault(name, len(policies)) for name in (left, right))
            place = tasks.setdefault(task, len(tasks))
            wins += {
                FIRST: [(place, a, b, 1.0)],
                SECOND: [(place, b, a, 1.0)],
                TIE: [(place, a, b, 0.5), (place, b, a, 0.5)],
            }[verdict]
    table = np.array(wins).reshape(-1, 4)
    task_N, winner_N, loser_N = table[:, :3].T.astype(np.int64)
    return list(policies), _Wins(task_N, winner_N, loser_N, table[:, 3])


def _policies_of(tasks: set[UUID]) -> dict[UUID, list[str]]:
    """Return the policy or imported model of each response of the tasks, in canonical order."""
    found: dict[UUID, list[str]] = defaultdict(list)
    places = TaskResponse.objects.filter(task_id__in=tasks).order_by("task_id", "position")
    for task, policy, model in places.values_list("task_id", "response__policy__name", "response__model_name"):
        found[task].append(policy or model)
    return found
