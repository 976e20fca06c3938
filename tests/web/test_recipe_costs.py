"""What a recipe would take: counted from a model's own files, tried by two steps of real trainers, timed by both."""

import json
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from django.test import Client
from django.utils import timezone
from pytest_django import Settings

from feedback_app.datasets.models import DatasetVersion
from feedback_app.projects.models import Member
from feedback_app.rounds.estimates import estimate_round
from feedback_app.rounds.footprint import Data, costs_of, read_shape
from feedback_app.rounds.models import Recipe, Round, Trial
from feedback_app.rounds.recipes import parse_recipe
from feedback_app.rounds.services import recipe_of
from feedback_app.rounds.trial import jobs
from feedback_app.rounds.trial.jobs import TrialRefused, cancel_trial, request_trial, run_trial, waiting_trials
from feedback_app.serving.models import PolicyVersion
from tests.training.tiny import make_tiny_model
from tests.web.round_rows import browser_of, page, press
from tests.web.rounds import LAUNCHER, judged_project

pytestmark = pytest.mark.django_db
TINY = {
    "reward": {"batch": 4, "max_length": 64, "dtype": "float32"},
    "ppo": {
        "updates": 50, "rollout_batch": 4, "minibatch": 4, "response_length": 4, "max_prompt_length": 32,
        "critic": "head", "dtype": "float32",
    },
    "evaluate": {"max_prompts": 8, "batch": 4, "response_length": 4, "max_prompt_length": 32},
}  # fmt: skip
DATA = Data(prompts=100, prompt_tokens=20, pairs=80, answer_tokens=30)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_model(tmp_path_factory.mktemp("tiny"))


def costs(tiny: Path, **recipe: Any) -> dict[str, Any]:
    shape = read_shape(str(tiny))
    assert shape is not None
    return {cost.key: cost for cost in costs_of(parse_recipe(recipe), shape, DATA, on_gpu=False)}


def test_a_models_size_is_read_from_its_files(tiny: Path) -> None:
    shape = read_shape(str(tiny))
    assert shape is not None
    # 258 embeddings of 32, tied to the head; each of two layers: q and o 32x32, k and v 16x32, three 32x64, two norms
    # of 32; a norm at the end.
    layer = 2 * 32 * 32 + 2 * 16 * 32 + 3 * 32 * 64 + 2 * 32
    assert shape.parameters == 258 * 32 + 2 * layer + 32
    # Inputs and outputs of the linear layers, twice: 64 + 64 + 48 + 48 + 96 + 96 + 96.
    assert shape.adapted == 2 * 512
    assert (shape.layers, shape.hidden, shape.key_value_heads, shape.head_size) == (2, 32, 2, 8)
    assert read_shape("a/hub-name") is None


def test_steps_are_those_that_the_trainers_would_take(tiny: Path) -> None:
    found = costs(tiny, judge_share=0.25, reward={"batch": 8, "epochs": 2}, ppo={"updates": 7, "checkpoint_every": 3})
    # 60 of the 80 pairs are the reward model's, 54 of them to learn from: 7 batches, twice; of the judge's 20, 18: 3.
    assert (found["reward"].steps, found["judge"].steps, found["ppo"].steps) == (14, 6, 7)
    # 64 prompts in batches of 16, answered by the policy, its parent and the base.
    assert found["evaluate"].steps == 3 * 4


def test_adapters_and_narrow_weights_need_less_memory_than_everything_wide(tiny: Path) -> None:
    shape = read_shape(str(tiny))
    assert shape is not None
    parameters, adapted = shape.parameters, shape.adapted
    wide = costs(tiny, reward={"dtype": "float32", "checkpoint_every": 5})["reward"]
    narrow = costs(tiny, reward={"dtype": "bfloat16", "checkpoint_every": 5})["reward"]
    few = costs(tiny, reward={"dtype": "float32", "lora_rank": 2})["reward"]
    # Weights, gradient, two moments and the best weights in float32: 20 bytes each, where all are moved. With adapters
    # the model itself is 4 bytes a weight, and the adapters 20.
    assert wide.memory - few.memory == 16 * parameters - 20 * 2 * adapted
    # In bfloat16 the moments and the gradient take half as much: two less each.
    assert wide.least - narrow.least == 6 * parameters
    # Two checkpoints in 14 steps, each of weights, best weights and moments, 4 + 4 + 8 bytes or 4 + 4 + 4; the model is
    # saved at 4 or 2.
    assert (wide.disk, narrow.disk) == ((2 * 16 + 4) * parameters, (2 * 12 + 2) * parameters)


def test_a_try_takes_two_steps_of_each_trainer_and_touches_nothing_else(settings: Settings, tiny: Path) -> None:
    settings.BASE_MODEL = str(tiny)
    project = judged_project()
    recipe = parse_recipe(TINY)
    before = estimate_round(project=project, recipe=recipe)
    assert before.total_s is None
    job = request_trial(project=project, recipe=recipe, requested_by=None)
    assert waiting_trials() == [job.pk]
    with pytest.raises(TrialRefused, match="already"):
        request_trial(project=project, recipe=recipe, requested_by=None)
    done = run_trial(trial_id=job.pk)
    assert done is not None
    assert (done.state, done.error) == ("done", "")
    assert [row["stage"] for row in done.results] == ["reward", "ppo", "evaluate"]
    # Python with torch in it is more than 100 MiB, and a step of so small a model less than a minute.
    assert all(row["memory"] > 100 * 2**20 and 0 < row["seconds"] < 60 for row in done.results)
    assert not list((settings.DATA_DIR / "trials" / str(job.pk)).rglob("*.safetensors"))
    assert not Round.objects.exists()
    assert not DatasetVersion.objects.exists()
    assert [policy.number for policy in PolicyVersion.objects.all()] == [0]
    assert run_trial(trial_id=job.pk) is None  # a bell rung twice does nothing
    after = estimate_round(project=project, recipe=recipe)
    ppo = next(row for row in done.results if row["stage"] == "ppo")
    # The same recipe again: its 50 updates at the measured pace, and the measured rest once.
    assert after.seconds["ppo"] == pytest.approx(50 * ppo["seconds"] + ppo["overhead"])
    assert after.total_s is not None


def test_a_trainer_that_fails_is_told_in_its_own_words(
    settings: Settings, tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings.BASE_MODEL = str(tiny)
    monkeypatch.setenv("FAKE_EXIT", json.dumps({"reward": 2}))
    recipe = parse_recipe({**TINY, "launcher": LAUNCHER}, by_operator=True)
    job = request_trial(project=judged_project(), recipe=recipe, requested_by=None)
    done = run_trial(trial_id=job.pk)
    assert done is not None
    assert (done.state, done.error) == ("failed", "reward ended with exit code 2: reward: told to fail")
    assert not (settings.DATA_DIR / "trials" / str(job.pk) / "f1").exists()


def test_a_try_past_its_time_a_cancelled_one_and_one_that_kills_its_workers_end(
    settings: Settings, tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings.BASE_MODEL = str(tiny)
    recipe = parse_recipe({**TINY, "launcher": LAUNCHER}, by_operator=True)
    project = judged_project()

    def tried() -> Trial:
        job = request_trial(project=project, recipe=recipe, requested_by=None)
        Trial.objects.filter(pk=job.pk).update(**changed)
        ended = run_trial(trial_id=job.pk)
        assert ended is not None
        return ended

    changed: dict[str, Any] = {"cancel_requested": True}
    with monkeypatch.context() as patch:
        patch.setattr(jobs, "RENEW_EVERY_S", 0.0)
        assert tried().state == "cancelled"
        changed = {}
        patch.setattr(jobs, "LIMIT", timedelta(seconds=-1))
        assert "longer than" in tried().error
    changed = {"fence": 3, "state": "running", "lease_until": timezone.now() - timedelta(seconds=1)}
    assert "died under it" in tried().error
    job = request_trial(project=project, recipe=recipe, requested_by=None)
    cancel_trial(trial=job)
    assert run_trial(trial_id=job.pk) is None


def test_the_page_estimates_and_tries_what_is_in_the_form_and_keeps_none_of_it(settings: Settings, tiny: Path) -> None:
    settings.BASE_MODEL = str(tiny)
    project = judged_project(slug="loop")
    manager = browser_of(project, Member.Role.MANAGER)
    assert "not measured yet" in page(manager, "rounds/recipe/")
    form = manager.get("/p/loop/rounds/recipe/").context["form"]
    given = {name: "" if form[name].value() is None else form[name].value() for name in form.fields}
    changed = {**given, "ppo.updates": 321}
    part = press_htmx(manager, "rounds/recipe/estimate/", changed)
    assert "321" in part.content.decode()
    assert press_htmx(manager, "rounds/recipe/estimate/", {**given, "ppo.lr": "-1"}).status_code == 422
    answer = press(manager, "rounds/recipe/try/", **changed)  # without scripts: the page again, the form as it was
    assert answer.status_code == 200
    assert answer.context["form"]["ppo.updates"].value() == "321"
    job = Trial.objects.get()
    assert (job.state, job.config["ppo"]["updates"]) == ("queued", 321)
    assert "waits for a training worker" in page(manager, f"rounds/recipe/tries/{job.pk}/")
    assert list(Recipe.objects.filter(project=project)) == [recipe_of(project=project)]
    assert press_htmx(manager, f"rounds/recipe/tries/{job.pk}/cancel/", {}).status_code == 200
    job.refresh_from_db()
    assert job.state == "cancelled"
    assert browser_of(project, Member.Role.REVIEWER).post("/p/loop/rounds/recipe/try/", given).status_code == 403


def press_htmx(client: Client, path: str, given: dict[str, Any]) -> Any:
    return client.post(f"/p/loop/{path}", given, headers={"HX-Request": "true"})
