"""The data browser finds words in every script, says what the data are like, and which prompts are nearly the same."""

import json
from typing import Any

import pytest
from django.core.management import call_command

from feedback_app.annotation.models import Assignment
from feedback_app.annotation.splits import hash_root, split_of
from feedback_app.datasets.browsing import ExampleFilter, search_examples
from feedback_app.datasets.duplicates import find_duplicates
from feedback_app.datasets.models import ExampleIndex
from feedback_app.datasets.selectors import duplicates_of
from feedback_app.datasets.services import index_examples
from feedback_app.datasets.statistics import measure_data
from feedback_app.datasets.tokens import query_tokens, tokens_of
from feedback_app.projects.models import Project
from tests.factories import make_judgment, make_project, make_task, make_user
from tests.web.judged import judged_row, judged_rows, run_rows

pytestmark = pytest.mark.django_db


def row(prompt: str, *texts: str, **more: Any) -> dict[str, Any]:
    texts = texts or ("First.", "Second.")
    judgments = [{"annotator": "ann", "ranking": [[0], [1]]}]
    return {"prompt": prompt, "responses": [{"text": text} for text in texts], "judgments": judgments} | more


def found(project: Project, words: str = "", **more: Any) -> set[str]:
    """Return the prompts that a search finds."""
    tasks = search_examples(project=project, chosen=ExampleFilter(words=words, **more))
    return {task.prompt.messages[-1]["content"] for task in tasks}


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ("Go, AI!", {"go", "ai"}),
        ("北京好", {"北", "京", "好", "北京", "京好"}),
        ("用Python3写", {"用", "python3", "写"}),
        ("ＡＢ ﬁn Straße", {"ab", "fin", "strasse"}),
        ("カナ ไทย", {"カ", "ナ", "カナ", "ไ", "ท", "ย", "ไท", "ทย"}),
        ("… — !", set()),
    ],
)
def test_words_are_whole_where_there_are_spaces_and_pairs_where_there_are_none(text: str, tokens: set[str]) -> None:
    assert tokens_of(text) == tokens
    assert query_tokens(text) <= tokens


def test_a_search_finds_chinese_short_words_and_whole_ones() -> None:
    project, other = make_project(), make_project()
    run_rows(project, [row("北京的天气怎么样？"), row("京北在哪里", "在北京", "不知道"), row("What is AI?"),
                       row("What is rain?", "It falls. Go look!", "No.")])  # fmt: skip
    run_rows(other, [row("北京")])
    assert index_examples() == 5
    assert found(project, "北京") == {"北京的天气怎么样？", "京北在哪里"}  # the second in a response
    assert found(project, "天") == {"北京的天气怎么样？"}
    assert found(project, "AI") == {"What is AI?"}  # and not rain
    assert found(project, "go") == {"What is rain?"}
    assert found(project, "what is") == {"What is AI?", "What is rain?"}
    assert found(project, "北京 天气") == {"北京的天气怎么样？"}
    assert found(project, "nothing") == set()
    assert found(project, "?!") == set()
    assert len(found(project)) == 4


def test_a_longer_run_is_found_together_not_scattered() -> None:
    project = make_project()
    run_rows(project, [row("天气好极了"), row("天气真好，气好吗"), row("ＡＢ天気好")])
    index_examples(project=project)
    # Both texts hold the pairs 天气 and 气好, one of them apart.
    assert found(project, "天气好") == {"天气好极了"}


def test_the_index_follows_what_comes_and_goes() -> None:
    project = make_project()
    run_rows(project, judged_rows(3))
    assert index_examples(project=project) == 3
    assert index_examples(project=project) == 0
    zebra = make_task(project, ("Zebra.", "Horse."))
    assert found(project, "zebra", judged=False) == set()
    assert index_examples(project=project, most=10) == 1
    assert len(found(project, "zebra", judged=False)) == 1
    assert found(project, "zebra") == set()  # nobody judged it yet
    zebra.delete()
    assert ExampleIndex.objects.count() == 3


def test_filters_narrow_and_go_together() -> None:
    project = make_project(protocol="instructgpt")
    flagged = {"annotator": "bob", "ranking": [[0], [1]], "flags": {"1": ["hallucination"]},
               "ratings": {"0": {"overall": 2}}, "created_at": "2024-05-01T00:00:00Z"}  # fmt: skip
    run_rows(project, [row("One?", language="en"), row("Two?", language="de"),
                       judged_row(3, judgments=[flagged])])  # fmt: skip
    assert found(project, annotator="bob") == {"Question 3?"}
    assert found(project, language="de") == {"Two?"}
    assert found(project, policy="llama") == {"Question 3?"}
    assert found(project, flag="hallucination") == {"Question 3?"}
    assert found(project, flag="violent") == set()
    assert found(project, until="2024-06-01") == {"Question 3?"}
    assert found(project, annotator="ann", since="2024-06-01") == {"One?", "Two?"}
    side = split_of(hash_root("One?"))
    assert "One?" in found(project, split=side)
    assert found(project, annotator="bob", language="de") == set()


def test_statistics_are_those_of_a_table_made_by_hand() -> None:
    project = make_project(overlap=1)
    rows = [
        # Three verdicts, two alike: of 6 ordered pairs 2 agree, a third.
        row("1234", "a" * 10, "b", judgments=[
            {"annotator": "x", "ranking": [[0], [1]], "strength": 3},
            {"annotator": "y", "ranking": [[0], [1]], "strength": 1},
            {"annotator": "z", "ranking": [[1], [0]]},
        ]),
        row("12345678", "", "bb", judgments=[{"annotator": n, "ranking": [[0, 1]]} for n in "xy"]),
        row("?", "a", "b", judgments=[{"annotator": "robot", "ranking": [[0], [1]], "simulated": True}]),
    ]  # fmt: skip
    run_rows(project, rows)
    judgment = make_judgment(make_task(project, ("left", "right!")), make_user(project), (1, 0))
    Assignment.objects.filter(pk=judgment.assignment_id).update(shown_order=[1, 0])
    figures = measure_data(project=project)
    # Characters: 4 (bin 4-7), 8 (8-15), 1 (0-1), and "Question n?" of 11 or more (8-15).
    assert figures["lengths"]["prompts"] == [
        {"from": 0, "to": 1, "count": 1}, {"from": 2, "to": 3, "count": 0}, {"from": 4, "to": 7, "count": 1},
        {"from": 8, "to": 15, "count": 2},
    ]  # fmt: skip
    # 10; 1, 0, 1, 1; 2; 4, 6.
    assert figures["lengths"]["responses"] == [
        {"from": 0, "to": 1, "count": 4}, {"from": 2, "to": 3, "count": 1}, {"from": 4, "to": 7, "count": 2},
        {"from": 8, "to": 15, "count": 1},
    ]  # fmt: skip
    assert {item["strength"]: item["count"] for item in figures["strengths"]} == {None: 4, 1: 1, 3: 1}
    # A third in 0.3-0.4, the ties alike in 0.9-1.0; what lies between is told as empty.
    assert [(item["from"], item["tasks"]) for item in figures["agreement"]] == [
        (0.3, 1), (0.4, 0), (0.5, 0), (0.6, 0), (0.7, 0), (0.8, 0), (0.9, 1),
    ]  # fmt: skip
    # The best was the second response, shown first.
    assert figures["positions"] == [{"of": 2, "place": 1, "best": 1}]
    # x, y and the user are for the longer, z is not; ties and simulated verdicts say nothing.
    assert figures["longer_wins"] == {"compared": 4, "share": 0.75}
    assert sum(figures["splits"].values()) == 4
    assert list(figures["splits"]) == [split for split in ("train", "validation", "test") if split in figures["splits"]]


def test_an_empty_project_has_figures_too() -> None:
    figures = measure_data(project=make_project())
    assert figures["longer_wins"] == {"compared": 0, "share": None}
    assert figures["positions"] == figures["agreement"] == figures["strengths"] == []


PLAIN = "the quick brown fox jumps over the lazy dog and runs far away from here into the deep dark old wood"


def near(number: int) -> str:
    """Return a prompt that differs from others in its last word."""
    return f"{PLAIN} number{number}"


def test_near_duplicates_are_found_and_those_across_splits_named(capsys: pytest.CaptureFixture[str]) -> None:
    project = make_project()
    numbers = {side: next(n for n in range(100) if split_of(hash_root(near(n))) == side) for side in ("train", "test")}
    chinese = "请用一句话解释为什么天空是蓝色的而不是绿色的，并举一个例子"
    prompts = [
        near(numbers["train"]),
        near(numbers["test"]),
        chinese,
        chinese + "吧",
        "Something else entirely, you see?",
    ]
    run_rows(project, [{"prompt": prompt} for prompt in prompts], format="prompts")
    report = find_duplicates(project=project)
    # 22 words make 20 shingles, of which the two prompts share 19: 19 of 21.
    similarities = {
        frozenset(prompt["text"] for prompt in pair["prompts"]): pair["similarity"] for pair in report["pairs"]
    }
    assert similarities[frozenset(prompts[:2])] == pytest.approx(19 / 21, abs=1e-4)
    assert frozenset(prompts[2:4]) in similarities
    assert (report["prompts"], report["pairs_total"], report["in_pairs"]) == (5, 2, 4)
    across = [{prompt["split"] for prompt in pair["prompts"]} for pair in report["contaminated"]]
    assert {"train", "test"} in across
    assert find_duplicates(project=project, threshold=1.0)["pairs_total"] == 0
    assert duplicates_of(project=project) is None
    call_command("find_duplicates", project.slug)
    kept = duplicates_of(project=project)
    assert kept is not None
    assert json.loads(capsys.readouterr().out) == kept.report == report
