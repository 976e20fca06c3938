"""Policies made elsewhere: taken in once, withheld until the same gates have let them through."""

import json
from collections.abc import Iterator
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from django.conf import settings as django_settings
from django.core.management import CommandError, call_command
from pytest_django import Settings

from feedback_app.projects.models import Member, Project
from feedback_app.rounds.model_places import find_models
from feedback_app.rounds.models import Round, RoundStep
from feedback_app.rounds.runner import work_on_round
from feedback_app.rounds.services import RoundRefused, evaluate_elsewhere, register_elsewhere, start_round
from feedback_app.serving.models import PolicyVersion
from feedback_app.serving.selectors import deployment_of
from feedback_app.serving.services import PushRefused, ensure_base_policy, push_policy
from feedback_app.serving.services.marking import mark_policies
from tests.factories import make_project
from tests.web.endpoint import FakeEndpoint, run_endpoint
from tests.web.round_rows import browser_of, page, press
from tests.web.rounds import GOOD, judged_project, start

pytestmark = pytest.mark.django_db


def greedy(body: dict[str, Any]) -> dict[str, Any]:
    """Answer as the fake trainer's canary has it, the first version a little beside: two versions differ."""
    name = body["parameters"]["adapter_id"]
    token = {"id": 5 if name.endswith("-v0") else 7, "logprob": -0.15 if name.endswith("-v1") else -0.1}
    return {"details": {"tokens": [token], "policy_version": name}}


@pytest.fixture(autouse=True)
def endpoint(settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeEndpoint]:
    settings.BASE_MODEL = str(tmp_path)
    monkeypatch.setenv("FAKE_METRICS", json.dumps({"evaluate": GOOD, "adopt": {"n/parameters": 7.0}}))
    with run_endpoint() as fake:
        settings.SERVING_URL = fake.url
        fake.greedy = greedy  # type: ignore[method-assign]
        yield fake


@pytest.fixture
def dpo(settings: Settings, tmp_path: Path) -> Path:
    """Return a model that somebody has left where models may be taken from."""
    settings.MODEL_DIRS = [tmp_path / "incoming"]
    directory = tmp_path / "incoming" / "team" / "dpo-3"
    directory.mkdir(parents=True)
    (directory / "config.json").write_text("{}")
    (directory / "model.safetensors").write_bytes(b"weights")
    return directory


def work(held: Round) -> Round:
    done = work_on_round(round_id=held.pk)
    assert done is not None
    return done


def steps(held: Round) -> list[str]:
    return list(RoundStep.objects.filter(round=held).order_by("position").values_list("name", flat=True))


def trained(**recipe: object) -> tuple[Project, Round]:
    """Return a project whose first round has gone through."""
    project = judged_project()
    held = work(start(project, **recipe))
    assert held.state == "succeeded", held.error
    return project, held


def test_a_policy_made_elsewhere_passes_the_gates_of_a_round_and_goes_live(dpo: Path, endpoint: FakeEndpoint) -> None:
    project, before = trained()
    base = PolicyVersion.objects.get(project=project, number=0)
    assert before.policy is not None
    held = work(
        register_elsewhere(project=project, directory=dpo, parents=[before.policy, base], note="DPO, three epochs")
    )
    assert (held.state, held.error) == ("succeeded", "")
    # Prompts and judge are those of the round before; nothing is exported or trained.
    assert steps(held) == ["adopt", "evaluate", "gate", "push"]
    policy = held.policy
    assert policy is not None
    assert (policy.source, policy.number, policy.note, policy.withheld) == ("registered", 2, "DPO, three epochs", "")
    assert (policy.parent, list(policy.also_from.all())) == (before.policy, [base])
    assert policy.evaluation["kl/parent"] == 9.0
    assert policy.evaluation["independent_judge"] is True
    deployment = deployment_of(project=project)
    assert deployment is not None
    assert deployment.live == policy
    config = (Path(policy.directory).parent / "adopt.toml").read_text()
    assert f'model = "{dpo}"' in config
    judged = (Path(policy.directory).parent / "evaluate.toml").read_text()
    assert f'policy = "{policy.directory}"' in judged
    assert f"rounds/{before.pk}/f1/reward/judge" in judged
    assert f"rounds/{before.pk}/f1/export/eval_prompts.jsonl" in judged
    # What came of an erased version came of it by any of its parents.
    assert policy in mark_policies(policies=[base], reason="erased")


def test_without_a_round_before_it_a_judge_is_trained_first(dpo: Path) -> None:
    project = judged_project()
    start_recipe(project)
    held = work(register_elsewhere(project=project, directory=dpo))
    assert (held.state, held.error) == ("succeeded", "")
    assert steps(held) == ["adopt", "export", "reward", "evaluate", "gate", "push"]
    with pytest.raises(RoundRefused, match="no judgments to train a judge from"):
        register_elsewhere(project=make_project(), directory=dpo)


def start_recipe(project: Project) -> None:
    """Give a project the fake trainer's recipe without starting a round by it."""
    held = start(project)
    held.delete()


def test_what_fails_a_gate_stays_withheld_and_can_be_judged_again(dpo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    project, before = trained()
    monkeypatch.setenv("FAKE_METRICS", json.dumps({"evaluate": {**GOOD, "kl/parent": 99.0}}))
    held = work(register_elsewhere(project=project, directory=dpo))
    assert (held.state, held.error) == ("rejected", "KL to the parent: 99.0 nats a response; at most 60")
    policy = held.policy
    assert policy is not None
    assert policy.evaluation["kl/parent"] == 99.0
    with pytest.raises(PushRefused, match="no round has let it through yet"):
        push_policy(policy=policy)
    deployment = deployment_of(project=project)
    assert deployment is not None
    assert deployment.live == before.policy
    monkeypatch.setenv("FAKE_METRICS", json.dumps({"evaluate": GOOD}))
    again = work(evaluate_elsewhere(policy=policy))
    assert (again.state, steps(again), again.policy) == ("succeeded", ["evaluate", "gate", "push"], policy)
    with pytest.raises(RoundRefused, match="is live already"):
        evaluate_elsewhere(policy=policy)
    assert before.policy is not None
    with pytest.raises(RoundRefused, match="was not made elsewhere"):
        evaluate_elsewhere(policy=before.policy)


def test_registering_alone_asks_for_no_judgments(dpo: Path) -> None:
    project = judged_project()
    start_recipe(project)
    held = work(register_elsewhere(project=project, directory=dpo, evaluate=False))
    assert (held.state, steps(held)) == ("succeeded", ["adopt"])
    assert held.policy is not None
    assert held.policy.withheld
    # A worker that dies and comes again registers nothing twice.
    assert PolicyVersion.objects.filter(project=project, source="registered").count() == 1
    # It is no round of the kind that a schedule counts judgments since.
    assert start_round(project=project).number == held.number + 1


def test_a_model_that_cannot_be_taken_in_fails_its_round_in_words(dpo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    project = judged_project()
    start_recipe(project)
    monkeypatch.setenv("FAKE_EXIT", json.dumps({"adopt": 2}))
    held = work(register_elsewhere(project=project, directory=dpo, evaluate=False))
    assert (held.state, held.error) == ("failed", "adopt ended with exit code 2: adopt: told to fail")
    assert not PolicyVersion.objects.filter(project=project, source="registered").exists()


def test_a_judge_that_was_spoilt_meanwhile_is_not_used(dpo: Path) -> None:
    project, before = trained()
    reward = RoundStep.objects.get(round=before, name="reward")
    held = register_elsewhere(project=project, directory=dpo)
    (Path(django_settings.DATA_DIR) / reward.directory / "judge" / "metrics.json").write_text("{} ")
    held = work(held)
    assert held.state == "failed"
    assert held.error.endswith("judge is not whole any more; a round that trains makes one anew")


@pytest.mark.parametrize("way", ["outside", "by a link", "up and out", "the folder itself", "not there"])
def test_a_page_names_only_what_lies_below_an_allowed_folder(dpo: Path, tmp_path: Path, way: str) -> None:
    project = make_project()
    secret = tmp_path / "secret"
    secret.mkdir()
    (dpo.parent / "link").symlink_to(secret)
    directory = {
        "outside": secret, "by a link": dpo.parent / "link", "up and out": dpo / ".." / ".." / ".." / "secret",
        "the folder itself": tmp_path / "incoming", "not there": dpo / "nothing",
    }[way]  # fmt: skip
    with pytest.raises(RoundRefused, match="is no directory" if way == "not there" else "is not below a folder"):
        register_elsewhere(project=project, directory=directory, evaluate=False)
    assert not Round.objects.exists()


def test_models_are_found_below_the_allowed_folders(dpo: Path, tmp_path: Path) -> None:
    (dpo / "checkpoint-9").mkdir()  # inside of one: its own matter
    for name in ("config.json", "model.safetensors"):
        (dpo / "checkpoint-9" / name).write_text("{}")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "config.json").write_text("{}")
    (elsewhere / "model.safetensors").write_text("")
    (dpo.parent / "linked").symlink_to(elsewhere)
    (dpo.parent / "pickled").mkdir()
    (dpo.parent / "pickled" / "config.json").write_text("{}")
    assert find_models() == [dpo]


def test_the_command_takes_any_directory_and_says_what_became_of_it(dpo: Path, settings: Settings) -> None:
    settings.MODEL_DIRS = []
    project, before = trained()
    assert before.policy is not None
    out, err = StringIO(), StringIO()
    with pytest.raises(CommandError, match=r"--parent: .* has no version 'nobody'"):
        call_command("register_policy", project.slug, str(dpo), "--parent", "nobody")
    with pytest.raises(CommandError, match="no project 'nowhere'"):
        call_command("register_policy", "nowhere", str(dpo))
    call_command(
        "register_policy", project.slug, str(dpo), "--parent", before.policy.name, "--only", stdout=out, stderr=err
    )
    held = Round.objects.get(pk=out.getvalue().strip())
    assert (held.elsewhere["parents"], steps(held)) == ([str(before.policy.pk)], ["adopt"])
    with pytest.raises(CommandError, match="a round of this project is active already"):
        call_command("register_policy", project.slug, str(dpo))


def test_a_parent_of_another_project_is_refused(dpo: Path) -> None:
    other = ensure_base_policy(project=make_project(), directory="/data/models/base")
    with pytest.raises(RoundRefused, match="another project"):
        register_elsewhere(project=make_project(), directory=dpo, parents=[other], evaluate=False)


# Pages


@pytest.fixture
def rung(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """Ring no broker; return the rounds that were rung for."""
    rung: list[object] = []
    monkeypatch.setattr("feedback_app.rounds.views.elsewhere.ring_round", rung.append)
    return rung


def test_a_manager_registers_what_was_found_and_nothing_else(dpo: Path, tmp_path: Path, rung: list[object]) -> None:
    project = make_project("loop")
    base = ensure_base_policy(project=project)
    manager = browser_of(project, Member.Role.MANAGER)
    assert f'value="{dpo}"' in page(manager, "policies/register/")
    asked = {"parent": str(base.pk), "also_from": [str(base.pk)], "note": "DPO on 900 pairs"}
    for elsewhere in (tmp_path, "/etc", f"{dpo}/../../..", ""):
        assert press(manager, "policies/register/", directory=str(elsewhere), **asked).status_code == 422
    assert not Round.objects.exists()
    # With the box left empty it is registered and no more.
    answer = press(manager, "policies/register/", directory=str(dpo), **asked)
    held = Round.objects.get(project=project)
    assert answer["location"] == f"/p/loop/rounds/{held.number}/"
    named = {"directory": str(dpo), "parents": [str(base.pk)], "note": "DPO on 900 pairs"}
    assert held.elsewhere == named | {"by_operator": False}
    assert rung == [held.pk]
    assert "taking in" in page(manager, f"rounds/{held.number}/")
    # A second one waits for the first, and says so where it was asked for.
    answer = press(manager, "policies/register/", directory=str(dpo), **asked)
    assert answer.status_code == 422
    assert "a round of this project is active already" in answer.content.decode()


def test_a_pipeline_registers_over_http(dpo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("feedback_app.rounds.elsewhere_api.ring_round", lambda pk: None)
    project, before = trained()
    assert before.policy is not None
    manager = browser_of(project, Member.Role.MANAGER)
    url = f"/api/v1/projects/{project.slug}/policies/register/"

    def send(**body: Any) -> tuple[int, dict[str, Any]]:
        answer = manager.post(url, body, content_type="application/json")
        return answer.status_code, answer.json()

    assert send() == (400, {"directory": ["This field is required."]})
    assert send(directory=str(dpo), parents=["x"]) == (400, {"parents": ["there is no version 'x'"]})
    status, refused = send(directory=str(tmp_path))
    assert (status, "is not below a folder" in refused["detail"][0]) == (409, True)
    status, made = send(directory=str(dpo), parents=[before.policy.name], evaluate=False, note="nightly")
    assert (status, [step["name"] for step in made["steps"]]) == (201, ["adopt"])
    policy = work(Round.objects.get(pk=made["id"])).policy
    assert policy is not None
    listed = manager.get(f"/api/v1/projects/{project.slug}/policies/").json()["policies"][0]
    assert (listed["name"], listed["parent"], listed["note"]) == (policy.name, before.policy.name, "nightly")
    assert "It serves nobody before" in manager.get(f"/p/{project.slug}/rounds/2/").content.decode()
    answer = manager.post(f"/api/v1/policies/{policy.pk}/evaluate/")
    assert (answer.status_code, [s["name"] for s in answer.json()["steps"]]) == (201, ["evaluate", "gate", "push"])
    answer = manager.post(f"/api/v1/policies/{before.policy.pk}/evaluate/")
    assert answer.status_code == 409


def test_where_no_model_is_found_the_page_says_where_to_put_one(settings: Settings, tmp_path: Path) -> None:
    settings.MODEL_DIRS = [tmp_path / "incoming"]
    text = page(browser_of(make_project("loop"), Member.Role.MANAGER), "policies/register/")
    assert f"<code>{(tmp_path / 'incoming').resolve()}</code>" in text
    assert "<select" not in text


def test_a_registered_versions_page_says_who_judged_it_and_puts_it_to_the_gates_again(
    dpo: Path, monkeypatch: pytest.MonkeyPatch, rung: list[object]
) -> None:
    project = judged_project(slug="loop")
    assert work(start(project)).state == "succeeded"
    monkeypatch.setenv("FAKE_METRICS", json.dumps({"evaluate": {**GOOD, "kl/parent": 99.0}}))
    one, base = (PolicyVersion.objects.get(project=project, number=number) for number in (1, 0))
    work(register_elsewhere(project=project, directory=dpo, parents=[one, base], note="merged"))
    manager = browser_of(project, Member.Role.MANAGER)
    text = page(manager, "policies/2/")
    assert "It may not go live: it was made elsewhere, and no round has let it through yet." in text
    assert "Judged by" in text
    assert "99.0 nats a response; at most 60" in text
    assert "merged" in text
    assert "Push loop-v2" not in text
    assert "loop-v2" in page(manager, "policies/0/")  # made from it, among others
    assert "made elsewhere" in page(manager, "policies/")
    card = page(manager, "policies/2/card/")
    assert "It was made elsewhere; what it learned from is not known here." in card
    assert "## Recipe" not in card
    answer = press(manager, "policies/2/evaluate/")
    assert answer["location"] == "/p/loop/rounds/3/"
    assert rung == [Round.objects.get(project=project, number=3).pk]
    answer = press(manager, "policies/1/evaluate/")
    assert answer["location"] == "/p/loop/policies/1/"
    assert "was not made elsewhere" in page(manager, "policies/1/")
