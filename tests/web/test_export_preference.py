"""Judgments become preference pairs by stated rules; a trainer's file is the train split without simulated verdicts."""

import csv
import io
import json
import math
from pathlib import Path
from typing import Any

import pyarrow.parquet
import pytest
from django.core.management import CommandError, call_command
from django.utils import timezone

from feedback_app.annotation.models import Judgment, Prompt, Response, Task
from feedback_app.annotation.quality import measure_quality
from feedback_app.annotation.services.reviewing import review_judgment
from feedback_app.annotation.splits import hash_root, split_of
from feedback_app.datasets.exporting.options import OptionsError, parse_options
from feedback_app.datasets.exporting.rows import iter_preferences, prepare_export
from feedback_app.projects.models import Project
from feedback_app.projects.services import publish_protocol
from tests.factories import canonical_ids, make_judgment, make_policy, make_project, make_task, make_user
from tests.web.judged import judged_row, judged_rows, run_rows

pytestmark = pytest.mark.django_db


def pairs(project: Project, **options: Any) -> list[dict[str, Any]]:
    """Return the preference rows of every split unless one is named."""
    return list(iter_preferences(project=project, options=parse_options({"split": "all", **options})))


def texts(row: dict[str, Any]) -> tuple[str, str]:
    return row["chosen"][0]["content"], row["rejected"][0]["content"]


def ranked(rankings: list[list[list[int]]], *, count: int = 3, **more: Any) -> dict[str, Any]:
    """Return a row of responses r0, r1, ... and one annotator a ranking."""
    return {
        "prompt": "Which?",
        "responses": [{"text": f"r{index}", "model": f"m{index}"} for index in range(count)],
        "judgments": [{"annotator": f"a{index}", "ranking": ranking, **more} for index, ranking in enumerate(rankings)],
    }


def test_a_row_is_what_trl_reads() -> None:
    project = make_project()
    judgments = [{"annotator": "a", "ranking": [[1], [0]], "strength": 2}]
    run_rows(project, [judged_row(0, judgments=judgments)])
    task, judgment = Task.objects.get(), Judgment.objects.get()
    first, second = task.task_responses.values_list("response_id", flat=True)
    assert pairs(project) == [
        {
            "prompt": [{"role": "user", "content": "Question 0?"}],
            "chosen": [{"role": "assistant", "content": "No 0."}],
            "rejected": [{"role": "assistant", "content": "Yes 0."}],
            "id": f"{judgment.pk}:1-0",
            "margin": pytest.approx(2 / 3, abs=1e-6),
            "weight": 1.0,
            "prompt_id": str(task.prompt_id),
            "chosen_id": str(second),
            "rejected_id": str(first),
            "chosen_policy": "bloom",
            "rejected_policy": "llama",
            "chosen_finish_reason": "",
            "rejected_finish_reason": "",
        }
    ]


def test_every_verdict_makes_a_pair_and_a_tie_none() -> None:
    project = make_project()
    run_rows(project, judged_rows(10))
    # VERDICTS holds 30 verdicts, 6 of them ties.
    rows = pairs(project)
    assert len(rows) == 24
    assert len({row["id"] for row in rows}) == 24
    assert {row["margin"] for row in rows} == {0.0}  # no strength was stated; never null
    both = pairs(project, ties="both")
    assert len(both) == 24 + 2 * 6
    assert sum(row["weight"] for row in both) == 30


@pytest.mark.parametrize(
    ("margin", "expected"), [("small", [0.0, 1 / 3, 1.0]), ("large", [0.0, 1.0, 3.0]), ("none", [0.0] * 3)]
)
def test_margins_follow_strength_by_llama_2s_scales(margin: str, expected: list[float]) -> None:
    project = make_project()
    run_rows(
        project,
        [
            judged_row(number, judgments=[{"annotator": "a", "ranking": [[0], [1]], "strength": strength}])
            for number, strength in enumerate((0, 1, 3))
        ],
    )
    assert sorted(row["margin"] for row in pairs(project, margin=margin)) == pytest.approx(expected, abs=1e-6)


def test_a_ranking_gives_all_pairs_or_those_asked_for() -> None:
    project = make_project(protocol="ranking")
    run_rows(project, [ranked([[[2], [0, 1], [3]]], count=4)])
    every = {("r2", "r0"), ("r2", "r1"), ("r2", "r3"), ("r0", "r3"), ("r1", "r3")}
    assert {texts(row) for row in pairs(project)} == every
    assert {texts(row) for row in pairs(project, pairs="adjacent")} == every - {("r2", "r3")}
    assert {texts(row) for row in pairs(project, pairs="best_worst")} == {("r2", "r3")}
    assert [texts(row) for row in pairs(project, pairs="one_per_prompt")] == [("r2", "r3")]


def test_unranked_is_not_worst() -> None:
    project = make_project(protocol="ranking-partial")
    run_rows(project, [ranked([[[2], [0]]], count=4)])
    assert [texts(row) for row in pairs(project)] == [("r2", "r0")]


def test_a_majority_makes_one_pair_and_no_majority_none() -> None:
    project = make_project()
    run_rows(project, [judged_row(0), judged_row(2), judged_row(5), judged_row(4), judged_row(3), judged_row(6)])
    # (1,1,1) first by 3 of 3; (1,2,1) and (1,1,2) first by 2 of 3; (2,2,0) second by 2 of 3; (0,0,1) and (0,0,0): ties.
    rows = {texts(row): row["weight"] for row in pairs(project, combine="majority")}
    assert rows == {
        ("Yes 0.", "No 0."): 1.0,
        ("Yes 2.", "No 2."): pytest.approx(2 / 3, abs=1e-6),
        ("Yes 5.", "No 5."): pytest.approx(2 / 3, abs=1e-6),
        ("No 4.", "Yes 4."): pytest.approx(2 / 3, abs=1e-6),
    }


def test_weighted_verdicts_follow_those_who_agree_with_the_others() -> None:
    project = make_project()
    # a, b and c always agree where d and e are not asked; d and e contradict them wherever they are.
    together = [
        judged_row(n, judgments=[{"annotator": name, "ranking": [[0], [1]]} for name in "abc"]) for n in range(10)
    ]
    against = [
        judged_row(
            n,
            judgments=[
                {"annotator": "a", "ranking": [[0], [1]]},
                *({"annotator": name, "ranking": [[1], [0]]} for name in "de"),
            ],
        )
        for n in range(10, 13)
    ]
    run_rows(project, together + against)
    # a: 20 of 26 comparisons agree, 21/28 smoothed, log-odds log 3. d and e: 3 of 6, one half smoothed: they count 0.
    majority = {texts(row)[0]: row["weight"] for row in pairs(project, combine="majority")}
    weighted = {texts(row)[0]: row["weight"] for row in pairs(project, combine="weighted")}
    assert {majority[f"No {n}."] for n in range(10, 13)} == {round(2 / 3, 6)}
    assert {weighted[f"Yes {n}."] for n in range(10, 13)} == {1.0}
    export = prepare_export(project=project, format="preference", options=parse_options({"combine": "weighted"}))
    assert export.rules.reliability is not None
    assert export.rules.reliability["a"] == pytest.approx(math.log(3))
    assert export.rules.reliability["d"] == 0.0


def test_ratings_give_pairs_by_their_weighted_sum() -> None:
    project = make_project(protocol="ratings")
    low = {"helpfulness": 1, "correctness": 2, "coherence": 4, "complexity": 4, "verbosity": 4}
    high = {"helpfulness": 4, "correctness": 3, "coherence": 4, "complexity": 0, "verbosity": 0}
    run_rows(project, [judged_row(0, judgments=[{"annotator": "a", "ratings": {"0": low, "1": high}}])])
    # Style apart, 7 against 11 of at most 12.
    (row,) = pairs(project)
    assert (texts(row), row["margin"]) == (("No 0.", "Yes 0."), pytest.approx(4 / 12, abs=1e-6))
    # By verbosity alone the other one is better: 4 against 0 of at most 4.
    (row,) = pairs(project, rating_weights={"verbosity": 2.0})
    assert (texts(row), row["margin"]) == (("Yes 0.", "No 0."), 1.0)
    assert pairs(project, rating_gap=4.5) == []
    assert len(pairs(project, rating_gap=4)) == 1


def test_a_ranking_counts_before_ratings_where_both_were_given() -> None:
    project = make_project(protocol="instructgpt")
    ratings = {"0": {"overall": 7}, "1": {"overall": 1}}
    run_rows(project, [ranked([[[1], [0]]], count=2, ratings=ratings)])
    assert [texts(row) for row in pairs(project)] == [("r1", "r0")]


def test_what_does_not_count_is_left_out() -> None:
    project = make_project(overlap=1)
    run_rows(project, [judged_row(0)])
    annotator = make_user(project)
    for kind in (Task.Kind.GOLD, Task.Kind.QUALIFICATION):
        judgment = make_judgment(make_task(project), annotator)
        Task.objects.filter(pk=judgment.task_id).update(kind=kind, overlap=None)
    assert Judgment.objects.count() == 5
    assert len(pairs(project)) == 3
    void, surplus = Judgment.objects.filter(origin="imported")[:2]
    Judgment.objects.filter(pk=void.pk).update(voided_at=timezone.now())
    Judgment.objects.filter(pk=surplus.pk).update(surplus=True)
    assert len(pairs(project)) == 1


def test_simulated_verdicts_are_never_mixed_in_unasked() -> None:
    project = make_project()
    judgments = [
        {"annotator": "robot", "ranking": [[1], [0]], "simulated": True},
        {"annotator": "person", "ranking": [[0], [1]]},
    ]
    run_rows(project, [judged_row(0, judgments=judgments)])
    real, simulated = ("Yes 0.", "No 0."), ("No 0.", "Yes 0.")
    assert [texts(row) for row in pairs(project)] == [real]
    assert [texts(row) for row in pairs(project, simulated="only")] == [simulated]
    assert {texts(row) for row in pairs(project, simulated="include")} == {real, simulated}


def test_truncated_and_flagged_responses_are_left_out_unless_asked_for() -> None:
    project = make_project(protocol="instructgpt")
    flags = {"0": ["hallucination"]}
    run_rows(project, [ranked([[[2], [0], [1]]], flags=flags), ranked([[[0], [1]]], count=2) | {"prompt": "Other?"}])
    assert len(pairs(project)) == 4
    assert {texts(row) for row in pairs(project, without_flags=["hallucination"])} == {("r2", "r1"), ("r0", "r1")}
    Response.objects.filter(text="r2").update(finish_reason="length")
    assert {texts(row) for row in pairs(project)} == {("r0", "r1")}
    assert len(pairs(project, truncated=True)) == 4


def test_filters_take_what_they_name() -> None:
    project = make_project()
    run_rows(project, judged_rows(10))
    assert len(pairs(project, annotators=["annotator3"])) == 8  # of 10 verdicts of the third, 2 are ties
    assert pairs(project, policies=["llama"]) == []
    assert len(pairs(project, policies=["llama", "bloom"])) == 24
    assert pairs(project, languages=["zh"]) == []
    assert pairs(project, until="2020-01-01") == []
    assert len(pairs(project, since="2020-01-01")) == 24
    # Unanimous: rows 0, 1, 8 with three pairs each, and row 6 with ties alone.
    assert len(pairs(project, minimum_agreement=1)) == 9


def test_old_policies_weigh_less() -> None:
    project = make_project()
    old, new = make_policy(project, 1), make_policy(project, 3)
    annotator = make_user(project)
    for policy in (old, new):
        make_judgment(make_task(project, policy=policy), annotator)
    assert {row["chosen_policy"]: row["weight"] for row in pairs(project, policy_decay=0.5)} == {
        old.name: 0.25,  # two versions behind the newest
        new.name: 1.0,
    }


def test_each_split_is_the_prompts_own_and_a_trainers_default_is_train() -> None:
    project = make_project()
    run_rows(project, [judged_row(number, judgments=judged_row(0)["judgments"]) for number in range(60)])
    of_split = {
        split: {row["prompt"][0]["content"] for row in pairs(project, split=split)}
        for split in ("train", "validation", "test")
    }
    for split, prompts in of_split.items():
        assert prompts, f"60 prompts leave {split} empty"
        assert {split_of(hash_root(prompt)) for prompt in prompts} == {split}
    default = {row["prompt"][0]["content"] for row in iter_preferences(project=project)}
    assert default == of_split["train"]
    assert prepare_export(project=project, format="judgments", options=parse_options({})).split == "all"


def export(project: Project, path: Path, *arguments: str) -> int:
    out = io.StringIO()
    call_command("export_data", project.slug, "--output", str(path), *arguments, stdout=out)
    return int(out.getvalue())


def test_the_suffix_picks_the_file_type_and_all_hold_the_same(tmp_path: Path) -> None:
    project = make_project()
    run_rows(project, [*judged_rows(10), judged_row(11, prompt="=1+1", responses=[{"text": "@x"}, {"text": "中\n文"}])])
    for format in ("preference", "judgments"):
        files = {kind: tmp_path / f"{format}.{kind}" for kind in ("jsonl", "parquet", "csv")}
        counts = {export(project, path, "--format", format, "--split", "all") for path in files.values()}
        rows = [json.loads(line) for line in files["jsonl"].read_text().splitlines()]
        assert counts == {len(rows)}
        table = pyarrow.parquet.read_table(files["parquet"])
        assert table.column("prompt").to_pylist() == [row["prompt"] for row in rows]
        assert table.column("id").to_pylist() == [row["id"] for row in rows]
        cells = list(csv.DictReader(files["csv"].read_text().splitlines(keepends=True)))
        assert [json.loads(cell["prompt"]) for cell in cells] == [row["prompt"] for row in rows]
    assert sorted(path.name for path in tmp_path.iterdir())[0] == "judgments.csv"  # no unfinished file is left


def test_csv_cells_are_no_formulas(tmp_path: Path) -> None:
    project = make_project()
    row = judged_row(0, external_id="=HYPERLINK(1)", judgments=[{"annotator": "a", "ranking": [[0], [1]]}])
    run_rows(project, [row])
    export(project, tmp_path / "x.csv", "--format", "judgments")
    (cells,) = csv.DictReader((tmp_path / "x.csv").read_text().splitlines())
    assert cells["external_id"] == "'=HYPERLINK(1)"


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (("--output", "x.xlsx"), "--output"),
        (("--output", "x.jsonl", "--set", "colour=red"), "colour: unknown"),
        (("--output", "x.jsonl", "--set", "combine=guess"), "combine: one of"),
        (("--output", "/nonexistent/x.jsonl"), "/nonexistent/x.jsonl"),
    ],
)
def test_a_bad_choice_is_named(arguments: tuple[str, ...], named: str) -> None:
    project = make_project()
    with pytest.raises(CommandError, match=named):
        call_command("export_data", project.slug, *arguments)


@pytest.mark.parametrize(
    "given",
    [{"split": "dev"}, {"minimum_agreement": 2}, {"policy_decay": 0}, {"rating_gap": "wide"}, {"since": "soon"},
     {"truncated": "perhaps"}, {"rating_weights": {"a": None}}, {"annotators": [1]}, {"minimum_strength": 1.5}],
)  # fmt: skip
def test_options_fail_by_name(given: dict[str, Any]) -> None:
    with pytest.raises(OptionsError, match=next(iter(given))):
        parse_options(given)


def test_options_read_alike_from_json_and_from_an_address() -> None:
    given = {"annotators": ["a", "b"], "rating_weights": {"helpfulness": 1.0, "verbosity": -0.5}, "truncated": True}
    address = {"annotators": "a,b", "rating_weights": "helpfulness:1,verbosity:-0.5", "truncated": "true"}
    assert parse_options(given) == parse_options(address)
    assert parse_options(parse_options(given).as_json()) == parse_options(given)


def test_judgments_and_kappas_survive_export_and_import(tmp_path: Path) -> None:
    first = make_project()
    rows = [
        *judged_rows(10),
        judged_row(
            12,
            external_id="mine",
            prompt=[{"role": "system", "content": "Be \\ brief."}, {"role": "user", "content": "Hi?"}],
        ),
    ]
    rows[0]["judgments"][0] |= {"strength": 3, "rationale": "better\t\n\\", "lead_time": 2.5}
    run_rows(first, rows)
    second = make_project()
    for kind in ("jsonl", "parquet", "csv"):
        export(first, tmp_path / f"x.{kind}", "--format", "judgments")
    job = run_rows(second, (tmp_path / "x.jsonl").read_bytes())
    assert (job.rows_new, job.rows_refused) == (11, 0)
    assert measure_quality(project=second)["cohen_kappa"] == measure_quality(project=first)["cohen_kappa"]
    assert content_of(first) == content_of(second)
    # The typed files hold the same rows: to the same project they bring nothing new.
    for kind in ("parquet", "csv"):
        again = run_rows(second, (tmp_path / f"x.{kind}").read_bytes(), name=f"x.{kind}")
        assert (again.rows_known, again.rows_new, again.rows_refused) == (11, 0, 0)


def content_of(project: Project) -> list[Any]:
    """Return all that an export should keep, in an order of its own."""
    rows = [
        (
            judgment.task.prompt.messages,
            [(place.response.text, place.response.model_name) for place in judgment.task.task_responses.all()],
            judgment.task.external_id, judgment.annotator.display_name, judgment.ranks, judgment.strength,
            judgment.rationale, judgment.lead_time, judgment.created_at.isoformat(), judgment.origin,
        )
        for judgment in Judgment.objects.filter(project=project)
    ]  # fmt: skip
    return sorted(rows, key=str)


def test_prompts_keep_their_split_whatever_project_they_come_to() -> None:
    first, second = make_project(), make_project()
    run_rows(first, judged_rows(10))
    publish_protocol(project=second, protocol="ranking")
    run_rows(second, [{"prompt": row["prompt"]} for row in judged_rows(10)], format="prompts")
    splits = [dict(Prompt.objects.filter(project=p).values_list("content_sha256", "split")) for p in (first, second)]
    assert splits[0] == splits[1]


def test_a_reviewers_verdict_stands_above_the_judgments_unless_ignored() -> None:
    project = make_project(overlap=1)
    run_rows(project, [judged_row(0), judged_row(1)])
    judgment = Judgment.objects.filter(task__prompt__messages__0__content="Question 0?").first()
    assert judgment is not None
    first, second = canonical_ids(judgment.task)
    review_judgment(
        judgment_id=judgment.pk, reviewer=make_user(project), outcome="overruled",
        verdict={"ranking": [[second], [first]], "strength": 3},
    )  # fmt: skip
    # Row 0 has three verdicts for Yes, overruled by one for No; row 1 has three for No.
    replaced = pairs(project)
    assert sorted(map(texts, replaced)) == [("No 0.", "Yes 0."), *[("No 1.", "Yes 1.")] * 3]
    assert next(row["margin"] for row in replaced if texts(row)[0] == "No 0.") == 1
    assert sorted(map(texts, pairs(project, adjudicated="ignore")))[-3:] == [("Yes 0.", "No 0.")] * 3
    assert [texts(row) for row in pairs(project, adjudicated="only")] == [("No 0.", "Yes 0.")]
    # Agreement is the annotators' own, and the judgments format tells what each of them said.
    assert len(pairs(project, minimum_agreement=1)) == 4
    whole = prepare_export(project=project, format="judgments", options=parse_options({}))
    assert sum(len(json.loads(line)["judgments"]) for _, line in whole.lines()) == 6
