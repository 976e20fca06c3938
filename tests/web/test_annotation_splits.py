"""A prompt's side follows from its root's words alone, and so never changes."""

import hashlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from feedback_app.annotation.models import Prompt
from feedback_app.annotation.services import create_prompts
from feedback_app.annotation.splits import (
    ROLES,
    ConversationError,
    hash_both,
    hash_conversation,
    hash_root,
    normalise,
    parse_conversation,
    split_of,
)
from tests.factories import make_project

# `printf 'hello world' | sha256sum`; as a number it ends in 9 (bc), and 9 is test.
HELLO = "b94d27b9934d3e08a52e52d7da7dabfac484efe37a5380ee9088f7ace2efcde9"


def test_the_root_hash_is_sha256_of_the_normalised_text_for_ever() -> None:
    assert hash_root("hello world") == HELLO
    assert int(HELLO, 16) % 10 == 9
    assert split_of(HELLO) == "test"


@pytest.mark.parametrize(("digit", "side"), [(0, "train"), (7, "train"), (8, "validation"), (9, "test")])
def test_the_last_digit_decides_the_side(digit: int, side: str) -> None:
    assert split_of(f"{990 + digit:064x}") == side  # 990 ends in 0


def test_shares_are_eighty_ten_and_ten() -> None:
    sides = [split_of(hash_root(f"prompt {number}")) for number in range(5000)]
    # Standard errors: 0.6 % and 0.4 %; four of them are allowed.
    assert abs(sides.count("train") / 5000 - 0.8) < 0.024
    assert abs(sides.count("validation") / 5000 - 0.1) < 0.017
    assert abs(sides.count("test") / 5000 - 0.1) < 0.017


@given(st.text())
def test_white_space_and_compatibility_forms_make_no_other_prompt(text: str) -> None:
    text = text.encode("utf-8", "ignore").decode()
    assert hash_root(f"  {text}\n\t") == hash_root(text)
    assert hash_root(normalise(text)) == hash_root(text)


@given(st.lists(st.tuples(st.sampled_from(ROLES), st.text()), min_size=1))
def test_the_whole_conversations_hash_is_sha256_of_its_normalised_json_for_ever(turns: list[tuple[str, str]]) -> None:
    turns = [(role, text.encode("utf-8", "ignore").decode()) for role, text in turns]
    messages = [{"role": role, "content": text} for role, text in turns]
    written = json.dumps([[role, normalise(text)] for role, text in turns], ensure_ascii=False)
    assert hash_conversation(messages) == hashlib.sha256(written.encode()).hexdigest()
    assert hash_both(messages) == (hash_root(messages), hash_conversation(messages))


def test_plain_text_equals_a_list_of_one_message_and_later_turns_and_system_prompts_change_nothing() -> None:
    user = {"role": "user", "content": "hello\u3000 world"}  # an ideographic space is white space
    system = {"role": "system", "content": "Be brief."}
    turns = [user, {"role": "assistant", "content": "Hi."}, {"role": "user", "content": "And?"}]
    for conversation in ([user], [system, user], turns, [system, *turns]):
        assert hash_root(conversation) == HELLO
    assert hash_root([system]) == hash_root("Be brief.")


@pytest.mark.parametrize(
    ("prompt", "place"),
    [
        ([], "prompt"), (7, "prompt"), (["x"], "prompt[0]"), ([{"role": "user"}], "prompt[0].content"),
        ([{"role": "king", "content": "x"}], "prompt[0].role"), ("nul \x00", "prompt[0].content"),
        ([{"role": "user", "content": "x", "name": "y"}], "prompt[0].name"),
        ([{"role": "user", "content": "x"}, {"role": "assistant", "content": "y"}], "prompt[1]"),
    ],
)  # fmt: skip
def test_what_is_no_waiting_conversation_is_refused_by_place(prompt: object, place: str) -> None:
    with pytest.raises(ConversationError, match="^" + place.replace("[", r"\[").replace("]", r"\]") + ":"):
        parse_conversation(prompt)


@pytest.mark.django_db
def test_the_same_words_are_one_prompt_of_a_project() -> None:
    project, other = make_project(), make_project()
    first, second, again = create_prompts(
        project=project, prompts=["hello world", "tea?", [{"role": "user", "content": " hello  world "}]]
    )
    assert first == again
    assert first != second
    assert (first.split, first.root_sha256) == ("test", HELLO)
    assert create_prompts(project=project, prompts=["hello world"]) == [first]
    assert create_prompts(project=other, prompts=["hello world"]) != [first]
    assert Prompt.objects.count() == 3
