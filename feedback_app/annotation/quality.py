"""How far annotators agree, and what each one's judging looks like, from the judgments that count.

Every ranking is read as its pairs of responses: on each pair, in canonical order, an annotator says first, second or
tie, and a pair with an unranked response says nothing. These three are what all figures here are computed over; taken
as nominal, so that Krippendorff's alpha, Cohen's kappa and plain agreement speak of the same thing, and a tie is no
half-agreement that somebody has to weigh. Pairs of one long ranking depend on each other: for them, alpha is a
description and not a test.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import isnan
from statistics import median
from typing import Any, Literal

import krippendorff
import numpy as np

from feedback_app.accounts.models import User
from feedback_app.annotation.comparisons import TIE
from feedback_app.annotation.models import Judgment
from feedback_app.annotation.verdict_table import (
    KINDS,
    SILENT,
    Integers,
    ScoreCounts,
    VerdictTable,
    read_scores,
    read_verdicts,
)
from feedback_app.projects.models import Project


@dataclass
class _Annotator:
    """What is counted of one annotator; seconds is the median, None where no time is known."""

    judged: int
    surplus: int
    seconds: float | None
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
    if simulated is None:
        judgments = Judgment.objects.filter(project=project, voided_at=None, task__kind__in=KINDS)
        simulated = not judgments.exclude(origin=Judgment.Origin.SIMULATED).exists() and judgments.exists()
    table = read_verdicts(project=project, simulated=simulated)
    counts = table.counts()
    tables = table.confusions()
    compared = sum(pair.total() for pair in tables.values())
    agreed = sum(count for pair in tables.values() for (left, right), count in pair.items() if left == right)
    people = np.unique(table.annotator_N).tolist()
    names = annotator_names(people)
    by_week = _by_week(table)
    return {
        "simulated": simulated,
        "judgments": int((~table.surplus_N).sum()),
        "tasks": table.tasks,
        "krippendorff_alpha": _alpha(counts, "nominal"),
        "pairwise_agreement": _share(agreed, compared),
        "pairwise_agreement_n": compared,
        "cohen_kappa": sorted(
            (_kappa_row(names[a], names[b], pair) for (a, b), pair in tables.items()),
            key=lambda row: (row["a"], row["b"]),
        ),
        "attributes": {
            name: _attribute(scores) for name, scores in read_scores(project=project, simulated=simulated).items()
        },
        "annotators": sorted(
            (
                _annotator_row(names[pk], person) | {"agreement_by_week": weeks}
                for (pk, person), weeks in zip(_count_people(table, people, tables).items(), by_week[:-1], strict=True)
            ),
            key=lambda row: row["annotator"],
        ),
        "fleiss_kappa": fleiss_kappa(counts),
        "agreement_by_strength": _by_strength(table),
        "agreement_by_week": by_week[-1],
    }


def _count_people(
    table: VerdictTable, people: list[int], tables: Mapping[tuple[int, int], Counter[tuple[int, int]]]
) -> dict[int, _Annotator]:
    """Return what is counted of each annotator."""
    _ids, number_N = np.unique(table.annotator_N, return_inverse=True)

    def per_person(rows: Any) -> list[int]:
        found: list[int] = np.bincount(number_N[rows], minlength=len(people)).tolist()
        return found

    found = {
        pk: _Annotator(judged=judged, surplus=surplus, seconds=seconds)
        for pk, judged, surplus, seconds in zip(
            people,
            per_person(~table.surplus_N),
            per_person(table.surplus_N),
            _seconds(table, number_N, len(people)),
            strict=True,
        )
    }
    for verdict_N, first_N in zip(table.verdicts_PN, table.preferred_first_PN, strict=True):
        columns = (per_person(verdict_N != SILENT), per_person(verdict_N == TIE), per_person(first_N == 1),
                   per_person(first_N != SILENT))  # fmt: skip
        for person, pairs, ties, first, preferred in zip(found.values(), *columns, strict=True):
            person.pairs += pairs
            person.ties += ties
            person.first_shown += first
            person.preferred += preferred
    for who, pair in tables.items():
        for (left, right), count in pair.items():
            for pk in who:
                found[pk].compared += count
                found[pk].agreed += count * (left == right)
    return found


def _seconds(table: VerdictTable, number_N: Any, people: int) -> list[float | None]:
    """Return each annotator's median time, None where none is known."""
    known = ~table.surplus_N & ~np.isnan(table.seconds_N)
    of_person: dict[int, list[float]] = defaultdict(list)
    for number, seconds in zip(number_N[known].tolist(), table.seconds_N[known].tolist(), strict=True):
        of_person[number].append(seconds)
    return [median(of_person[number]) if number in of_person else None for number in range(people)]


def fleiss_kappa(counts: Sequence[Sequence[int]] | Integers) -> float | None:
    """Return Fleiss' kappa (Fleiss 1971) of (units, categories) counts, for any number of annotators a unit.

    Units with fewer than two annotators are left out; None where nothing can be compared or one category is all there
    is. With the same number on every unit it is Fleiss' own figure.
    """
    if not len(counts):
        return None
    table = np.asarray(counts, np.int64)
    table = table[table.sum(axis=1) >= 2]
    if not len(table):
        return None
    said = table.sum(axis=1)
    observed = float(((table * (table - 1)).sum(axis=1) / (said * (said - 1))).mean())
    expected = float(((table.sum(axis=0) / table.sum()) ** 2).sum())
    return None if expected == 1 else (observed - expected) / (1 - expected)


def _by_strength(table: VerdictTable) -> list[dict[str, Any]]:
    """Return how often others say the same as a judgment of each strength: weak preferences are where people differ."""
    agreed, compared = table.agreement_by_strength()
    return [
        {"strength": strength, "agreement": same / n, "n": n}
        for strength, (same, n) in enumerate(zip(agreed.tolist(), compared.tolist(), strict=True))
        if n
    ]


def _by_week(table: VerdictTable) -> list[list[dict[str, Any]]]:
    """Return agreement week by week, of each annotator in order of id, and of all of them last; named by its Monday."""
    mondays, agreed, compared = table.agreement_by_week()
    return [
        [
            {"week": monday.isoformat(), "agreement": same / n, "n": n}
            for monday, same, n in zip(mondays, *row, strict=True)
            if n
        ]
        for row in zip(agreed.tolist(), compared.tolist(), strict=True)
    ]


def _alpha(counts: Integers, level: Literal["nominal", "ordinal"]) -> float | None:
    """Return Krippendorff's alpha of (units, categories) counts; None where fewer than two values can be compared."""
    comparable = counts[counts.sum(axis=1) >= 2]
    if (comparable.sum(axis=0) > 0).sum() < 2:
        return None  # nothing to compare, or one category only: no disagreement could be expected
    alpha = float(krippendorff.alpha(value_counts=comparable, level_of_measurement=level))
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


def _attribute(scores: ScoreCounts) -> dict[str, Any]:
    # Scores are steps of a scale, so ordinal: a miss by one step counts less than a miss by three.
    alpha = _alpha(scores.counts_RS, "ordinal")
    return {"krippendorff_alpha": alpha, "mean": scores.total / scores.given, "n": scores.given}


def _annotator_row(name: str, person: _Annotator) -> dict[str, Any]:
    return {
        "annotator": name,
        "judged": person.judged,
        "surplus": person.surplus,
        "median_seconds": person.seconds,
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
