"""What a protocol takes and refuses in a verdict, field by field."""

from typing import Any

import pytest

from feedback_app.annotation.errors import VerdictInvalid
from feedback_app.annotation.verdicts import Verdict, parse_verdict
from feedback_app.projects.presets import PRESETS
from feedback_app.projects.protocols import Protocol, parse_protocol

A, B, C = "id-a", "id-b", "id-c"
EVERYTHING = parse_protocol(
    {
        "name": "everything", "ranking": "optional", "partial": True, "rewrites": True, "rationale": "required",
        "attributes": [{"key": "clear", "minimum": 1, "maximum": 3}, {"key": "kind", "required": False}],
        "flags": [{"name": "unsafe"}, {"name": "spam"}],
    }
)  # fmt: skip
NO_TIES = Protocol("strict", ties=False, all_bad=False, rationale="off")


def read(body: object, protocol: Protocol, *responses: str) -> Verdict:
    return parse_verdict(body, protocol=protocol, responses=responses or (A, B))


def refused(body: object, protocol: Protocol, *responses: str) -> list[str]:
    with pytest.raises(VerdictInvalid) as caught:
        read(body, protocol, *responses)
    return sorted(caught.value.errors)


@pytest.mark.parametrize(
    ("ranking", "ranks"), [([[A], [B]], [0, 1]), ([[B], [A]], [1, 0]), ([[A, B]], [0, 0]), ([[B, A]], [0, 0])]
)
def test_ranks_are_by_canonical_position(ranking: Any, ranks: list[int]) -> None:
    assert read({"ranking": ranking}, PRESETS["pairwise"]).ranks == ranks


def test_three_responses_with_a_tie_and_with_one_left_out() -> None:
    assert read({"ranking": [[C], [A, B]]}, PRESETS["ranking"], A, B, C).ranks == [1, 1, 0]
    assert read({"ranking": [[C], [A]]}, PRESETS["ranking-partial"], A, B, C).ranks == [1, None, 0]
    assert refused({"ranking": [[C], [A]]}, PRESETS["ranking"], A, B, C) == ["ranking"]


@pytest.mark.parametrize(
    "ranking",
    [
        None,
        [],
        "x",
        {},
        [A, B],
        [[A], []],
        [[A], [A]],
        [[A, A], [B]],
        [[A], [B], ["other"]],
        [[A], [1]],
        [[A]],
        [[A], [[B]]],
    ],
)
def test_a_ranking_that_is_none_is_refused_by_name(ranking: Any) -> None:
    assert refused({"ranking": ranking}, PRESETS["pairwise"]) == ["ranking"]


def test_only_what_the_protocol_requires_is_required() -> None:
    assert read({"ranking": [[A], [B]]}, PRESETS["pairwise"]).strength is None
    assert refused({}, PRESETS["pairwise"]) == ["ranking"]
    assert refused({}, EVERYTHING) == ["ratings", "rationale"]
    assert refused({"ranking": [[A], [B]]}, PRESETS["pairwise-strength"]) == ["strength"]


def test_what_the_protocol_does_not_know_is_refused_by_name() -> None:
    ranking = [[A], [B]]
    body = {
        "ranking": ranking, "all_bad": True, "strength": 1, "ratings": {A: {"clear": 1}}, "flags": {A: ["spam"]},
        "rewrites": {A: "x"}, "rationale": "why", "mood": 1, "id": "x",
    }  # fmt: skip
    unknown = ["all_bad", "flags", "id", "mood", "ratings", "rationale", "rewrites", "strength"]
    assert refused(body, NO_TIES) == unknown
    assert refused({"ranking": [[A, B]]}, NO_TIES) == ["ranking"]
    assert refused({"ranking": ranking, "ratings": {}}, PRESETS["ratings"]) == ["ranking", "ratings"]


@pytest.mark.parametrize(
    ("ranking", "strength", "fields"),
    [
        ([[A], [B]], 0, []), ([[A], [B]], 3, []), ([[A, B]], 0, []), ([[A, B]], 1, ["strength"]),
        ([[A], [B]], 4, ["strength"]), ([[A], [B]], -1, ["strength"]), ([[A], [B]], True, ["strength"]),
        ([[A], [B]], 1.5, ["strength"]), ([[A], [B]], "2", ["strength"]), ([[A], [B]], None, []),
    ],
)  # fmt: skip
def test_strength_goes_from_0_to_its_levels_and_is_0_on_a_tie(ranking: Any, strength: Any, fields: list[str]) -> None:
    body = {"ranking": ranking, "strength": strength}
    if fields:
        assert refused(body, PRESETS["pairwise"]) == fields
    else:
        assert read(body, PRESETS["pairwise"]).strength == strength


GOOD = {"ratings": {A: {"clear": 1, "kind": 0}, B: {"clear": 3}}, "rationale": "because"}


def test_a_whole_verdict_is_read_as_it_is() -> None:
    body = GOOD | {
        "ranking": [[B]], "all_bad": True, "flags": {A: ["spam", "unsafe"], B: []}, "rewrites": {B: " better "},
        "lead_time": 3,
    }  # fmt: skip
    assert read(body, EVERYTHING) == Verdict(
        ranks=[None, 0], all_bad=True, ratings={A: {"clear": 1, "kind": 0}, B: {"clear": 3}},
        flags={A: ["unsafe", "spam"]}, rewrites={B: " better "}, rationale="because", lead_time=3.0,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("ratings", {A: {"clear": 1}}),  # B's is missing
        ("ratings", {A: {"clear": 0}, B: {"clear": 1}}),  # below the scale
        ("ratings", {A: {"clear": 4}, B: {"clear": 1}}),  # above it
        ("ratings", {A: {"clear": 1.0}, B: {"clear": 1}}),
        ("ratings", {A: {"clear": 1, "mood": 1}, B: {"clear": 1}}),
        ("ratings", {"other": {"clear": 1}, A: {"clear": 1}, B: {"clear": 1}}),
        ("ratings", [1]),
        ("flags", {A: ["rude"]}),
        ("flags", {A: "spam"}),
        ("flags", {A: [{}]}),
        ("flags", {"other": ["spam"]}),
        ("rewrites", {A: 7}),
        ("rewrites", {A: "nul \x00"}),
        ("rewrites", {A: "half \udc00"}),
        ("rationale", "  "),
        ("rationale", 7),
        ("rationale", "x" * 100_001),
        ("all_bad", "yes"),
        ("all_bad", 1),
        ("lead_time", -1),
        ("lead_time", "3"),
        ("lead_time", True),
        ("lead_time", float("nan")),
        ("lead_time", float("inf")),
        ("lead_time", 10**9),
    ],
)
def test_a_malformed_field_is_refused_by_name(field: str, value: Any) -> None:
    assert refused(GOOD | {field: value}, EVERYTHING) == [field]


@pytest.mark.parametrize("body", [None, [], "x", 7])
def test_what_is_no_object_is_refused(body: object) -> None:
    assert refused(body, EVERYTHING) == ["non_field_errors"]
