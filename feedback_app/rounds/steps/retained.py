"""Hold what a policy can still do against what its parent could: learning to please must not cost other skills."""

from typing import Any

from django.utils.translation import gettext_noop as _

from feedback_app.sentences import keep_sentence

# Of each kind of skill, the score that decides, and what the check is called.
DECIDES = {
    "skills/qa_f1": "answering questions",
    "skills/summary_rougeL": "summarising",
    "skills/dialogue_rougeL": "dialogue",
}


def judge_skills(metrics: dict[str, Any], most_lost: float) -> list[dict[str, Any]]:
    """Return a check for each kind of skill that was measured.

    A skill fails where a larger part of the parent's score than `most_lost` is lost for certain: the upper end of the
    difference's interval decides. A file of one kind has no other kinds; where there is none at all, nothing passes.
    """
    measured = [key for key in DECIDES if f"{key}_change_parent" in metrics]
    if not measured:
        keys = ", ".join(DECIDES)
        return [{"name": "retained skills", "passed": False, **keep_sentence(_("not measured: %(keys)s"), keys=keys)}]
    return [_skill(metrics, key, most_lost) for key in measured]


def _skill(metrics: dict[str, Any], key: str, most_lost: float) -> dict[str, Any]:
    own, parents = metrics[key], metrics[f"{key}_parent"]
    change, low, high = (metrics[f"{key}_change_parent{end}"] for end in ("", "_low", "_high"))
    least = -most_lost * parents
    words = _(
        "%(own)s of 100 against the parent's %(parents)s: %(change)s (95 %% interval %(low)s to %(high)s); its upper"
        " end must reach %(least)s"
    )
    points = {"own": f"{100 * own:.1f}", "parents": f"{100 * parents:.1f}"}
    points |= {
        name: f"{100 * value + 0.0:+.1f}"  # and no -0.0
        for name, value in (("change", change), ("low", low), ("high", high), ("least", least))
    }
    return {"name": DECIDES[key], "passed": bool(high >= least), **keep_sentence(words, **points)}
