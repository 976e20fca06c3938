"""The human gate: annotators compare a new policy's answers with the old one's, and their verdicts decide the round."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from django.conf import settings as django_settings
from pytest_django import Settings
from rest_framework.test import APIClient

from feedback_app.accounts.models import User
from feedback_app.annotation.models import Judgment, Prompt, Task
from feedback_app.annotation.services import create_prompts, next_task, renew, submit_judgment, void_judgments
from feedback_app.annotation.splits import hash_root, split_of
from feedback_app.rounds.blind import blind_standing
from feedback_app.rounds.models import Round
from feedback_app.rounds.recipes import parse_recipe
from feedback_app.rounds.runner import work_on_round
from feedback_app.rounds.services import (
    RoundRefused,
    cancel_round,
    publish_recipe,
    queue_fed_rounds,
    reject_round,
    retry_round,
    settle_round,
)
from feedback_app.rounds.standing import standing_of
from feedback_app.serving.models import PolicyVersion
from feedback_app.serving.selectors import deployment_of
from feedback_app.serving.services import PushRefused, push_policy
from tests.factories import make_project, make_task, make_token, make_user
from tests.web.endpoint import FakeEndpoint, run_endpoint
from tests.web.fake_trainer import finish
from tests.web.round_rows import round_at
from tests.web.rounds import GOOD, judged_project, start

pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def endpoint(settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeEndpoint]:
    settings.BASE_MODEL = str(tmp_path)
    monkeypatch.setenv("FAKE_METRICS", json.dumps({"evaluate": GOOD}))
    with run_endpoint() as fake:
        settings.SERVING_URL = fake.url
        yield fake


def held_out(count: int, words: str = "is asked") -> list[str]:
    """Return so many prompts that fall on the validation side."""
    texts = (f"What {words}, {number}" for number in range(100 * count))
    return [text for text in texts if split_of(hash_root(text)) == "validation"][:count]


def waiting_round(judgments: int = 40, prompts: int = 20, also: list[str] | None = None, **gate: Any) -> Round:
    """Return a round that waits at its gate, all before it done by the fake trainer's files, but without processes."""
    held = round_at_gate([*held_out(prompts), *(also or [])], human_judgments=judgments, **gate)
    assert (held.state, held.error) == ("waiting_for_judgments", "")
    return held


def round_at_gate(prompts: list[str], **gate: Any) -> Round:
    """Return a round that a worker has taken through its gate with these prompts."""
    project = make_project()
    publish_recipe(project=project, recipe=parse_recipe({"gate": gate}))
    held = round_at(project, "queued", "gate")
    stored = create_prompts(project=project, prompts=prompts)
    folder = Path(django_settings.DATA_DIR) / "rounds" / str(held.pk) / "f1"
    lines = [json.dumps({"id": str(prompt.pk), "prompt": prompt.messages}) + "\n" for prompt in stored]
    for name, metrics in (("ppo", {}), ("evaluate", GOOD)):
        (folder / name).mkdir(parents=True)
        (folder / "prompts.jsonl").write_text("".join(lines))
        (folder / name / "progress.jsonl").write_text('{"update": 1, "updates": 1}\n')
        finish(name, folder / name, {"prompts": str(folder / "prompts.jsonl")}, metrics)
        directory = str((folder / name).relative_to(django_settings.DATA_DIR))
        held.steps.filter(name=name).update(directory=directory, metrics=metrics)
    return work(held)


def work(held: Round) -> Round:
    done = work_on_round(round_id=held.pk)
    assert done is not None
    return done


def blind_tasks(held: Round) -> list[Task]:
    return list(Task.objects.filter(round_id=held.pk).order_by("pk"))


def new_one(task: Task) -> str:
    """Return the id of the answer that the new policy gave."""
    return str(task.responses.exclude(policy__number=0).get().pk)


def judge(held: Round, annotator: User, *, prefers: str, count: int = 1) -> None:
    """Let an annotator take so many tasks from the queue and prefer the "new" or the "old" answer, or find a "tie"."""
    for _ in range(count):
        given = next_task(project=held.project, annotator=annotator)
        assert given is not None
        task = Task.objects.get(pk=given.id)
        assert task.kind == Task.Kind.GATE  # they come before all others
        new = new_one(task)
        [old] = [response["id"] for response in given.responses if response["id"] != new]
        ranking = {"new": [[new], [old]], "old": [[old], [new]], "tie": [[new, old]]}[prefers]
        submit_judgment(task_id=task.pk, annotator=annotator, body={"ranking": ranking})


def test_a_round_waits_for_people_without_a_lease_and_goes_live_once_they_prefer_its_answers() -> None:
    project = judged_project(20)
    Prompt.objects.filter(project=project, split="validation").update(active=False)
    create_prompts(project=project, prompts=held_out(20))
    held = work(start(project, gate={"human_judgments": 40}))  # from its judgments on, by a trainer's processes
    assert (held.state, held.error) == ("waiting_for_judgments", "")
    assert held.lease_until is None
    assert work_on_round(round_id=held.pk) is None  # a bell does not wake it
    assert deployment_of(project=held.project).live.number == 0  # type: ignore[union-attr]
    annotator = make_user(held.project)
    judge(held, annotator, prefers="new", count=7)
    # All of seven: the mixture is 1 / 8, against one half it is 2 ** 7 / 8 = 16 times as likely: not yet 20 times.
    assert queue_fed_rounds() == []
    assert "33 blind comparisons with the old policy's answers wait" in standing_of(held).text
    assert "7 of at most 40 are judged: it wins 100% (95 % interval 48% to 100%)" in standing_of(held).text
    judge(held, annotator, prefers="new")  # 2 ** 8 / 9 = 28
    assert queue_fed_rounds() == [held]
    done = work(held)
    assert (done.state, done.error) == ("succeeded", "")
    assert deployment_of(project=held.project).live == done.policy  # type: ignore[union-attr]
    check = done.gate["checks"][-1]
    assert (check["name"], check["passed"]) == ("blind comparisons", True)
    assert check["said"] == "100% in 8 verdicts on 8 prompts (95 % interval 52% to 100%): above 50%"
    assert done.policy is not None
    assert done.policy.withheld == ""


def test_a_round_whose_answers_people_find_worse_is_rejected_in_words_and_never_goes_live() -> None:
    held = waiting_round()
    judge(held, make_user(held.project), prefers="old", count=8)
    queue_fed_rounds()
    done = work(held)
    assert done.state == "rejected"
    assert done.error == "blind comparisons: 0% in 8 verdicts on 8 prompts (95 % interval 0% to 48%): below 50%"
    policy = PolicyVersion.objects.get(round_id=held.pk)
    with pytest.raises(PushRefused, match="has not let it through"):
        push_policy(policy=policy)
    # Asked again, the same verdicts say the same.
    assert work(retry_round(round_id=held.pk, retried_by=None)).state == "rejected"


@pytest.mark.parametrize(
    ("undecided", "state"), [("approval", "waiting_for_approval"), ("pass", "succeeded"), ("reject", "rejected")]
)
def test_verdicts_that_leave_it_open_do_what_the_recipe_says(undecided: str, state: str) -> None:
    held = waiting_round(judgments=4, human_undecided=undecided)
    annotator = make_user(held.project)
    judge(held, annotator, prefers="tie", count=2)
    judge(held, annotator, prefers="new")
    assert queue_fed_rounds() == []
    judge(held, annotator, prefers="old")
    queue_fed_rounds()
    done = work(held)
    assert done.state == state
    # Two ties of one half, a win and a loss: 2 of 4.
    assert "50% in 4 verdicts on 4 prompts" in done.gate["checks"][-1]["said"]
    if state == "waiting_for_approval":
        assert "neither better nor worse for certain" in standing_of(done).text


def test_an_annotator_is_given_a_blind_task_in_the_shape_of_any_other() -> None:
    held = waiting_round(judgments=20)
    annotator = make_user(held.project)
    client = APIClient(headers={"Authorization": f"Token {make_token(annotator)}"})
    url = f"/api/v1/projects/{held.project.slug}/tasks/next/"

    def ask() -> dict[str, Any]:
        given = client.post(url, {}, format="json").json()
        verdict = {"ranking": [[response["id"]] for response in given["responses"]]}
        assert client.post(f"/api/v1/tasks/{given['id']}/judgments/", verdict, format="json").status_code == 201
        return dict(given)

    blind = [ask() for _ in range(20)]
    usual = make_task(held.project, priority=50)
    other = ask()
    assert UUID(other["id"]) == usual.pk
    for given in blind:
        assert shape(given) == shape(other)
        text = json.dumps(given)
        # Neither a policy's name, nor the round, nor the kind of task.
        assert not [word for word in (held.project.slug, str(held.pk), "gate", "policy", "parent") if word in text]
    # Whose answer stands first is by lot, in what is shown and in the order of a verdict (20 alike: 1 in 500,000).
    firsts = {task.task_responses.get(position=0).response.policy.number for task in blind_tasks(held)}  # type: ignore[union-attr]
    assert firsts == {0, 1}


def shape(value: Any) -> Any:
    """Return a JSON value with its texts and numbers by type alone."""
    if isinstance(value, dict):
        return {key: shape(part) for key, part in value.items()}
    if isinstance(value, list):
        return [shape(part) for part in value]
    return type(value).__name__


def test_answers_that_are_alike_or_of_which_one_was_cut_off_are_not_asked_about_and_whole_ones_come_first() -> None:
    also = [*held_out(2, "says alike"), *held_out(3, "is cut"), *held_out(4, "was both cut")]
    held = waiting_round(judgments=10, prompts=8, also=also)
    assert {key: held.gate["blind"][key] for key in ("wanted", "tasks", "alike", "cut")} == {
        "wanted": 10, "tasks": 10, "alike": 2, "cut": 3,
    }  # fmt: skip
    asked = [task.prompt.messages[-1]["content"] for task in blind_tasks(held)]
    assert sum("is asked" in text for text in asked) == 8
    assert sum("both cut" in text for text in asked) == 2
    reasons = {response.finish_reason for task in blind_tasks(held) for response in task.responses.all()}
    assert reasons == {"stop", "length"}
    first = blind_tasks(held)[0].responses.exclude(policy__number=0).get()
    assert (first.policy_id, first.seed, first.token_count) == (held.policy_id, 7, 5)
    assert first.sampling == {"temperature": 1.0, "top_p": 1.0, "max_new_tokens": 48}


def test_a_second_worker_asks_nothing_twice_and_more_verdicts_than_prompts_are_spread_evenly() -> None:
    held = waiting_round(judgments=10, prompts=4)
    before = [(task.pk, task.overlap) for task in blind_tasks(held)]
    assert sorted(overlap or 0 for _pk, overlap in before) == [2, 2, 3, 3]
    # As after a worker's death between asking and waiting.
    Round.objects.filter(pk=held.pk).update(state="queued", gate={})
    held = work(held)
    assert held.state == "waiting_for_judgments"
    assert [(task.pk, task.overlap) for task in blind_tasks(held)] == before
    # Two people on one prompt make one share of it: a win and a loss are a tie, not two verdicts that count alone.
    for prefers in ("new", "old"):
        judge(held, make_user(held.project), prefers=prefers, count=4)
    standing = blind_standing(held)
    assert standing is not None
    assert (standing.judged, standing.prompts, standing.waiting, standing.share) == (8, 4, 2, 0.5)


def test_a_voided_verdict_and_a_simulated_one_do_not_count_and_their_places_are_asked_for_again() -> None:
    held = waiting_round(judgments=4)
    person, machine = make_user(held.project), make_user(held.project, kind=User.Kind.SIMULATED)
    judge(held, person, prefers="new", count=2)
    judge(held, machine, prefers="old", count=2)
    standing = blind_standing(held)
    assert standing is not None
    assert (standing.judged, standing.waiting, standing.outcome) == (2, 0, "undecided")
    queue_fed_rounds()
    held = work(held)  # the gate asks for what machines have taken
    assert held.state == "waiting_for_judgments"
    mine = Judgment.objects.filter(annotator=person).first()
    assert mine is not None
    void_judgments(project=held.project, voided_by=None, reason="slip", judgments=[mine.pk])
    standing = blind_standing(held)
    assert standing is not None
    assert (standing.judged, standing.waiting, standing.outcome) == (1, 3, "")


@pytest.mark.parametrize("end", ["cancel", "reject", "settle"])
def test_blind_tasks_leave_the_queue_with_the_round_and_who_holds_one_may_finish_it(end: str) -> None:
    held = waiting_round(human_undecided="reject")
    annotator, late = make_user(held.project), make_user(held.project)
    judge(held, annotator, prefers="new")
    given = next_task(project=held.project, annotator=late)
    assert given is not None
    if end == "cancel":
        assert cancel_round(round_id=held.pk, cancelled_by=None).state == "cancelled"
    elif end == "reject":
        assert reject_round(round_id=held.pk, rejected_by=None, reason="too curt").error == "too curt"
    else:
        assert settle_round(round_id=held.pk, settled_by=None).state == "queued"
        assert work(held).error.startswith("blind comparisons: 100% in 1 verdicts")
    assert {task.state for task in blind_tasks(held)} == {"retired"}
    assert next_task(project=held.project, annotator=annotator) is None
    renew(task_id=given.id, annotator=late)
    ranking = [[response["id"] for response in given.responses]]
    assert submit_judgment(task_id=given.id, annotator=late, body={"ranking": ranking})["surplus"] is False
    if end == "cancel":  # it can go on later, with the verdicts that there are
        held = work(retry_round(round_id=held.pk, retried_by=None))
        assert held.state == "waiting_for_judgments"
        standing = blind_standing(held)
        assert standing is not None
        assert (standing.judged, standing.waiting) == (2, 38)


def test_a_round_that_waits_to_begin_cannot_be_settled_or_rejected() -> None:
    held = start(judged_project(20), minimum_judgments=1000)
    assert held.state == "waiting_for_judgments"
    with pytest.raises(RoundRefused, match="waiting for judgments"):
        settle_round(round_id=held.pk, settled_by=None)
    with pytest.raises(RoundRefused, match="waiting for judgments"):
        reject_round(round_id=held.pk, rejected_by=None)


def test_a_protocol_of_more_answers_than_two_refuses_the_human_gate_before_anything_is_trained() -> None:
    project = make_project(protocol={"name": "three", "min_responses": 3})
    with pytest.raises(RoundRefused, match="blind comparisons are of two answers"):
        start(project, gate={"human_judgments": 4})


def test_where_nothing_can_be_compared_the_round_says_so_and_waits_for_nobody() -> None:
    held = round_at_gate(held_out(6, "says alike"), human_judgments=9)
    assert held.state == "waiting_for_approval"
    assert "there was nothing to compare" in held.gate["checks"][-1]["said"]
