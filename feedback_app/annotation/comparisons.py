"""Rankings read as their pairs: the one place that says when two verdicts agree."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations

FIRST, SECOND, TIE = range(3)


def pairs_of(ranks: Sequence[int | None]) -> Iterator[tuple[int, int, int]]:
    """Yield (i, j, verdict) for each pair of ranked responses i < j, by canonical position."""
    for (i, left), (j, right) in combinations(enumerate(ranks), 2):
        if left is not None and right is not None:
            yield i, j, TIE if left == right else FIRST if left < right else SECOND


def pair_agreement(ranks: Sequence[int | None], other: Sequence[int | None]) -> float | None:
    """Return the share of pairs ranked by both on which they say the same; None where there is no such pair."""
    verdicts = {(i, j): verdict for i, j, verdict in pairs_of(other)}
    same = [verdict == verdicts[i, j] for i, j, verdict in pairs_of(ranks) if (i, j) in verdicts]
    return sum(same) / len(same) if same else None


def gold_agreement(ranks: Sequence[int | None], expected: Sequence[int | None]) -> float | None:
    """Return the share of the expected verdict's pairs that a ranking says too; None where it expects none.

    A pair that was left unranked is missed: saying nothing does not pass a test.
    """
    verdicts = {(i, j): verdict for i, j, verdict in pairs_of(ranks)}
    hits = [verdicts.get((i, j)) == verdict for i, j, verdict in pairs_of(expected)]
    return sum(hits) / len(hits) if hits else None


def rating_agreement(
    ratings: Mapping[str, Mapping[str, int]], expected: Mapping[str, Mapping[str, int]], tolerance: int
) -> float | None:
    """Return the share of expected scores that are met within the tolerance; None where none are expected."""
    hits = [
        name in (given := ratings.get(response, {})) and abs(given[name] - score) <= tolerance
        for response, scores in expected.items()
        for name, score in scores.items()
    ]
    return sum(hits) / len(hits) if hits else None
