"""A policy version's model card, written from what is known of it and nothing else."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from django.utils.translation import override

from feedback_app.rounds.curves import figure
from feedback_app.rounds.models import Round
from feedback_app.rounds.recipe_text import recipe_as_toml, without_operators
from feedback_app.serving.models import PolicyVersion
from feedback_app.serving.selectors import family

IMPROVED = (
    "It was improved to please the annotators of this project under its guidelines, on prompts like theirs, and"
    " measured on no others."
)
ELSEWHERE = (
    "It was made elsewhere; what it learned from is not known here. Its evaluation is on prompts of this project alone."
)


def write_model_card(policy: PolicyVersion, made_by: Round | None) -> str:
    """Return the card's Markdown, with the lines between --- that a model hub reads."""
    with override("en"):  # in one language, whoever takes it away
        origin = _origin(policy, made_by, family(policy=policy))
    parts = [
        f"---\npipeline_tag: text-generation\nlibrary_name: transformers\ntags:\n  - rlhf\n---\n# {policy.name}\n",
        origin,
        _evaluated(policy.evaluation),
    ]
    if made_by is not None and policy.source != PolicyVersion.Source.REGISTERED:
        shown, _kept = without_operators(made_by.config)
        parts.append(f"## Recipe\n\n```toml\n{recipe_as_toml(shown)}```\n")
    parts.append(f"## Limits\n\n{ELSEWHERE if policy.source == PolicyVersion.Source.REGISTERED else IMPROVED}\n")
    if policy.tainted_at is not None:
        parts.append(f"Something was erased of what it learned from: {policy.taint_reason}\n")
    return "\n".join(parts)


def _origin(policy: PolicyVersion, made_by: Round | None, line: Sequence[PolicyVersion]) -> str:
    base = line[-1]
    lines = [
        f"- Project: {policy.project.name}",
        f"- Made: {policy.created_at:%Y-%m-%d}, {policy.get_source_display()}",
        f"- Line: {' ← '.join(version.name for version in line)}",
        f"- Base model: {Path(base.directory).name if base.source == PolicyVersion.Source.BASE else 'not known here'}",
    ]
    if made_by is not None:
        simulated = ", simulated judgments among them" if made_by.simulated else ""
        lines.append(f"- Round: {made_by.number}{simulated}")
        if made_by.dataset is not None:
            lines.append(
                f"- Dataset version: {made_by.dataset.number}, sha256 `{made_by.dataset.content_sha256}`,"
                f" {made_by.dataset.manifest.get('judgments', '?')} judgments"
            )
    if policy.manifest_sha256:
        lines.append(f"- Manifest: sha256 `{policy.manifest_sha256}`")
    if policy.note:
        lines.append(f"\n{policy.note}")
    return "\n".join(lines) + "\n"


# What is in a card, in its order; a share has its interval beside it.
ROWS = (
    ("win_rate/parent", "Win rate over the parent"),
    ("win_rate/base", "Win rate over the base"),
    ("reward_under_test/accuracy", "Accuracy of PPO's reward model on held-out pairs"),
    ("reward/accuracy", "Accuracy of the judge on held-out pairs"),
    ("agreement/held_out", "Agreement of one annotator with another on them"),
    ("reward/length_rule", "Accuracy of the rule that the longer answer wins"),
    ("reward_under_test/longer_preferred", "Pairs where PPO's reward model prefers the longer answer"),
    ("reward_under_test/longer_chosen", "Pairs where people do"),
    ("reward_under_test/length_spearman", "Rank correlation of its score with length"),
    ("reward_under_test/accuracy_shorter_chosen", "Its accuracy where people chose the shorter answer"),
    ("kl/parent", "KL to the parent, nats a response"),
    ("kl/base", "KL to the base, nats a response"),
    ("response/length", "Tokens of a response"),
    ("response/length_parent", "Tokens of the parent's"),
    ("perplexity/policy", "Perplexity on a fixed text"),
    ("perplexity/base", "Perplexity of the base on it"),
    ("skills/qa_f1", "Answering questions, F1 as SQuAD's"),
    ("skills/qa_f1_change_parent", "Its difference from the parent's"),
    ("skills/summary_rougeL", "Summarising, ROUGE-L"),
    ("skills/summary_rougeL_change_parent", "Its difference from the parent's"),
    ("skills/dialogue_rougeL", "Replies in dialogue, ROUGE-L"),
    ("skills/dialogue_rougeL_change_parent", "Its difference from the parent's"),
)


def _evaluated(metrics: dict[str, Any]) -> str:
    if not metrics:
        return "## Evaluation\n\nIt was not measured here.\n"
    lines = ["## Evaluation\n", "| | value | 95 % interval |", "|---|---|---|"]
    for key, label in ROWS:
        if key in metrics:
            low, high = metrics.get(f"{key}_low"), metrics.get(f"{key}_high")
            interval = f"{figure(low)} to {figure(high)}" if low is not None and high is not None else ""
            lines.append(f"| {label} | {figure(metrics[key])} | {interval} |")
    judge = (
        "The judge of the win rate was trained on prompts that PPO's reward model never saw."
        if metrics.get("independent_judge", True)
        else "The judge of the win rate is the reward model that PPO was trained against: too few prompts for two."
    )
    return "\n".join(lines) + f"\n\nMeasured on {int(metrics.get('n/prompts', 0))} held-out prompts. {judge}\n"
