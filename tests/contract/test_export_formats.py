"""Each format as its own readers know it: samples written from the specifications come in, go out and come in again."""

import json
from pathlib import Path
from typing import Any

import pyarrow.parquet
import pytest
from django.core.management import call_command

from feedback_app.annotation.models import Judgment, Prompt, Response, Task
from feedback_app.datasets.exporting.options import parse_options
from feedback_app.datasets.exporting.rows import prepare_export
from feedback_app.datasets.exporting.writing import write_pieces
from feedback_app.datasets.formats.dialogues import read_dialogue, read_prompt, write_dialogue, write_prompt
from feedback_app.datasets.formats.exports import EXPORT_FORMATS
from feedback_app.projects.models import Project
from tests.factories import make_project
from tests.web.judged import judged_row, judged_rows, refusals, run_rows

pytestmark = pytest.mark.django_db

USER = {"role": "user", "content": "Hi?"}
CHAT = [{"role": "system", "content": "Be brief."}, USER, {"role": "assistant", "content": "Yes?"}, USER]


def say(text: str) -> list[dict[str, str]]:
    return [{"role": "assistant", "content": text}]


def rows_of(project: Project, format: str, **options: Any) -> list[dict[str, Any]]:
    """Return a format's rows of every split."""
    export = prepare_export(project=project, format=format, options=parse_options({"split": "all", **options}))
    return [json.loads(line) for _, line in export.lines()]


def without_ids(rows: list[dict[str, Any]]) -> list[str]:
    """Return rows as sorted texts, with what a second project must have differently left out."""
    kept = [
        {name: value for name, value in row.items() if name != "id" and not name.endswith(("_id", "_ids"))}
        for row in rows
    ]
    return sorted(json.dumps(row, sort_keys=True) for row in kept)


PREFERENCES: list[dict[str, Any]] = [
    {"prompt": "Hi?", "chosen": "Hello.", "rejected": "Go away.", "margin": 2 / 3},
    {"prompt": CHAT, "chosen": say("a"), "rejected": say("b")},
    {"prompt": [USER], "chosen": [USER, *say("x")], "rejected": [USER, *say("")]},  # the prompt written there again
    {"chosen": [USER, *say("c")], "rejected": [USER, *say("d")]},  # TRL's implicit form
    {"chosen": [*CHAT, *say("e")], "rejected": [*CHAT, *say("f")]},
]


def test_trl_preferences_come_in_both_forms_and_go_out_equal() -> None:
    first, second = make_project(), make_project()
    job = run_rows(first, PREFERENCES, format="preference")
    assert (job.rows_new, refusals(job)) == (5, {})
    out = rows_of(first, "preference")
    sides = {(row["chosen"][0]["content"], row["rejected"][0]["content"]): row for row in out}
    assert set(sides) == {("Hello.", "Go away."), ("a", "b"), ("x", ""), ("c", "d"), ("e", "f")}
    assert sides["Hello.", "Go away."]["margin"] == pytest.approx(2 / 3, abs=1e-6)
    assert sides["e", "f"]["prompt"] == CHAT
    assert run_rows(second, out, format="preference").rows_new == 5
    assert without_ids(rows_of(second, "preference")) == without_ids(out)
    assert run_rows(second, out, format="preference").rows_known == 5


def test_texts_that_begin_with_their_prompt_part_where_trl_parts_them() -> None:
    # TRL's own example of an implicit prompt, and a dialogue in hh-rlhf's marks.
    rows = [
        {"chosen": "The sky is blue.", "rejected": "The sky is green."},
        {"chosen": "\n\nHuman: Tea?\n\nAssistant: Yes.", "rejected": "\n\nHuman: Tea?\n\nAssistant: No."},
    ]
    project = make_project()
    job = run_rows(project, [*rows, {"chosen": "a", "rejected": "b"}], format="preference")
    assert list(refusals(job)) == [3]
    said = {(row["prompt"][0]["content"], *(row[side][0]["content"] for side in ("chosen", "rejected")))
            for row in rows_of(project, "preference")}  # fmt: skip
    assert said == {("The sky is", " blue.", " green."), ("Tea?", "Yes.", "No.")}


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"prompt": "Hi?", "chosen": "a"}, "rejected: a text or a list"),
        ({"chosen": "a", "rejected": "b"}, "prompt: is needed"),
        ({"prompt": [USER], "chosen": [USER], "rejected": say("b")}, "chosen: one answer"),
        ({"prompt": [USER], "chosen": [*say("a"), USER, *say("c")], "rejected": say("b")}, "chosen: one answer"),
        ({"prompt": 3, "chosen": "a", "rejected": "b"}, "prompt: a text, or a list"),
    ],
)
def test_a_pair_without_one_answer_each_is_refused(row: dict[str, Any], reason: str) -> None:
    job = run_rows(make_project(), [row], format="preference")
    assert refusals(job)[1].startswith(reason)


HH = [
    {
        "chosen": "\n\nHuman: What is tea?\n\nAssistant: A drink.\n\nHuman: Hot?\n\nAssistant: Mostly, yes.",
        "rejected": "\n\nHuman: What is tea?\n\nAssistant: A drink.\n\nHuman: Hot?\n\nAssistant: Who knows",
    },
    {"chosen": "\n\nHuman: a\nb \n\nAssistant: c\n\n d", "rejected": "\n\nHuman: a\nb \n\nAssistant:"},
]


def test_hh_rlhf_comes_in_and_goes_out_as_it_was() -> None:
    project = make_project()
    assert run_rows(project, HH, format="hh-rlhf").rows_new == 2
    assert {len(prompt.messages) for prompt in Prompt.objects.all()} == {1, 3}
    out = {row["chosen"]: row["rejected"] for row in rows_of(project, "implicit")}
    # An empty answer goes out with the space that the others have after the mark.
    assert out == {HH[0]["chosen"]: HH[0]["rejected"], HH[1]["chosen"]: HH[1]["rejected"] + " "}
    other = make_project()
    run_rows(other, rows_of(project, "implicit"), format="hh-rlhf")
    assert without_ids(rows_of(other, "implicit")) == without_ids(rows_of(project, "implicit"))


def test_hh_rows_that_differ_before_the_last_answer_are_refused() -> None:
    other = {"chosen": HH[0]["chosen"], "rejected": HH[0]["rejected"].replace("A drink", "A plant")}
    job = run_rows(make_project(), [other, {"chosen": "hello", "rejected": "bye"}], format="hh-rlhf")
    assert [reason[:9] for reason in refusals(job).values()] == ["rejected:", "chosen: t"]


@pytest.mark.parametrize("messages", [[USER], CHAT, CHAT[1:]])
def test_dialogues_and_prompts_as_text_read_back_equal(messages: list[dict[str, str]]) -> None:
    assert read_dialogue(write_dialogue(messages)) == messages
    assert read_prompt(write_prompt(messages)) == messages


def helpsteer(prompt: str, response: str, *scores: int) -> dict[str, Any]:
    names = ("helpfulness", "correctness", "coherence", "complexity", "verbosity")
    return {"prompt": prompt, "response": response, **dict(zip(names, scores, strict=True))}


HELPSTEER = [
    helpsteer("c#", "first", 3, 3, 4, 2, 2),
    helpsteer("c#", "second", 4, 4, 4, 1, 1),
    helpsteer("a\n<extra_id_1>Assistant\nb\n<extra_id_1>User\nc", "one", 0, 1, 2, 3, 4),
    helpsteer("a\n<extra_id_1>Assistant\nb\n<extra_id_1>User\nc", "two", 4, 3, 2, 1, 0),
    helpsteer("alone", "only", 1, 1, 1, 1, 1),
]


def test_helpsteer2_comes_in_by_prompt_and_goes_out_a_row_a_response() -> None:
    first, second = (make_project(protocol="ratings") for _ in range(2))
    job = run_rows(first, HELPSTEER, format="helpsteer2")
    assert (job.rows_new, list(refusals(job))) == (2, [5])
    out = rows_of(first, "ratings")
    names = list(HELPSTEER[0])
    assert sorted(tuple(row[name] for name in names) for row in out) == sorted(
        tuple(row.values()) for row in HELPSTEER[:4]
    )
    run_rows(second, out, format="helpsteer2")
    assert without_ids(rows_of(second, "ratings")) == without_ids(out)
    pairs = {(row["chosen"][0]["content"], row["rejected"][0]["content"]) for row in rows_of(first, "preference")}
    assert pairs == {("second", "first"), ("two", "one")}


def preferred(strength: int, **more: Any) -> dict[str, Any]:
    """Return a row of HelpSteer2's preference.jsonl."""
    one = {"statement": "@Response 2 is better.", "elaboration": "It is whole.", "strength": strength}
    return {
        "split": "train", "prompt": f"c# {strength}", "response_1": "first", "response_2": "second",
        "preference_strength": strength, "preference_statement": "@Response 2 is better.",
        "preference_elaboration": "It is whole.", "three_most_similar_preferences": [one] * 3,
        "all_preferences_unprocessed": [one] * 4,
    } | more  # fmt: skip


def test_helpsteer2_preferences_come_in_with_their_strength_and_go_out_as_pairs() -> None:
    first, second = make_project(), make_project()
    rows = [preferred(-3), preferred(2), preferred(0), preferred(4), preferred(1, response_2=None)]
    job = run_rows(first, rows, format="helpsteer2")
    assert list(refusals(job)) == [4, 5]
    assert job.rows_new == 3
    out = rows_of(first, "preference")
    # Below 0 the first is better; 0 is a tie and makes no pair.
    sides = {(row["prompt"][0]["content"], row["chosen"][0]["content"], row["margin"]) for row in out}
    assert sides == {("c# -3", "first", 1.0), ("c# 2", "second", 0.666667)}
    assert set(Judgment.objects.values_list("rationale", flat=True)) == {"@Response 2 is better.\n\nIt is whole."}
    run_rows(second, out, format="preference")
    assert without_ids(rows_of(second, "preference")) == without_ids(out)


def test_ratings_of_several_annotators_combine_to_rounded_means() -> None:
    project = make_project(protocol="ratings")
    rest = {"correctness": 1, "coherence": 1, "complexity": 1, "verbosity": 1}
    judgments = [
        {"annotator": f"a{n}", "ratings": {"0": {"helpfulness": a, **rest}, "1": {"helpfulness": b, **rest}}}
        for n, (a, b) in enumerate(((4, 0), (3, 0), (3, 1)))
    ]
    run_rows(project, [judged_row(0, judgments=judgments)])
    assert len(rows_of(project, "ratings")) == 6
    # Means 10/3 and 1/3.
    combined = {row["response"]: row["helpfulness"] for row in rows_of(project, "ratings", combine="majority")}
    assert combined == {"Yes 0.": 3, "No 0.": 0}


TREE: dict[str, Any] = {
    "message_tree_id": "t1",
    "tree_state": "ready_for_export",
    "prompt": {
        "message_id": "m1", "text": "Why?", "role": "prompter", "lang": "en",
        "replies": [
            {"message_id": "m2", "text": "Because.", "role": "assistant", "rank": 1, "replies": [
                {"message_id": "m5", "text": "So?", "role": "prompter", "replies": [
                    {"message_id": "m6", "text": "Thus.", "role": "assistant", "rank": 0, "replies": []},
                    {"message_id": "m7", "text": "No.", "role": "assistant", "rank": 1, "replies": []},
                ]},
            ]},
            {"message_id": "m3", "text": "For a reason.", "role": "assistant", "rank": 0, "replies": []},
            {"message_id": "m4", "text": "spam", "role": "assistant", "rank": 2, "deleted": True, "replies": []},
        ],
    },
}  # fmt: skip


def test_oasst_trees_come_in_at_every_fork_and_go_out_as_trees() -> None:
    first, second = (make_project(protocol="ranking") for _ in range(2))
    job = run_rows(first, [TREE, {"prompt": {"role": "prompter", "text": "Alone"}}], format="oasst")
    assert (job.rows_new, list(refusals(job))) == (2, [2])
    assert {len(task.prompt.messages) for task in Task.objects.select_related("prompt")} == {1, 3}
    assert {tuple(judgment.ranks) for judgment in Judgment.objects.all()} == {(1, 0), (0, 1)}
    trees = rows_of(first, "oasst")
    top = next(tree["prompt"] for tree in trees if len(tree["prompt"]["replies"]) == 2)
    assert [(reply["text"], reply["rank"], reply["role"]) for reply in top["replies"]] == [
        ("Because.", 1, "assistant"),
        ("For a reason.", 0, "assistant"),
    ]
    assert {reply["parent_id"] for reply in top["replies"]} == {top["message_id"]}
    run_rows(second, trees, format="oasst")
    assert without_ids(rows_of(second, "ranked")) == without_ids(rows_of(first, "ranked"))


def test_unpaired_rows_say_best_and_worst() -> None:
    project = make_project(protocol="ranking")
    responses = [{"text": f"r{n}"} for n in range(4)]
    judgments = [
        {"annotator": "a", "ranking": [[2], [0, 1], [3]]},
        {"annotator": "b", "ranking": [[2, 3], [0], [1]], "all_bad": True},
        {"annotator": "c", "ranking": [[0, 1, 2, 3]]},
    ]
    run_rows(project, [{"prompt": "?", "responses": responses, "judgments": judgments}])
    labels = sorted((row["completion"][0]["content"], row["label"]) for row in rows_of(project, "unpaired"))
    assert labels == [("r0", False), ("r1", False), ("r2", False), ("r2", True), ("r3", False), ("r3", False)]
    # Combined, r2 has one voice each way and says nothing; r3 has two of two.
    combined = {row["completion"][0]["content"]: row for row in rows_of(project, "unpaired", combine="majority")}
    assert {text: (row["label"], row["weight"]) for text, row in combined.items()} == {
        "r0": (False, 1.0), "r1": (False, 1.0), "r3": (False, 1.0),
    }  # fmt: skip


def test_ranked_rows_leave_the_unranked_out_and_keep_ties() -> None:
    project = make_project(protocol="ranking-partial")
    responses = [{"text": f"r{n}", "model": f"m{n}"} for n in range(4)]
    judgments = [{"annotator": "a", "ranking": [[3], [0, 2]]}, {"annotator": "b", "ranking": [[3], [0]]}]
    run_rows(project, [{"prompt": "?", "responses": responses, "judgments": judgments}])
    by_size = {len(row["ranks"]): row for row in rows_of(project, "ranked")}
    assert (by_size[3]["responses"], by_size[3]["ranks"]) == (["r0", "r2", "r3"], [1, 1, 0])
    assert by_size[2]["policies"] == ["m0", "m3"]
    (combined,) = rows_of(project, "ranked", combine="majority")
    assert (combined["responses"], combined["ranks"]) == (["r0", "r2", "r3"], [1, 1, 0])


def test_rewrites_become_examples_to_learn_from() -> None:
    project = make_project(protocol="rewrite")
    judgment = {"annotator": "a", "ranking": [[0], [1]], "rewrites": {"1": "Better."}}
    run_rows(project, [judged_row(0, judgments=[judgment]), judged_row(1)])
    (row,) = rows_of(project, "sft")
    assert (row["prompt"][0]["content"], row["completion"]) == ("Question 0?", say("Better."))
    assert row["policy"] == "bloom"


@pytest.mark.parametrize("format", list(EXPORT_FORMATS))
def test_every_format_has_the_same_columns_in_every_file_type(format: str, tmp_path: Path) -> None:
    project = make_project(protocol={**protocol_with_everything(), "name": "everything"})
    run_rows(project, [*map(everything, range(3))])
    export = prepare_export(project=project, format=format, options=parse_options({"split": "all"}))
    lines = [line for _, line in export.lines()]
    assert lines
    assert all(list(json.loads(line)) and set(json.loads(line)) <= set(export.schema.names) for line in lines)
    typed = tmp_path / "x.parquet"
    as_text = export.format.as_text
    typed.write_bytes(b"".join(write_pieces(lines, file_type="parquet", schema=export.schema, as_text=as_text)))
    table = pyarrow.parquet.read_table(typed)
    assert table.schema.names == export.schema.names
    assert table.num_rows == len(lines)
    if not as_text:
        assert [{k: v for k, v in row.items() if v is not None} for row in table.to_pylist()] == [
            {k: v for k, v in json.loads(line).items() if v is not None} for line in lines
        ]
    out = tmp_path / "x.csv"
    call_command("export_data", project.slug, "--format", format, "--output", str(out), "--split", "all")
    assert out.read_text().splitlines()[0] == ",".join(export.schema.names)


def protocol_with_everything() -> dict[str, Any]:
    from feedback_app.projects.presets import PRESETS

    return PRESETS["instructgpt"].as_json() | {"rewrites": True}


def everything(number: int) -> dict[str, Any]:
    judgment = {
        "annotator": "a",
        "ranking": [[1], [0]],
        "ratings": {"0": {"overall": 2}, "1": {"overall": 6}},
        "flags": {"0": ["violent"]},
        "rewrites": {"0": "中文 \\ rewritten"},
        "rationale": "so",
        "lead_time": 1.5,
    }
    return judged_row(number, judgments=[judgment])


# What a row's own format calls its id, and the response ids, policies and finish reasons of its answers.
SINGLE = (lambda row: row["id"], lambda row: [(row["response_id"], row["policy"], row["finish_reason"])])
PAIR = (
    lambda row: row["id"],
    lambda row: [(row[f"{s}_id"], row[f"{s}_policy"], row[f"{s}_finish_reason"]) for s in ("chosen", "rejected")],
)
ORIGINS: dict[str, Any] = {
    "preference": PAIR,
    "implicit": PAIR,
    "unpaired": SINGLE,
    "ratings": SINGLE,
    "sft": SINGLE,
    "ranked": (
        lambda row: row["id"],
        lambda row: list(zip(row["response_ids"], row["policies"], row["finish_reasons"], strict=True)),
    ),
    "judgments": (
        lambda row: row["id"],
        lambda row: [(answer["id"], answer["model"], answer["finish_reason"]) for answer in row["responses"]],
    ),
    "oasst": (
        lambda row: row["message_tree_id"],
        lambda row: [
            (answer["message_id"], answer["model_name"], answer["finish_reason"]) for answer in row["prompt"]["replies"]
        ],
    ),
}


def test_rows_of_every_format_say_which_responses_by_which_policy_and_how_they_ended() -> None:
    project = make_project(protocol={**protocol_with_everything(), "name": "everything"})
    run_rows(project, [everything(0)])
    Response.objects.filter(text__startswith="Yes").update(finish_reason='an "end" of somebody\'s server')
    Response.objects.filter(text__startswith="No").update(finish_reason="length")
    known = {(str(r.pk), r.model_name, r.finish_reason) for r in Response.objects.all()}
    for format in EXPORT_FORMATS:
        name_of, origins_of = ORIGINS[format]
        rows = rows_of(project, format, truncated=True)
        assert rows, format
        assert all(name_of(row) and origins_of(row) for row in rows), format
        assert {origin for row in rows for origin in origins_of(row)} <= known, format


def test_a_rewrite_is_a_persons_own_finished_text_whatever_became_of_the_response() -> None:
    project = make_project(protocol={**protocol_with_everything(), "name": "everything"})
    run_rows(project, [everything(0)])  # flagged violent, and rewritten
    Response.objects.filter(text__startswith="Yes").update(finish_reason="length")
    (row,) = rows_of(project, "sft", without_flags=["violent"])
    assert (row["completion"], row["finish_reason"]) == (say("中文 \\ rewritten"), "length")


def test_truncated_responses_are_in_no_trainers_file_unless_asked_for() -> None:
    project = make_project(protocol="ranking")
    run_rows(project, judged_rows(3))
    Response.objects.filter(text__startswith="Yes").update(finish_reason="length")
    for format in ("preference", "implicit", "ranked"):
        assert rows_of(project, format) == [], format
        assert rows_of(project, format, truncated=True), format
    assert {row["completion"][0]["content"][:2] for row in rows_of(project, "unpaired")} == {"No"}
    assert len(rows_of(project, "judgments")) == 3  # what was judged is told whole
