"""What a round trains on: pairs of rankings and ratings, the train side alone, and a judge with prompts of its own."""

import json
from pathlib import Path
from typing import Any

import pytest
from django.conf import settings

from feedback_app.accounts.models import User
from feedback_app.annotation.models import Judgment, Prompt, Task
from feedback_app.annotation.services import create_prompts, next_task, submit_judgment
from feedback_app.projects.models import Project
from feedback_app.rounds.leases import claim_round
from feedback_app.rounds.models import Round, RoundStep
from feedback_app.rounds.steps.export import export
from feedback_app.rounds.supervisor import StepFailed, StepRun
from feedback_app.rounds.workspace import is_complete, step_dir
from tests.factories import make_judgment, make_project, make_task, make_user
from tests.web.judged import run_rows
from tests.web.rounds import judged_project, start

pytestmark = pytest.mark.django_db


def export_of(project: Project, **recipe: Any) -> tuple[dict[str, Any], dict[str, list[dict[str, Any]]]]:
    """Start a round and do its export; return the step's metrics and each file's rows."""
    return do_export(start(project, **recipe))


def do_export(round_: Round) -> tuple[dict[str, Any], dict[str, list[dict[str, Any]]]]:
    held = claim_round(round_id=round_.pk)
    assert held is not None
    metrics = export(StepRun(held, RoundStep.objects.get(round=held, name="export"), deadline=float("inf")))
    directory = step_dir(held, "export")
    assert is_complete(directory)
    return metrics, {path.stem: read(path) for path in sorted(directory.glob("*.jsonl"))}


def read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def split_of(row: dict[str, Any]) -> str:
    return Prompt.objects.values_list("split", flat=True).get(pk=row.get("prompt_id") or row["id"])


def test_reward_model_and_ppo_learn_from_train_alone_and_gates_look_at_validation() -> None:
    metrics, files = export_of(judged_project(80))
    assert {split_of(row) for name in ("reward", "judge", "prompts") for row in files[name]} == {"train"}
    assert {split_of(row) for name in ("held_out", "eval_prompts") for row in files[name]} == {"validation"}
    # 80 rows: about 64 prompts on the train side; a verdict that is a tie makes no pair.
    assert len(files["prompts"]) == Prompt.objects.filter(split="train").count()
    assert metrics["prompts/train"] == len(files["prompts"])
    verdicts = Judgment.objects.filter(task__prompt__split="train")
    assert metrics["pairs/reward"] + metrics["pairs/judge"] == sum(not tied(verdict) for verdict in verdicts)


def tied(judgment: Judgment) -> bool:
    return len(set(judgment.ranks)) == 1


def test_the_judge_learns_from_prompts_that_the_ppos_reward_model_never_saw() -> None:
    _, files = export_of(judged_project(80), judge_share=0.5)
    reward, judge = ({row["prompt_id"] for row in files[name]} for name in ("reward", "judge"))
    assert reward
    assert judge
    assert not reward & judge


def test_a_prompt_stays_with_the_judge_in_every_round() -> None:
    project = judged_project(60)
    _, first = export_of(project)
    Round.objects.update(state=Round.State.SUCCEEDED)
    run_rows(project, [{**row, "prompt": f"More {n}?"} for n, row in enumerate(_rows(60))])
    _, second = export_of(project)
    for mine, other in (("reward", "judge"), ("judge", "reward")):
        assert not {row["prompt_id"] for row in first[mine]} & {row["prompt_id"] for row in second[other]}


def _rows(count: int) -> list[dict[str, Any]]:
    return [
        {
            "responses": [{"text": f"Aye {n}.", "model": "a"}, {"text": f"Nay {n}.", "model": "b"}],
            "judgments": [{"annotator": "a1", "ranking": [[0], [1]]}],
        }
        for n in range(count)
    ]


def test_rankings_of_more_than_two_make_a_pair_of_each_two_tiers() -> None:
    project = make_project(protocol="ranking")
    rows = [
        {
            "prompt": f"Rank {n}?",
            "responses": [{"text": f"{text} {n}", "model": text} for text in ("best", "fair", "poor")],
            "judgments": [{"annotator": "a1", "ranking": [[0], [1], [2]]}],
        }
        for n in range(40)
    ]
    run_rows(project, rows)
    _, files = export_of(project)
    pairs = {(text(row, "chosen"), text(row, "rejected")) for row in files["reward"] + files["judge"]}
    assert pairs == {("best", "fair"), ("best", "poor"), ("fair", "poor")}


def text(row: dict[str, Any], side: str) -> str:
    """Return the first word of a pair's response."""
    return str(row[side][-1]["content"].split()[0])


def test_ratings_make_pairs_by_their_weighted_sum() -> None:
    project = make_project(protocol="ratings")
    keys = [attribute["key"] for attribute in project.protocol.spec["attributes"]]  # type: ignore[union-attr]
    low = {attribute["key"]: attribute["minimum"] for attribute in project.protocol.spec["attributes"]}  # type: ignore[union-attr]
    annotator = make_user(project)
    for _ in range(40):
        task = make_task(project, ("Good answer.", "Bad answer."))
        ids = [str(pk) for pk in task.task_responses.order_by("position").values_list("response_id", flat=True)]
        ratings = {ids[0]: {**low, keys[0]: low[keys[0]] + 2}, ids[1]: low}
        make_rating(task, annotator, ratings)
    _, files = export_of(project)
    rows = files["reward"] + files["judge"]
    assert {(text(row, "chosen"), text(row, "rejected")) for row in rows} == {("Good", "Bad")}
    assert len(rows) == Prompt.objects.filter(split="train").count()
    Round.objects.update(state=Round.State.SUCCEEDED)
    # The best rating of the first attribute counts nothing now, and no pair is left to learn from.
    with pytest.raises(StepFailed):
        export_of(project, judgments={"rating_weights": {keys[0]: 0.0, keys[1]: 1.0}})


def make_rating(task: Task, annotator: User, ratings: dict[str, Any]) -> None:
    held = next_task(project=task.project, annotator=annotator)
    assert held is not None
    assert held.id == task.pk
    submit_judgment(task_id=task.pk, annotator=annotator, body={"ratings": ratings})


def test_simulated_judgments_stay_out_unless_the_round_asks_for_them() -> None:
    project = judged_project(40)
    machine = make_user(project, kind=User.Kind.SIMULATED)
    for _ in range(40):
        make_judgment(make_task(project, ("Machine one.", "Machine two.")), machine)
    _, files = export_of(project)
    assert "Machine" not in {text(row, "chosen") for row in files["reward"] + files["judge"] + files["held_out"]}
    Round.objects.update(state=Round.State.SUCCEEDED)
    _, files = export_of(project, judgments={"simulated": "only"})
    assert {text(row, "chosen") for row in files["reward"] + files["judge"] + files["held_out"]} == {"Machine"}


def test_at_most_max_pairs_are_taken_and_the_same_ones_each_time() -> None:
    project = judged_project(80)
    _, files = export_of(project, max_pairs=30)
    assert len(files["reward"]) + len(files["judge"]) == 30
    Round.objects.update(state=Round.State.SUCCEEDED)
    _, again = export_of(project, max_pairs=30)
    assert again == files


def test_another_worker_goes_on_with_the_first_ones_dataset() -> None:
    project = judged_project(40)
    held = start(project)
    metrics, files = do_export(held)
    run_rows(project, [{**row, "prompt": f"Later {n}?"} for n, row in enumerate(_rows(20))])
    Round.objects.filter(pk=held.pk).update(state=Round.State.QUEUED)
    again, same = do_export(held)
    assert again["dataset"] == metrics["dataset"]
    for name in ("reward", "judge", "held_out"):
        assert same[name] == files[name]


def test_prompts_that_were_taken_out_of_use_are_not_trained_on() -> None:
    project = judged_project(40)
    out = Prompt.objects.filter(project=project, split="train").first()
    assert out is not None
    Prompt.objects.filter(pk=out.pk).update(active=False)
    _, files = export_of(project)
    assert str(out.pk) not in {row["id"] for row in files["prompts"]}


def test_too_few_prompts_for_a_judge_of_its_own_are_said_so() -> None:
    project = make_project()
    run_rows(project, [{**row, "prompt": f"Few {n}?"} for n, row in enumerate(_rows(8))])
    metrics, files = export_of(project)
    assert files["judge"] == []
    assert metrics["pairs/judge"] == 0
    assert any("judge of its own" in note for note in metrics["notes"])


def test_nothing_to_learn_from_fails_with_a_reason() -> None:
    project = make_project()
    annotator = make_user(project)
    for _ in range(3):
        make_judgment(make_task(project), annotator, ranks=(0, 0))
    with pytest.raises(StepFailed):  # ties make no pair
        export_of(project)


def test_rewrites_are_taken_for_supervised_fine_tuning_where_the_recipe_asks() -> None:
    project = make_project(protocol={"name": "rewriting", "rewrites": True})
    annotator = make_user(project)
    create_prompts(project=project, prompts=["Unjudged?"])
    for number in range(30):
        task = make_task(project)
        first = str(task.task_responses.order_by("position").values_list("response_id", flat=True)[0])
        make_judgment(task, annotator, rewrites={first: f"Better {number}."})
    metrics, files = export_of(project, use_sft=True)
    assert metrics["rewrites"] == len(files["sft"]) == Prompt.objects.filter(split="train", tasks__isnull=False).count()
    assert all(row["completion"][-1]["content"].startswith("Better ") for row in files["sft"])
    assert {split_of(row) for row in files["sft"] if "prompt_id" in row} <= {"train"}
    assert settings.DATA_DIR in step_dir(Round.objects.get(), "export").parents
