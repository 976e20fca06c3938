"""A protocol is read from JSON once, and every mistake in it is named."""

import json
from typing import Any

import pytest

from feedback_app.projects.presets import PRESETS
from feedback_app.projects.protocols import ProtocolError, parse_protocol, tell_wrong_count


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
        ({"two_sided": True, "max_responses": 2}, "two_sided"),
        ({"attributes": {"key": "x"}}, "attributes"),
        ({"attributes": [{"label": "x"}]}, "attributes[0].key"),
        ({"attributes": [{"key": "two words"}]}, "attributes.two words"),
        ({"attributes": [{"key": "x", "minimum": 4, "maximum": 4}]}, "attributes.x"),
        ({"attributes": [{"key": "x", "anchors": {"9": "no such step"}}]}, "attributes.x.anchors"),
        ({"attributes": [{"key": "x"}, {"key": "x"}]}, "attributes"),
        ({"attributes": [{"key": "x", "letter": "s"}]}, "letter"),
        ({"flags": [{"name": "a", "letter": "q"}, {"name": "b", "letter": "q"}]}, "letter"),
        ({"translations": ["zh-hans"]}, "translations"),
        ({"translations": {"zh-hans": {"better": 2}}}, "translations.zh-hans"),
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


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_every_word_of_a_preset_is_there_in_chinese(name: str) -> None:
    preset = PRESETS[name]
    assert [text for text in preset.words() if preset.translated(text, "zh-hans") == text] == []


def test_a_reader_gets_the_parts_own_label_then_the_protocols_words_then_the_text_itself() -> None:
    protocol = parse_protocol(
        {
            "name": "mine",
            "max_responses": 2,
            "strength": "optional",
            "strength_levels": 1,
            "strength_labels": ["equal", "better"],
            "attributes": [{"key": "tone", "label": "Tone", "labels": {"zh-Hans": "语气"}}],
            "flags": [{"name": "rude", "label": "Rude"}],
            "translations": {"zh-Hans": {"Tone": "音调", "Rude": "无礼", "better": "更好"}, "pt": {"Rude": "Rude!"}},
        }
    )
    tone, rude = protocol.attributes[0], protocol.flags[0]
    assert protocol.label_of(tone, "zh-hans") == "语气"
    assert protocol.label_of(rude, "zh-hans") == "无礼"
    assert protocol.label_of(rude, "pt-br") == "Rude!", "a region takes what the language has"
    assert (protocol.label_of(tone, "en"), protocol.label_of(tone, None)) == ("Tone", "Tone")
    assert protocol.strength_steps("zh-hans") == ["equal", "更好"]


@pytest.mark.parametrize(
    ("fewest", "most", "given", "said"),
    [
        (2, 2, 2, ""),
        (2, 4, 4, ""),
        (2, 2, 3, "takes exactly 2 responses, not 3"),
        (2, 4, 1, "takes 2 to 4 responses, not 1"),
    ],
)
def test_a_wrong_count_of_responses_is_told_without_a_range_of_one(
    fewest: int, most: int, given: int, said: str
) -> None:
    told = tell_wrong_count(fewest, most, given)
    assert told.endswith(said)
    assert bool(told) == bool(said)


def test_a_protocol_stored_before_there_were_translations_reads_as_before() -> None:
    spec = PRESETS["ratings"].as_json()
    del spec["translations"]
    assert parse_protocol(spec).strength_steps("zh-hans") == ["0", "1", "2", "3"]
    assert parse_protocol(spec).translations == {}
