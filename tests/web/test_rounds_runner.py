"""Working on a round: step by step, each skipped where it stands whole, none trusted that does not."""

import json
import shutil
import signal
from collections.abc import Iterator
from datetime import timedelta
from importlib import import_module
from pathlib import Path

import pytest
from django.conf import settings as django_settings
from django.db import OperationalError
from django.utils import timezone, translation
from pytest_django import Settings

from feedback_app.notifications.models import Notification
from feedback_app.notifications.words import say
from feedback_app.rounds.models import Round, RoundStep
from feedback_app.rounds.runner import _run_step, _stands, work_on_round
from feedback_app.rounds.services import approve_round, pause_round, reject_round, resume_round, retry_round
from feedback_app.rounds.standing import standing_of
from feedback_app.rounds.supervisor import StepRun
from feedback_app.rounds.tasks import kick
from feedback_app.serving.models import PolicyVersion, Push
from feedback_app.serving.selectors import deployment_of
from tests.web.endpoint import FakeEndpoint, run_endpoint
from tests.web.rounds import GOOD, judged_project, start, states

pytestmark = pytest.mark.django_db
push = import_module("feedback_app.rounds.steps.push")  # of that name the package has the step itself


@pytest.fixture(autouse=True)
def endpoint(settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeEndpoint]:
    settings.BASE_MODEL = str(tmp_path)
    monkeypatch.setenv("FAKE_METRICS", json.dumps({"evaluate": GOOD}))
    with run_endpoint() as fake:
        settings.SERVING_URL = fake.url
        yield fake


def work(held: Round) -> Round:
    """Let a worker take a round as far as it goes."""
    done = work_on_round(round_id=held.pk)
    assert done is not None
    return done


def step(held: Round, name: str) -> RoundStep:
    return RoundStep.objects.get(round=held, name=name)


def fall_silent(held: Round) -> None:
    """As after a worker's death: the round still runs, and its lease is over."""
    Round.objects.filter(pk=held.pk).update(
        state=Round.State.RUNNING, lease_until=timezone.now() - timedelta(seconds=1), finished_at=None
    )


def test_a_round_goes_from_judgments_to_a_live_version(endpoint: FakeEndpoint) -> None:
    project = judged_project()
    held = work(start(project))
    assert (held.state, held.error) == ("succeeded", "")
    assert set(states(held).values()) == {"done"}
    assert held.lease_until is None
    assert held.finished_at is not None
    assert held.policy is not None
    assert (held.policy.number, held.policy.round_id, held.policy.evaluation["kl/parent"]) == (1, held.pk, 9.0)
    deployment = deployment_of(project=project)
    assert deployment is not None
    assert deployment.live == held.policy
    assert endpoint.staged[held.policy.name].startswith(str(django_settings.DATA_DIR))
    # What the trainers wrote is in the rows, and which of the two reward models wrote which line.
    assert [line["part"] for line in step(held, "reward").progress] == ["reward", "judge"]
    assert [line["update"] for line in step(held, "ppo").progress] == [1]


def test_a_doubled_bell_and_one_that_comes_late_do_nothing() -> None:
    held = work(start(judged_project()))
    before = list(RoundStep.objects.filter(round=held).values())
    kick(str(held.pk))
    kick(str(held.pk))
    held.refresh_from_db()
    assert (held.state, held.fence) == ("succeeded", 1)
    assert list(RoundStep.objects.filter(round=held).values()) == before


def test_steps_that_stand_whole_are_not_done_again() -> None:
    held = work(start(judged_project()))
    RoundStep.objects.filter(round=held, name="push").update(state="pending")
    fall_silent(held)
    held = work(held)
    assert (held.state, held.fence) == ("succeeded", 2)
    # The gate is always looked at again, and the push that was not done; nothing else.
    assert dict(RoundStep.objects.filter(round=held).values_list("name", "attempt")) == {
        "export": 1, "reward": 1, "ppo": 1, "evaluate": 1, "gate": 2, "push": 2,
    }  # fmt: skip
    # The version was live already, so that it was not pushed again.
    assert Push.objects.filter(policy=held.policy).count() == 1


def test_a_step_whose_files_have_changed_is_done_again_with_a_fence_of_its_own() -> None:
    held = work(start(judged_project(), gate={"approval": True}))
    ppo = django_settings.DATA_DIR / step(held, "ppo").directory
    (ppo / "model" / "config.json").write_text("{}")
    approve_round(round_id=held.pk, approved_by=None)
    held = work(held)
    assert held.state == "succeeded"
    again = step(held, "ppo")
    assert (again.attempt, again.directory) == (2, f"rounds/{held.pk}/f2/ppo")
    assert step(held, "reward").attempt == 1


def test_what_a_dead_worker_had_finished_is_found_though_its_row_does_not_say_so() -> None:
    held = work(start(judged_project()))
    made = (django_settings.DATA_DIR / step(held, "ppo").directory / "manifest.json").read_bytes()
    RoundStep.objects.filter(round=held, name__in=["ppo", "evaluate", "gate", "push"]).update(
        state="running", directory="", metrics={}, progress=[]
    )
    fall_silent(held)
    held = work(held)
    assert held.state == "succeeded"
    # Nor does it say the trainer's last lines, which nobody was left to hear.
    assert [line["update"] for line in step(held, "ppo").progress] == [1]
    assert step(held, "ppo").directory == f"rounds/{held.pk}/f1/ppo"
    assert (django_settings.DATA_DIR / step(held, "ppo").directory / "manifest.json").read_bytes() == made


def test_a_worker_that_dies_between_reward_model_and_judge_leaves_both_to_be_found_in_one_place() -> None:
    held = work(start(judged_project()))
    first = django_settings.DATA_DIR / step(held, "reward").directory
    model = (first / "model" / "manifest.json").read_bytes()
    shutil.rmtree(first / "judge")
    RoundStep.objects.filter(round=held).exclude(name="export").update(state="pending", directory="", metrics={})
    fall_silent(held)
    held = work(held)
    assert (held.state, held.error) == ("succeeded", "")
    both = django_settings.DATA_DIR / step(held, "reward").directory
    assert both == first.parent.parent / "f2" / "reward"
    # The model that stood is the same one, trained once; the judge is new.
    assert (both / "model" / "manifest.json").read_bytes() == model
    assert (both / "judge" / "manifest.json").is_file()
    # And a step whose judge is gone does not stand.
    assert _stands(step(held, "reward"))
    shutil.rmtree(both / "judge")
    assert not _stands(step(held, "reward"))


def test_a_trainer_that_fails_fails_the_round_with_its_last_words_and_a_retry_goes_on_from_there(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("FAKE_EXIT", json.dumps({"ppo": 2}))
    held = work(start(judged_project()))
    assert (held.state, held.error) == ("failed", "ppo ended with exit code 2: ppo: told to fail")
    # Each reads it in a language of their own, on the page and in a mail; the log and the API stay in English.
    with translation.override("zh-hans"):
        told = Notification.objects.get(kind="round_failed")
        for said in (standing_of(held).text, say(told.kind, told.values)):
            assert "ppo 以退出代码 2 结束：ppo: told to fail" in said
            assert "ended" not in said
    assert states(held)["ppo"] == "failed"
    assert states(held)["evaluate"] == "pending"
    monkeypatch.delenv("FAKE_EXIT")
    held = work(retry_round(round_id=held.pk, retried_by=None))
    assert held.state == "succeeded"
    assert step(held, "reward").attempt == 1
    # The first fence's checkpoint was taken over, and training went on from it.
    assert step(held, "ppo").progress[0]["resumed"] is True
    assert step(held, "ppo").directory == f"rounds/{held.pk}/f2/ppo"


def test_a_trainer_that_something_kills_goes_on_from_its_checkpoint(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAKE_EXIT", json.dumps({"ppo": -signal.SIGKILL}))
    monkeypatch.setenv("FAKE_ONCE", "1")
    held = work(start(judged_project()))
    assert (held.state, held.fence) == ("succeeded", 1)
    assert step(held, "ppo").progress[0]["resumed"] is True


def test_a_trainer_that_is_killed_again_and_again_fails_the_round_in_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAKE_EXIT", json.dumps({"reward": -signal.SIGKILL}))
    monkeypatch.setattr("feedback_app.rounds.steps.train.RESTART_AFTER_S", 0.0)
    held = work(start(judged_project()))
    assert held.state == "failed"
    assert held.error == "reward was ended by a signal (exit code -9): no log"


def test_a_retry_from_a_named_step_makes_it_and_all_after_it_anew() -> None:
    held = work(start(judged_project(), gate={"max_kl": 5.0}))
    assert held.state == "rejected"
    held = work(retry_round(round_id=held.pk, retried_by=None, from_step="ppo"))
    assert held.state == "rejected"
    attempts = dict(RoundStep.objects.filter(round=held).values_list("name", "attempt"))
    assert (attempts["reward"], attempts["ppo"], attempts["evaluate"]) == (1, 2, 2)
    # Neither the finished directory of the first fence nor its checkpoint was taken up.
    assert step(held, "ppo").directory == f"rounds/{held.pk}/f2/ppo"
    assert step(held, "ppo").progress[0]["resumed"] is False


def test_a_policy_that_the_gate_refuses_never_goes_live() -> None:
    project = judged_project()
    held = work(start(project, gate={"max_kl": 5.0}))
    assert held.state == "rejected"
    assert held.error == "KL to the parent: 9.0 nats a response; at most 5"
    assert held.policy is None
    assert not Push.objects.filter(project=project).exists()


def test_a_worker_that_dies_between_the_gate_and_its_verdict_does_not_let_the_policy_through() -> None:
    held = start(judged_project(), gate={"max_kl": 5.0})
    held = work(held)
    # As it was after the gate's row was written and before the round's: done, and no verdict.
    assert states(held)["gate"] == "done"
    fall_silent(held)
    Round.objects.filter(pk=held.pk).update(gate={}, error="")
    held = work(held)
    assert held.state == "rejected"
    assert held.policy is None


def test_a_recipe_that_asks_for_approval_waits_for_a_person_and_then_goes_live() -> None:
    held = work(start(judged_project(), gate={"approval": True}))
    assert (held.state, held.lease_until, held.policy) == ("waiting_for_approval", None, None)
    approve_round(round_id=held.pk, approved_by=None)
    held = work(held)
    assert held.state == "succeeded"
    assert held.gate["approved"] is True
    assert held.policy is not None


def test_a_round_that_a_person_rejects_is_over() -> None:
    held = work(start(judged_project(), gate={"approval": True}))
    held = reject_round(round_id=held.pk, rejected_by=None, reason="too curt")
    assert (held.state, held.error) == ("rejected", "too curt")
    assert work_on_round(round_id=held.pk) is None


def test_a_pause_lets_the_step_finish_and_a_resume_goes_on_after_it(monkeypatch: pytest.MonkeyPatch) -> None:
    held = start(judged_project())

    def pause_then_run(run: StepRun) -> dict[str, object]:
        if run.step.name == "export":
            pause_round(round_id=held.pk, paused_by=None)
        return _run_step(run)

    monkeypatch.setattr("feedback_app.rounds.runner._run_step", pause_then_run)
    paused = work(held)
    assert (paused.state, paused.lease_until, paused.pause_requested) == ("paused", None, False)
    assert states(held) == {
        "export": "done", "reward": "pending", "ppo": "pending", "evaluate": "pending", "gate": "pending",
        "push": "pending",
    }  # fmt: skip
    assert work_on_round(round_id=held.pk) is None  # a bell does not wake it
    resume_round(round_id=held.pk, resumed_by=None)
    assert work(held).state == "succeeded"
    assert step(held, "export").attempt == 1


def test_a_round_whose_database_goes_away_is_left_to_the_next_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    held = start(judged_project())

    def cut_off(run: StepRun) -> dict[str, object]:
        raise OperationalError("the connection is closed")

    with monkeypatch.context() as patched:
        patched.setattr("feedback_app.rounds.runner._run_step", cut_off)
        assert work_on_round(round_id=held.pk) is None
    held.refresh_from_db()
    assert (held.state, held.error) == ("running", "")
    fall_silent(held)
    assert work(held).state == "succeeded"


def test_lines_that_the_database_was_away_for_are_told_at_the_trainers_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(StepRun, "report", lambda *given: None)  # none of them was taken
    held = work(start(judged_project()))
    assert (held.state, held.error) == ("succeeded", "")
    assert [line["part"] for line in step(held, "reward").progress] == ["reward", "judge"]


def test_a_fault_of_ours_fails_the_round_and_is_not_swallowed(monkeypatch: pytest.MonkeyPatch) -> None:
    held = start(judged_project())

    def break_down(run: StepRun) -> dict[str, object]:
        raise KeyError("metrics")

    monkeypatch.setattr("feedback_app.rounds.runner._run_step", break_down)
    with pytest.raises(KeyError):
        work_on_round(round_id=held.pk)
    held.refresh_from_db()
    assert (held.state, held.error) == ("failed", "KeyError: 'metrics'")


def test_a_push_that_a_dead_worker_had_begun_is_taken_over(endpoint: FakeEndpoint) -> None:
    held = work(start(judged_project(), gate={"approval": True}))
    approve_round(round_id=held.pk, approved_by=None)
    done = work(held)
    assert done.policy is not None
    # As it was in the middle of the push: the version registered, its push running, the pointer not moved.
    Push.objects.filter(policy=done.policy).update(state="running", lease_until=timezone.now() + timedelta(minutes=9))
    deployment = deployment_of(project=held.project)
    assert deployment is not None
    deployment.live, deployment.previous = PolicyVersion.objects.get(project=held.project, number=0), None
    deployment.save()
    RoundStep.objects.filter(round=held, name="push").update(state="running")
    fall_silent(done)
    done = work(done)
    assert (done.state, done.error) == ("succeeded", "")
    assert sorted(Push.objects.filter(policy=done.policy).values_list("state", flat=True)) == ["failed", "live"]


def test_the_endpoint_being_away_for_long_fails_the_push_alone_and_a_retry_pushes_the_same_version(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(push, "PATIENCE_S", 0.0)
    url, settings.SERVING_URL = settings.SERVING_URL, "http://127.0.0.1:9"
    held = work(start(judged_project()))
    assert held.state == "failed"
    assert "stage: endpoint embedded" in held.error
    version = held.policy
    assert version is not None
    settings.SERVING_URL = url
    held = work(retry_round(round_id=held.pk, retried_by=None))
    assert (held.state, held.policy) == ("succeeded", version)
    assert step(held, "ppo").attempt == 1


def test_an_endpoint_that_restarts_is_waited_for(
    settings: Settings, endpoint: FakeEndpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(push, "ASK_AGAIN_AFTER_S", 0.05)
    asked: list[str] = []

    def restarting(run: StepRun) -> None:
        asked.append(run.step.name)
        if asked.count("push") == 2:
            settings.SERVING_URL = endpoint.url

    monkeypatch.setattr(StepRun, "heartbeat", restarting)
    held = start(judged_project())
    settings.SERVING_URL = "http://127.0.0.1:9"
    held = work(held)
    assert (held.state, held.error) == ("succeeded", "")
    assert asked.count("push") == 2
    assert sorted(Push.objects.filter(policy=held.policy).values_list("state", flat=True)) == ["failed"] * 2 + ["live"]
