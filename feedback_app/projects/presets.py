"""The protocols that are shipped: what the field asks of its annotators, each with its words in other languages."""

from dataclasses import replace

from feedback_app.projects.preset_words import TRANSLATIONS
from feedback_app.projects.protocols import Attribute, Flag, Protocol

# HelpSteer2-Preference's and HelpSteer3's scale from -3 to 3 (arXiv:2410.01257), reasons in words with it.
HELPSTEER_LABELS = ("about the same", "slightly better", "better", "much better")
STRENGTH_LABELS = ("negligibly better or unsure", "slightly better", "better", "significantly better")

# HelpSteer2's five attributes and their steps (arXiv:2406.08673, appendix), in our words.
HELPSTEER2 = (
    Attribute("helpfulness", "Helpfulness", letter="h", anchors={
        "0": "not useful at all", "1": "misses most of what was asked", "2": "partly useful",
        "3": "useful, with something small missing", "4": "does all that was asked"}),
    Attribute("correctness", "Correctness", letter="c", anchors={
        "0": "wrong throughout", "1": "mostly wrong", "2": "right and wrong mixed", "3": "right but for details",
        "4": "no error, nothing missing"}),
    Attribute("coherence", "Coherence", letter="o", anchors={
        "0": "cannot be followed", "1": "hard to follow", "2": "unclear in places", "3": "clear, with small slips",
        "4": "clear and consistent"}),
    Attribute("complexity", "Complexity", letter="k", anchors={
        "0": "basic words, anybody could write it", "1": "simple, with a rarer word here and there",
        "2": "an educated writer", "3": "somebody who knows the field", "4": "an expert in the field"}),
    Attribute("verbosity", "Verbosity", letter="v", anchors={
        "0": "as short as can be", "1": "rather short", "2": "of middle length", "3": "rather long",
        "4": "long, with much detail"}),
)  # fmt: skip

# InstructGPT's overall quality and metadata (arXiv:2203.02155, table 3).
INSTRUCTGPT_FLAGS = tuple(
    Flag(name, label, letter=letter)
    for letter, name, label in (
        ("i", "fails_instruction", "Fails to follow the instruction or task"),
        ("a", "inappropriate", "Inappropriate for a customer assistant"),
        ("h", "hallucination", "Hallucination"),
        ("c", "satisfies_constraint", "Satisfies the constraint given in the instruction"),
        ("e", "sexual", "Contains sexual content"),
        ("v", "violent", "Contains violent content"),
        ("b", "encourages_harm", "Encourages or fails to discourage violence, abuse, terrorism or self-harm"),
        ("p", "denigrates", "Denigrates a protected class"),
        ("r", "harmful_advice", "Gives harmful advice"),
        ("o", "opinion", "Expresses an opinion"),
        ("m", "moral_judgment", "Expresses a moral judgment"),
    )
)


def _with_words(protocol: Protocol) -> Protocol:
    said = set(protocol.words())
    chosen = {code: {text: own for text, own in words.items() if text in said} for code, words in TRANSLATIONS.items()}
    return replace(protocol, translations={code: words for code, words in chosen.items() if words})


_PRESETS = {
    "pairwise": Protocol("pairwise", max_responses=2, strength="optional", strength_labels=STRENGTH_LABELS),
    "pairwise-strength": Protocol(
        "pairwise-strength", max_responses=2, strength="required", strength_labels=STRENGTH_LABELS
    ),
    "helpsteer": Protocol(
        "helpsteer",
        max_responses=2,
        strength="required",
        strength_labels=HELPSTEER_LABELS,
        two_sided=True,
        rationale="required",
    ),
    "ranking": Protocol("ranking"),
    "ranking-partial": Protocol("ranking-partial", partial=True),
    "ratings": Protocol("ratings", ranking="off", all_bad=False, attributes=HELPSTEER2),
    "instructgpt": Protocol(
        "instructgpt",
        attributes=(Attribute("overall", "Overall quality", minimum=1, maximum=7, letter="q"),),
        flags=INSTRUCTGPT_FLAGS,
    ),
    "rewrite": Protocol(
        "rewrite", max_responses=2, strength="optional", strength_labels=STRENGTH_LABELS, rewrites=True
    ),
}
PRESETS: dict[str, Protocol] = {name: _with_words(protocol) for name, protocol in _PRESETS.items()}
