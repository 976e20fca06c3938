"""How far annotators agree, and what each one's judging looks like, from the judgments that count.

Every ranking is read as its pairs of responses: on each pair, in canonical order, an annotator says first, second or
tie, and a pair with an unranked response says nothing. These three are what all figures here are computed over; taken
as nominal, so that Krippendorff's alpha, Cohen's kappa and plain agreement speak of the same thing, and a tie is no
half-agreement that somebody has to weigh. Pairs of one long ranking depend on each other: for them, alpha is a
description and not a test.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations, permutations
from math import isnan
from statistics import median
from typing import Any, Literal
from uuid import UUID

import krippendorff
import numpy as np

from feedback_app.accounts.models import User
from feedback_app.annotation.comparisons import FIRST, TIE, pairs_of
from feedback_app.annotation.models import Judgment, Task
from feedback_app.projects.models import Project

CATEGORIES = 3
# Gold and repeats measure something else than agreement.
KINDS = (Task.Kind.NORMAL, Task.Kind.GATE)

Unit = tuple[UUID, int, int]


@dataclass
class _Annotator:
    """What is counted of one annotator."""

    judged: int = 0
    surplus: int = 0
    seconds: list[float] = field(default_factory=list)
    agreed: int = 0
    compared: int = 0
    first_shown: int = 0
    preferred: int = 0
    ties: int = 0
    pairs: int = 0


def measure_quality(*, project: Project, simulated: bool | None = None) -> dict[str, Any]:
    """Return agreement and per-annotator figures of a project's judgments, voided and surplus ones apart.

    Real judgments (made or imported) and simulated ones are never measured together: `simulated` says which, and
    without it real ones are measured, or simulated ones in a project that has no others. A figure that nothing speaks
    for is None.
    """
    judgments = Judgment.objects.filter(project=project, voided_at=None, task__kind__in=KINDS)
    if simulated is None:
        simulated = not judgments.exclude(origin=Judgment.Origin.SIMULATED).exists() and judgments.exists()
    chosen = judgments.filter(origin=Judgment.Origin.SIMULATED)
    if not simulated:
        chosen = judgments.exclude(origin=Judgment.Origin.SIMULATED)
    fields = ("task_id", "annotator_id", "ranks", "ratings", "assignment__shown_order", "origin", "surplus")
    rows = chosen.values_list(*fields, "lead_time", "active_seconds", "strength")

    people: dict[int, _Annotator] = defaultdict(_Annotator)
    units: dict[Unit, dict[int, int]] = defaultdict(dict)
    scores: dict[str, dict[tuple[UUID, str], list[int]]] = defaultdict(lambda: defaultdict(list))
    strengths: dict[tuple[UUID, int], int] = {}
    tasks: set[UUID] = set()
    for task, annotator, ranks, ratings, shown, origin, surplus, lead_time, active, strength in rows.iterator(
        chunk_size=5000
    ):
        person = people[annotator]
        if surplus:
            person.surplus += 1
            continue
        tasks.add(task)
        person.judged += 1
        if strength is not None:
            strengths[task, annotator] = strength
        if (seconds := lead_time if lead_time is not None else active) is not None:
            person.seconds.append(seconds)
        order = None if origin == Judgment.Origin.IMPORTED else shown
        for first, second, verdict in pairs_of(ranks):
            units[task, first, second][annotator] = verdict
            _count_pair(person, verdict, first, second, order)
        for response, given in ratings.items():
            for attribute, score in given.items():
                scores[attribute][task, response].append(score)
    summary = _summarise(simulated, tasks, people, units, scores)
    return summary | {
        "fleiss_kappa": fleiss_kappa(_counts(units)),
        "agreement_by_strength": _by_strength(units, strengths),
    }


def _count_pair(person: _Annotator, verdict: int, first: int, second: int, shown: Sequence[int] | None) -> None:
    person.pairs += 1
    if verdict == TIE:
        person.ties += 1
    elif shown is not None:
        preferred, other = (first, second) if verdict == FIRST else (second, first)
        person.preferred += 1
        person.first_shown += shown.index(preferred) < shown.index(other)


def _summarise(
    simulated: bool,
    tasks: set[UUID],
    people: Mapping[int, _Annotator],
    units: Mapping[Unit, Mapping[int, int]],
    scores: Mapping[str, Mapping[tuple[UUID, str], Sequence[int]]],
) -> dict[str, Any]:
    tables: dict[tuple[int, int], Counter[tuple[int, int]]] = defaultdict(Counter)
    for verdicts in units.values():
        for a, b in combinations(sorted(verdicts), 2):
            tables[a, b][verdicts[a], verdicts[b]] += 1
    for (a, b), table in tables.items():
        for (left, right), count in table.items():
            for person in (people[a], people[b]):
                person.compared += count
                person.agreed += count * (left == right)
    compared = sum(table.total() for table in tables.values())
    agreed = sum(count for table in tables.values() for (left, right), count in table.items() if left == right)
    names = annotator_names(people)
    return {
        "simulated": simulated,
        "judgments": sum(person.judged for person in people.values()),
        "tasks": len(tasks),
        "krippendorff_alpha": _alpha(_counts(units), "nominal"),
        "pairwise_agreement": _share(agreed, compared),
        "pairwise_agreement_n": compared,
        "cohen_kappa": sorted(
            (_kappa_row(names[a], names[b], table) for (a, b), table in tables.items()),
            key=lambda row: (row["a"], row["b"]),
        ),
        "attributes": {name: _attribute(by_response) for name, by_response in sorted(scores.items())},
        "annotators": sorted(
            (_annotator_row(names[pk], person) for pk, person in people.items()), key=lambda row: row["annotator"]
        ),
    }


def _counts(units: Mapping[Unit, Mapping[int, int]]) -> list[list[int]]:
    """Return how many annotators said first, second and tie on each pair of responses."""
    return [[list(verdicts.values()).count(category) for category in range(CATEGORIES)] for verdicts in units.values()]


def fleiss_kappa(counts: Iterable[Sequence[int]]) -> float | None:
    """Return Fleiss' kappa (Fleiss 1971) of (units, categories) counts, for any number of annotators a unit.

    Units with fewer than two annotators are left out; None where nothing can be compared or one category is all there
    is. With the same number on every unit it is Fleiss' own figure.
    """
    table = [row for row in counts if sum(row) >= 2]
    total = sum(sum(row) for row in table)
    if not table:
        return None
    observed = sum(sum(n * (n - 1) for n in row) / (sum(row) * (sum(row) - 1)) for row in table) / len(table)
    expected = sum((sum(column) / total) ** 2 for column in zip(*table, strict=True))
    return None if expected == 1 else (observed - expected) / (1 - expected)


def _by_strength(
    units: Mapping[Unit, Mapping[int, int]], strengths: Mapping[tuple[UUID, int], int]
) -> list[dict[str, Any]]:
    """Return how often others say the same as a judgment of each strength: weak preferences are where people differ."""
    agreed, compared = Counter[int](), Counter[int]()
    for (task, _first, _second), verdicts in units.items():
        for annotator, other in permutations(verdicts, 2):
            if (strength := strengths.get((task, annotator))) is not None:
                compared[strength] += 1
                agreed[strength] += verdicts[annotator] == verdicts[other]
    return [
        {"strength": strength, "agreement": agreed[strength] / compared[strength], "n": compared[strength]}
        for strength in sorted(compared)
    ]


def _alpha(counts: Iterable[Sequence[int]], level: Literal["nominal", "ordinal"]) -> float | None:
    """Return Krippendorff's alpha of (units, categories) counts; None where fewer than two values can be compared."""
    comparable = [row for row in counts if sum(row) >= 2]
    used = [sum(column) > 0 for column in zip(*comparable, strict=True)]
    if sum(used) < 2:
        return None  # nothing to compare, or one category only: no disagreement could be expected
    alpha = float(krippendorff.alpha(value_counts=np.array(comparable), level_of_measurement=level))
    return None if isnan(alpha) else alpha


def cohen_kappa(table: Mapping[tuple[int, int], int]) -> float | None:
    """Return Cohen's kappa of a confusion table (Cohen 1960, eq. 1); None where both always say one same thing."""
    n = sum(table.values())
    left, right = Counter[int](), Counter[int]()
    for (a, b), count in table.items():
        left[a] += count
        right[b] += count
    observed = sum(count for (a, b), count in table.items() if a == b) / n
    expected = sum(left[category] * right[category] for category in left) / (n * n)
    return None if expected == 1 else (observed - expected) / (1 - expected)


def _kappa_row(a: str, b: str, table: Mapping[tuple[int, int], int]) -> dict[str, Any]:
    first, second = sorted((a, b))  # kappa is symmetric
    return {"a": first, "b": second, "kappa": cohen_kappa(table), "n": sum(table.values())}


def _attribute(by_response: Mapping[tuple[UUID, str], Sequence[int]]) -> dict[str, Any]:
    # Scores are steps of a scale, so ordinal: a miss by one step counts less than a miss by three.
    top = max(score for given in by_response.values() for score in given)
    counts = [[list(given).count(step) for step in range(top + 1)] for given in by_response.values()]
    every = [score for given in by_response.values() for score in given]
    return {"krippendorff_alpha": _alpha(counts, "ordinal"), "mean": sum(every) / len(every), "n": len(every)}


def _annotator_row(name: str, person: _Annotator) -> dict[str, Any]:
    return {
        "annotator": name,
        "judged": person.judged,
        "surplus": person.surplus,
        "median_seconds": median(person.seconds) if person.seconds else None,
        "agreement": _share(person.agreed, person.compared),
        "agreement_n": person.compared,
        "first_shown_share": _share(person.first_shown, person.preferred),
        "first_shown_n": person.preferred,
        "tie_rate": _share(person.ties, person.pairs),
    }


def _share(part: int, whole: int) -> float | None:
    return part / whole if whole else None


def annotator_names(people: Iterable[int]) -> dict[int, str]:
    """Return what to call each annotator: the user name, or the name in the file for one known from an import."""
    users = list(User.objects.filter(pk__in=list(people)).only("username", "display_name", "kind"))
    taken = {user.username for user in users if user.kind != User.Kind.IMPORTED}
    return {user.pk: _name(user, taken) for user in users}


def _name(user: User, taken: set[str]) -> str:
    if user.kind != User.Kind.IMPORTED or not user.display_name or user.display_name in taken:
        return user.username
    return user.display_name
