"""How far each annotator's verdict counts where judgments are combined by weight."""

from collections import Counter
from collections.abc import Iterable
from itertools import combinations
from math import log

from feedback_app.datasets.exporting.source import ExportTask, verdict_on


def measure_reliability(tasks: Iterable[ExportTask]) -> dict[str, float]:
    """Return each annotator's weight: the log-odds of agreeing with another about a pair, 0 for who does no better
    than a coin.

    The log-odds are the weights of the best vote of independent judges (Nitzan and Paroush, 1982); the share is
    smoothed by one agreement and one disagreement, so an annotator with no company counts nothing yet, and of two
    who judge alone together neither counts more.
    """
    agreed: Counter[str] = Counter()
    compared: Counter[str] = Counter()
    for task in tasks:
        for first, second in combinations(task.judgments, 2):
            for i, j in combinations(range(len(task.responses)), 2):
                one, other = verdict_on(first, i, j), verdict_on(second, i, j)
                if one is None or other is None:
                    continue
                for annotator in (first.annotator, second.annotator):
                    compared[annotator] += 1
                    agreed[annotator] += one == other
    shares = {annotator: (agreed[annotator] + 1) / (count + 2) for annotator, count in compared.items()}
    return {annotator: max(0.0, log(share / (1 - share))) for annotator, share in shares.items()}
