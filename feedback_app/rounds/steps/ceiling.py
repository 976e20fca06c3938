"""How far annotators agree on the held-out pairs: no reward model can be asked to agree with them more than that."""

from collections.abc import Mapping
from dataclasses import replace
from itertools import combinations, permutations
from typing import Any

from feedback_app.datasets.exporting.options import parse_options
from feedback_app.datasets.exporting.pairs import PairRules
from feedback_app.datasets.exporting.source import stream_tasks
from feedback_app.projects.models import Project


def agreement_on_held_out(*, project: Project, judgments: Mapping[str, Any]) -> dict[str, float]:
    """Return {"agreement/held_out": share, "agreement/held_out_n": how many were compared}, {} where nothing could be.

    The accuracy that one annotator would have on the pairs of another, measured as a reward model's is: a pair is two
    answers of which the other prefers one; the same preference counts 1, the opposite 0, a tie a half. Reviewers'
    verdicts are left aside, for they stand alone. judgments: the recipe's export options.
    """
    options = replace(parse_options({"truncated": True, **judgments}), adjudicated="ignore")
    rules = PairRules(options=options)
    right, compared = 0.0, 0
    for task in stream_tasks(project=project, split="validation", options=options):
        scores = [rules.scores_of(judgment) for judgment in task.judgments]
        for one, other in permutations(scores, 2):
            for i, j in combinations(sorted(one.keys() & other.keys()), 2):
                if one[i] != one[j]:
                    right += _agrees(one[i] - one[j], other[i] - other[j])
                    compared += 1
    return {"agreement/held_out": right / compared, "agreement/held_out_n": float(compared)} if compared else {}


def _agrees(preference: float, other: float) -> float:
    return 0.5 if other == 0 else float(preference * other > 0)
