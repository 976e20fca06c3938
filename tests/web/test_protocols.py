"""A protocol is read from JSON once, and every mistake in it is named."""

import json
from typing import Any

import pytest

from feedback_app.projects.protocols import PRESETS, ProtocolError, parse_protocol


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_every_preset_survives_json_and_back(name: str) -> None:
    spec = json.loads(json.dumps(PRESETS[name].as_json()))
    assert parse_protocol(spec) == PRESETS[name]


def test_pairwise_allows_ties_and_requires_neither_strength_nor_rationale() -> None:
    pairwise = PRESETS["pairwise"]
    assert (pairwise.ties, pairwise.strength, pairwise.rationale) == (True, "optional", "optional")


@pytest.mark.parametrize(
    ("change", "field_name"),
    [
        ({"colour": "red"}, "protocol.colour"),
        ({"ties": "yes"}, "ties"),
        ({"min_responses": True}, "min_responses"),
        ({"min_responses": 1}, "min_responses"),
        ({"max_responses": 10}, "min_responses"),
        ({"ranking": "sometimes"}, "ranking"),
        ({"ranking": "off"}, "ranking"),
        ({"strength": "optional"}, "strength"),
        ({"strength_labels": ["a", "b"], "strength_levels": 3}, "strength_labels"),
        ({"attributes": {"key": "x"}}, "attributes"),
        ({"attributes": [{"label": "x"}]}, "attributes[0].key"),
        ({"attributes": [{"key": "two words"}]}, "attributes.two words"),
        ({"attributes": [{"key": "x", "minimum": 4, "maximum": 4}]}, "attributes.x"),
        ({"attributes": [{"key": "x", "anchors": {"9": "no such step"}}]}, "attributes.x.anchors"),
        ({"attributes": [{"key": "x"}, {"key": "x"}]}, "attributes"),
        ({"attributes": [{"key": "x", "letter": "s"}]}, "letter"),
        ({"flags": [{"name": "a", "letter": "q"}, {"name": "b", "letter": "q"}]}, "letter"),
    ],
)
def test_a_mistake_is_named_by_its_field(change: dict[str, Any], field_name: str) -> None:
    with pytest.raises(ProtocolError) as caught:
        parse_protocol({"name": "mine", **change})
    assert caught.value.field_name == field_name


def test_a_protocol_without_a_name_is_refused() -> None:
    with pytest.raises(ProtocolError) as caught:
        parse_protocol({"ties": True})
    assert caught.value.field_name == "name"
