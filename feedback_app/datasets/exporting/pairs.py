"""From judgments to examples: every rule by which a verdict becomes pairs, labels or ranks, in one place."""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import combinations, islice, pairwise
from math import floor

from feedback_app.datasets.exporting.options import WITHOUT_MERIT, ExportOptions
from feedback_app.datasets.exporting.source import TRUNCATED, ExportJudgment, ExportTask

FULL_STRENGTH = 3


@dataclass(slots=True)
class Pair:
    """One response chosen over another, by position; margin by the chosen scale, weight 1 is one judgment."""

    id: str
    chosen: int
    rejected: int
    margin: float
    weight: float


@dataclass(slots=True)
class Label:
    """A response wanted or not, by position."""

    id: str
    place: int
    wanted: bool
    weight: float


@dataclass(slots=True)
class Ranking:
    """Responses by position, and the rank of each: 0 is best, equal is a tie."""

    id: str
    places: list[int]
    ranks: list[int]
    weight: float


@dataclass(slots=True)
class Rating:
    """A response, by position, and its score for each attribute."""

    id: str
    place: int
    scores: dict[str, int]


@dataclass(frozen=True, kw_only=True)
class PairRules:
    """The options, with what they need to know of the project."""

    options: ExportOptions
    # The widest distance that two scores can have under the project's attributes, for margins of ratings.
    rating_span: float = 0.0
    newest_policy: int = 0
    reliability: Mapping[str, float] | None = None

    def pairs_of(self, task: ExportTask) -> list[Pair]:
        """Return a task's pairs; those with a truncated or flagged response are left out by the options."""
        if self.options.combine == "per_judgment":
            pairs = [pair for judgment in task.judgments for pair in self._of_judgment(judgment)]
        else:
            pairs = list(self._of_majority(task))
        kept = [pair for pair in pairs if self._usable(task, pair.chosen) and self._usable(task, pair.rejected)]
        if self.options.policy_decay < 1:
            for pair in kept:
                pair.weight *= self._decay(task, pair)
        return kept

    def pairs_of_prompt(self, tasks: Sequence[ExportTask]) -> Iterator[tuple[ExportTask, Pair]]:
        """Yield the pairs of all tasks of one prompt: one alone, the widest apart of the first, where so chosen."""
        pairs = ((task, pair) for task in tasks for pair in self.pairs_of(task))
        return islice(pairs, 1) if self.options.pairs == "one_per_prompt" else pairs

    def _usable(self, task: ExportTask, place: int) -> bool:
        response = task.responses[place]
        if response.finish_reason == TRUNCATED and not self.options.truncated:
            return False
        return not response.flags.intersection(self.options.without_flags)

    def _decay(self, task: ExportTask, pair: Pair) -> float:
        numbers = [task.responses[place].policy_number for place in (pair.chosen, pair.rejected)]
        ages = [self.newest_policy - number for number in numbers if number is not None]
        return float(self.options.policy_decay ** max(ages, default=0))

    def _of_judgment(self, judgment: ExportJudgment) -> Iterator[Pair]:
        scores = self.scores_of(judgment)
        smallest = self.options.rating_gap if not judgment.ranks else 0.0
        for better, worse in _chosen_pairs(scores, self.options.pairs):
            gap = scores[better] - scores[worse]
            if gap < smallest:
                continue
            yield Pair(f"{judgment.id}:{better}-{worse}", better, worse, self._margin(judgment, gap), 1.0)
        if self.options.ties == "both":
            for i, j in combinations(sorted(scores), 2):
                if scores[i] == scores[j]:
                    yield Pair(f"{judgment.id}:{i}-{j}", i, j, 0.0, 0.5)
                    yield Pair(f"{judgment.id}:{j}-{i}", j, i, 0.0, 0.5)

    def scores_of(self, judgment: ExportJudgment) -> dict[int, float]:
        """Return how good each judged response is, by position: from the ranking, or else from the ratings."""
        if judgment.ranks:
            return {place: float(-rank) for place, rank in enumerate(judgment.ranks) if rank is not None}
        weights = self.options.rating_weights
        return {place: weighted_score(scores, weights) for place, scores in judgment.ratings.items()}

    def _margin(self, judgment: ExportJudgment, gap: float) -> float:
        if self.options.margin == "none":
            return 0.0
        if not judgment.ranks:
            share = min(1.0, gap / self.rating_span) if self.rating_span else 0.0
        else:
            share = (judgment.strength or 0) / FULL_STRENGTH
        return round(share * FULL_STRENGTH if self.options.margin == "large" else share, 6)

    def _of_majority(self, task: ExportTask) -> Iterator[Pair]:
        won, wins = self._won(task)
        for pair in _chosen_pairs(wins, self.options.pairs):
            if pair in won:
                margin, share = won[pair]
                yield Pair(f"{task.id}:{pair[0]}-{pair[1]}", *pair, margin, share)

    def _won(self, task: ExportTask) -> tuple[dict[tuple[int, int], tuple[float, float]], dict[int, float]]:
        """Return the pairs that more (or weightier) judgments assert than deny or call a tie, with (margin, share),
        and how many such pairs each judged response wins (Copeland's score)."""
        votes: dict[tuple[int, int], list[tuple[float, float]]] = defaultdict(list)
        totals: dict[tuple[int, int], float] = defaultdict(float)
        for judgment in task.judgments:
            weight = self._trust(judgment)
            scores = self.scores_of(judgment)
            smallest = self.options.rating_gap if not judgment.ranks else 0.0
            for i, j in combinations(sorted(scores), 2):
                gap = scores[i] - scores[j]
                totals[i, j] += weight
                if gap != 0 and abs(gap) >= smallest:
                    votes[(i, j) if gap > 0 else (j, i)].append((weight, self._margin(judgment, abs(gap))))
        won: dict[tuple[int, int], tuple[float, float]] = {}
        for (i, j), total in totals.items():
            sums = {pair: sum(weight for weight, _ in votes[pair]) for pair in ((i, j), (j, i))}
            tied = total - sum(sums.values())
            for pair, weight in sums.items():
                if weight > max(tied, sums[pair[::-1]]) and weight > 0:
                    margin = sum(w * m for w, m in votes[pair]) / weight
                    won[pair] = (round(margin, 6), round(weight / total, 6))
        wins = {place: float(sum(pair[0] == place for pair in won)) for pair in totals for place in pair}
        return won, wins

    def _trust(self, judgment: ExportJudgment) -> float:
        return 1.0 if self.reliability is None else self.reliability.get(judgment.annotator, 0.0)

    def labels_of(self, task: ExportTask) -> list[Label]:
        """Return the best responses as wanted and the worst as not; of a verdict that all are bad, all as not."""
        given = [
            (self._trust(judgment), Label(f"{judgment.id}:{place}", place, wanted, 1.0))
            for judgment in task.judgments
            for place, wanted in self._best_and_worst(judgment)
            if self._usable(task, place)
        ]
        if self.options.combine == "per_judgment":
            return [label for _, label in given]
        combined = []
        for place in range(len(task.responses)):
            votes = [(trust, label.wanted) for trust, label in given if label.place == place]
            balance = sum(trust if wanted else -trust for trust, wanted in votes)
            if balance:
                share = abs(balance) / sum(trust for trust, _ in votes)
                combined.append(Label(f"{task.id}:{place}", place, balance > 0, round(share, 6)))
        return combined

    def _best_and_worst(self, judgment: ExportJudgment) -> Iterator[tuple[int, bool]]:
        scores = self.scores_of(judgment)
        if judgment.all_bad:
            yield from ((place, False) for place in sorted(scores))
            return
        if not scores:
            return
        best, worst = max(scores.values()), min(scores.values())
        if best == worst or (not judgment.ranks and best - worst < self.options.rating_gap):
            return
        yield from ((place, score == best) for place, score in sorted(scores.items()) if score in (best, worst))

    def rankings_of(self, task: ExportTask) -> list[Ranking]:
        """Return a ranking for each judgment, or one of all where judgments are combined."""
        if self.options.combine != "per_judgment":
            return self.combined_rankings_of(task)
        rankings = (self._ranking(task, judgment.id, self.scores_of(judgment)) for judgment in task.judgments)
        return [ranking for ranking in rankings if ranking is not None]

    def combined_rankings_of(self, task: ExportTask) -> list[Ranking]:
        """Return one ranking, by how many other responses each one beats; none where fewer than two are left."""
        ranking = self._ranking(task, task.id, self._won(task)[1])
        return [ranking] if ranking else []

    def _ranking(self, task: ExportTask, name: str, scores: Mapping[int, float]) -> Ranking | None:
        places = [place for place in sorted(scores) if self._usable(task, place)]
        tiers = sorted({scores[place] for place in places}, reverse=True)
        if len(places) < 2:
            return None
        return Ranking(name, places, [tiers.index(scores[place]) for place in places], 1.0)

    def ratings_of(self, task: ExportTask) -> list[Rating]:
        """Return each judgment's scores of each response, or their means, rounded, where judgments are combined."""
        given = [
            (judgment, place, scores)
            for judgment in task.judgments
            for place, scores in sorted(judgment.ratings.items())
            if self._usable(task, place)
        ]
        if self.options.combine == "per_judgment":
            return [Rating(f"{judgment.id}:{place}", place, scores) for judgment, place, scores in given]
        sums: dict[int, dict[str, list[tuple[float, int]]]] = defaultdict(lambda: defaultdict(list))
        for judgment, place, scores in given:
            for attribute, score in scores.items():
                sums[place][attribute].append((self._trust(judgment), score))
        return [
            Rating(f"{task.id}:{place}", place, {name: _rounded_mean(scores) for name, scores in of_place.items()})
            for place, of_place in sorted(sums.items())
        ]


def _rounded_mean(scores: Sequence[tuple[float, int]]) -> int:
    weight = sum(trust for trust, _ in scores)
    if not weight:
        scores, weight = [(1.0, score) for _, score in scores], float(len(scores))
    return floor(sum(trust * score for trust, score in scores) / weight + 0.5)


def weighted_score(scores: Mapping[str, int], weights: Mapping[str, float]) -> float:
    """Return how good a response is by its attributes; without weights each counts 1, and style nothing."""
    return sum(score * _weight_of(attribute, weights) for attribute, score in scores.items())


def _weight_of(attribute: str, weights: Mapping[str, float]) -> float:
    if weights:
        return weights.get(attribute, 0.0)
    return 0.0 if attribute in WITHOUT_MERIT else 1.0


def rating_span(bounds: Mapping[str, tuple[int, int]], weights: Mapping[str, float]) -> float:
    """Return the widest distance of two scores, of attributes by (minimum, maximum)."""
    return sum(abs(_weight_of(key, weights)) * (high - low) for key, (low, high) in bounds.items())


def _chosen_pairs(scores: Mapping[int, float], which: str) -> tuple[tuple[int, int], ...]:
    """Return (better, worse) places, the widest apart first; ties make none."""
    return _pairs_of_scores(tuple(scores.items()), which)


@lru_cache(maxsize=4096)
def _pairs_of_scores(given: tuple[tuple[int, float], ...], which: str) -> tuple[tuple[int, int], ...]:
    """Return them for scores by place: millions of judgments come to a few of these."""
    scores = dict(given)
    tiers = sorted(set(scores.values()), reverse=True)
    if which == "adjacent":
        wanted = set(pairwise(tiers))
    elif which == "best_worst":
        wanted = {(tiers[0], tiers[-1])} if len(tiers) > 1 else set()
    else:
        wanted = set(combinations(tiers, 2))
    places = sorted(scores, key=lambda place: (-scores[place], place))
    pairs = [(a, b) for a, b in combinations(places, 2) if scores[a] != scores[b] and (scores[a], scores[b]) in wanted]
    return tuple(sorted(pairs, key=lambda pair: scores[pair[1]] - scores[pair[0]]))
