"""Label Studio's JSON export comes in whole, whichever of its controls the verdicts were given by."""

import json
from typing import Any

import pytest

from feedback_app.annotation.models import Judgment, Task
from feedback_app.datasets.exporting.options import parse_options
from feedback_app.datasets.exporting.rows import prepare_export
from feedback_app.projects.models import Project
from tests.factories import make_project
from tests.web.judged import refusals, run_rows

pytestmark = pytest.mark.django_db

RATINGS = {
    "name": "scores", "ranking": "off", "min_responses": 2, "max_responses": 2,
    "attributes": [
        {"key": "helpfulness", "minimum": 0, "maximum": 5},
        {"key": "tone", "minimum": 0, "maximum": 5, "required": False},
    ],
}  # fmt: skip


def result(kind: str, value: dict[str, Any], name: str = "control", to: str = "answer1,answer2", **more: Any) -> Any:
    return {
        "id": "Dx_aB91ISN",
        "from_name": name,
        "to_name": to,
        "type": kind,
        "origin": "manual",
        "value": value,
    } | more


def annotation(by: Any, *results: Any, **more: Any) -> dict[str, Any]:
    return {
        "id": 1001, "completed_by": by, "result": list(results), "was_cancelled": False, "ground_truth": False,
        "created_at": "2025-03-09T22:16:08.728353Z", "updated_at": "2025-03-09T22:16:08.728378Z", "lead_time": 4.288,
        "result_count": 1, "task": 1, "prediction": {}, "import_id": None,
    } | more  # fmt: skip


def task(number: int, data: dict[str, Any], *annotations: Any) -> dict[str, Any]:
    return {
        "id": number, "annotations": list(annotations), "drafts": [], "predictions": [], "data": data, "meta": {},
        "created_at": "2025-03-09T21:52:49.513742Z", "inner_id": number, "total_annotations": len(annotations),
    }  # fmt: skip


def chosen(side: str) -> Any:
    return result("pairwise", {"selected": side})


def bring(project: Project, tasks: list[Any], **more: Any) -> Any:
    """Import an export as Label Studio writes it: one JSON array."""
    return run_rows(project, json.dumps(tasks).encode(), format="label-studio", name="project-1.json", **more)


def judged_rows_of(project: Project) -> list[Any]:
    """Return what a project holds as judged rows, without what another project must have differently."""
    export = prepare_export(project=project, format="judgments", options=parse_options({}))
    rows = [json.loads(line) for _, line in export.lines()]
    for row in rows:
        del row["id"], row["prompt_id"]
        for part in [*row["responses"], *row["judgments"]]:
            del part["id"]
        row["judgments"].sort(key=str)  # of one moment, as these are, the ids decide
    return sorted(rows, key=str)


PAIR = {"prompt": "Which?", "answer1": "This.", "answer2": "That.", "model1": "llama"}
PAIRS = [
    task(1, PAIR, annotation(3, chosen("left")), annotation({"id": 4, "email": "b@example.org"}, chosen("right"))),
    task(2, PAIR | {"prompt": "Why?"}, annotation(3, chosen("left"), was_cancelled=True)),
    task(3, PAIR | {"prompt": [{"author": "Human", "text": "Hi"}, {"author": "bot", "text": "?"},
                               {"author": "human", "text": "So?"}]}, annotation(None, chosen("right"))),
]  # fmt: skip


def test_pairwise_choices_come_in_by_annotator_and_cancelled_ones_do_not() -> None:
    project = make_project()
    job = bring(project, PAIRS)
    assert (job.rows_new, refusals(job)) == (3, {})
    ranks = {
        (judgment.task.external_id, judgment.annotator.display_name): judgment.ranks
        for judgment in Judgment.objects.select_related("task", "annotator")
    }
    # The left one is the first of the data; an annotation without a name is the export's own.
    assert ranks == {
        ("label-studio-1", "label-studio-3"): [0, 1],
        ("label-studio-1", "b@example.org"): [1, 0],
        ("label-studio-3", "label-studio"): [1, 0],
    }
    first = Task.objects.get(external_id="label-studio-1").task_responses.select_related("response")
    assert [(place.response.text, place.response.model_name) for place in first] == [("This.", "llama"), ("That.", "")]
    assert {judgment.lead_time for judgment in Judgment.objects.all()} == {4.288}
    roles = Task.objects.select_related("prompt").get(external_id="label-studio-3").prompt.messages
    assert [message["role"] for message in roles] == ["user", "assistant", "user"]
    assert bring(project, PAIRS).rows_known == 3


ITEMS = {"prompt": "Rank.", "items": [{"id": "llm_1", "title": "t", "body": "One"}, {"id": "llm_2", "body": "Two"},
                                      {"id": "llm_3", "html": "Three"}]}  # fmt: skip


@pytest.mark.parametrize(
    ("ranker", "ranks"),
    [
        (["llm_2", "llm_3", "llm_1"], [2, 0, 1]),  # a Ranker by itself
        ({"rank": ["llm_2", "llm_3", "llm_1"]}, [2, 0, 1]),  # a List made into one
        ({"_": [], "biased_results": ["llm_2"], "relevant_results": ["llm_1", "llm_3"]}, [0, 1, 0]),
        ({"2nd": ["llm_3", "llm_1"], "1st": ["llm_2"], "3rd": []}, [1, 0, 1]),
    ],
)
def test_rankers_and_their_buckets_are_tiers(ranker: Any, ranks: list[int]) -> None:
    job = bring(make_project(protocol="ranking"), [task(1, ITEMS, annotation(1, result("ranker", {"ranker": ranker})))])
    assert refusals(job) == {}
    assert Judgment.objects.get().ranks == ranks


def test_ratings_are_of_the_text_that_their_names_say() -> None:
    rated = [
        result("rating", {"rating": 4}, "helpfulness_1", "answer1"),
        result("rating", {"rating": 2}, "helpfulness_2", "answer2"),
        result("number", {"number": 5}, "tone", "answer2"),
        result("textarea", {"text": ["too long"]}, "why", "answer2"),
        result("choices", {"choices": ["rude"]}, "issues", "answer2"),
    ]
    job = bring(make_project(protocol=RATINGS), [task(1, PAIR, annotation(1, *rated))])
    assert refusals(job) == {}
    judgment = Judgment.objects.get()
    first, second = (str(place.response_id) for place in judgment.task.task_responses.order_by("position"))
    assert judgment.ratings == {first: {"helpfulness": 4}, second: {"helpfulness": 2, "tone": 5}}
    assert judgment.rationale == "too long\nissues: rude"


def test_ratings_of_items_go_by_their_index() -> None:
    rated = [result("rating", {"rating": place + 1}, "helpfulness", "list", item_index=place) for place in (0, 1)]
    data = {"question": "Rate.", "responses": ["One", {"text": "Two", "model": "m"}]}
    assert refusals(bring(make_project(protocol=RATINGS), [task(1, data, annotation(1, *rated))])) == {}
    assert sorted(scores["helpfulness"] for scores in Judgment.objects.get().ratings.values()) == [1, 2]


def test_other_names_are_mapped() -> None:
    data = {"frage": "Was?", "links": "Dies.", "rechts": "Das.", "bild": "x.png"}
    mapping = {"data.frage": "data.prompt", "data.links": "data.responses.0", "data.rechts": "data.responses.1"}
    job = bring(make_project(), [task(1, data, annotation(1, chosen("right")))], mapping=mapping)
    assert refusals(job) == {}
    judgment = Judgment.objects.select_related("task__prompt").get()
    assert (judgment.ranks, judgment.task.prompt.messages[0]["content"]) == ([1, 0], "Was?")


@pytest.mark.parametrize(
    ("data", "given", "reason"),
    [
        ({"answer1": "a", "answer2": "b"}, chosen("left"), "data: a prompt is needed"),
        ({"prompt": "x", "image": "y"}, chosen("left"), "data: responses are needed"),
        (PAIR, chosen("both"), "annotations: the selected side"),
        (PAIR, result("rectanglelabels", {}), "annotations: a result of type 'rectanglelabels'"),
        (PAIR, result("rating", {"rating": 1}, "overall", "page"), "annotations: of which response"),
        (ITEMS, result("ranker", {"ranker": ["llm_9"]}), "annotations: the ranker names 'llm_9'"),
        (ITEMS, result("ranker", {"ranker": {"a": ["llm_1"], "b": ["llm_2"]}}), "annotations: the bucket 'a'"),
    ],
)
def test_what_cannot_be_read_is_named(data: Any, given: Any, reason: str) -> None:
    job = bring(make_project(protocol="ranking"), [task(1, PAIR), task(2, data, annotation(1, given))])
    assert [text[: len(reason)] for text in refusals(job).values()] == [reason]


def test_what_came_in_goes_out_and_comes_in_again_equal() -> None:
    first, second = make_project(), make_project()
    bring(first, PAIRS)
    out = judged_rows_of(first)
    assert run_rows(second, out).rows_new == 2
    assert judged_rows_of(second) == out
