"""The recipe as a form and as text: versions, presets, what only an operator sets, and values that cannot be used."""

from typing import Any

import pytest
from django.test import Client

from feedback_app.projects.models import Member, Project
from feedback_app.rounds.models import Recipe
from feedback_app.rounds.recipe_form import SETTINGS, RecipeForm
from feedback_app.rounds.recipe_labels import LABELS
from feedback_app.rounds.recipe_text import recipe_as_toml
from feedback_app.rounds.recipes import PRESETS, parse_recipe, parse_recipe_toml, with_preset
from feedback_app.rounds.services import publish_recipe, recipe_of
from tests.factories import make_project
from tests.web.round_rows import browser_of, page, press

pytestmark = pytest.mark.django_db


@pytest.fixture
def project() -> Project:
    return make_project("loop")


@pytest.fixture
def manager(project: Project) -> Client:
    return browser_of(project, Member.Role.MANAGER)


def recipe_fields(client: Client) -> dict[str, Any]:
    """Return what the recipe's form would send as it stands."""
    form: RecipeForm = client.get("/p/loop/rounds/recipe/").context["form"]
    values = {name: form[name].value() for name in form.fields}
    return {name: "" if value is None else value for name, value in values.items()}


def test_saving_the_form_as_it_is_changes_nothing(manager: Client, project: Project) -> None:
    before = recipe_of(project=project)
    answer = press(manager, "rounds/recipe/save/", **recipe_fields(manager))
    assert answer.status_code == 302, answer.context["form"].errors
    assert list(Recipe.objects.filter(project=project)) == [before]


def test_a_changed_field_makes_the_next_version_and_the_page_says_what_changed(
    manager: Client, project: Project
) -> None:
    before = recipe_of(project=project).config["ppo"]["updates"]
    given = recipe_fields(manager) | {"ppo.updates": 33, "ppo.kl_coef": "0.1", "gate.approval": "true"}
    press(manager, "rounds/recipe/save/", **given)
    made = Recipe.objects.get(project=project, number=2)
    assert (made.config["ppo"]["updates"], made.config["ppo"]["kl_coef"]) == (33, 0.1)
    assert made.config["gate"]["approval"] is True
    text = page(manager, "rounds/recipe/")
    assert "ppo.updates" in text
    assert f"{before} →" in text


def test_an_emptied_field_goes_back_to_the_usual_value(manager: Client, project: Project) -> None:
    press(manager, "rounds/recipe/save/", **recipe_fields(manager) | {"ppo.updates": ""})
    assert "updates" not in Recipe.objects.get(project=project, number=2).config["ppo"]


@pytest.mark.parametrize(
    ("name", "value"), [("ppo.updates", "0"), ("ppo.lr", "fast"), ("judge_share", "1"), ("reward.epochs", "-1")]
)
def test_a_value_that_cannot_be_used_is_named_and_kept(
    manager: Client, project: Project, name: str, value: str
) -> None:
    answer = press(manager, "rounds/recipe/save/", **recipe_fields(manager) | {name: value})
    assert answer.status_code == 422
    assert list(answer.context["form"].errors) == [name]
    assert f'value="{value}"' in answer.content.decode()
    assert Recipe.objects.filter(project=project).count() == 1


@pytest.mark.parametrize("preset", PRESETS)
def test_a_preset_fills_the_form_and_is_kept_only_when_saved(manager: Client, project: Project, preset: str) -> None:
    page(manager, f"rounds/recipe/?preset={preset}")
    assert Recipe.objects.filter(project=project).count() == 1
    form = manager.get(f"/p/loop/rounds/recipe/?preset={preset}").context["form"]
    values = {name: "" if (v := form[name].value()) is None else v for name in form.fields}
    press(manager, "rounds/recipe/save/", **values)
    wanted = parse_recipe(with_preset({"preset": preset})).as_json()
    assert recipe_of(project=project).config == wanted


def test_what_an_operator_set_is_kept_by_form_and_text_and_changed_by_neither(
    manager: Client, project: Project
) -> None:
    operators = {"preset": "quick", "launcher": ["accelerate", "launch"], "ppo": {"reward": "http://scorer/"}}
    publish_recipe(project=project, recipe=parse_recipe(with_preset(operators), by_operator=True))
    press(manager, "rounds/recipe/save/", **recipe_fields(manager) | {"ppo.updates": 12, "ppo.reward": "os:getcwd"})
    by_form = recipe_of(project=project).config
    assert (by_form["ppo"]["reward"], by_form["launcher"]) == ("http://scorer/", ["accelerate", "launch"])
    assert by_form["ppo"]["updates"] == 12
    text = manager.get("/p/loop/rounds/recipe/text/").context["form"]["text"].value()
    assert "scorer" not in text
    press(manager, "rounds/recipe/text/save/", text=text.replace("updates = 12", "updates = 14"))
    by_text = recipe_of(project=project).config
    assert (by_text["ppo"]["reward"], by_text["ppo"]["updates"]) == ("http://scorer/", 14)
    refused = press(manager, "rounds/recipe/text/save/", text=text.replace("[ppo]", '[ppo]\nreward = "os:getcwd"'))
    assert refused.status_code == 422
    assert "ppo.reward" in refused.content.decode()


@pytest.mark.parametrize("preset", PRESETS)
def test_a_recipe_as_text_reads_back_equal(preset: str) -> None:
    values = with_preset({"preset": preset, "judgments": {"rating_weights": {"help": 1.5, 'a "b"': -1.0}}})
    recipe = parse_recipe(values)
    assert parse_recipe_toml(recipe_as_toml(recipe.as_json()), by_operator=False) == recipe


def test_text_that_is_no_recipe_is_refused_with_its_key(manager: Client) -> None:
    for text, said in (("updates =", "not TOML"), ("[ppo]\nupdates = 0", "ppo.updates"), ("colour = 1", "colour")):
        answer = press(manager, "rounds/recipe/text/save/", text=text)
        assert answer.status_code == 422
        assert said in answer.content.decode()


def test_an_older_version_is_used_again_under_a_new_number(manager: Client, project: Project) -> None:
    first = recipe_of(project=project)
    press(manager, "rounds/recipe/save/", **recipe_fields(manager) | {"ppo.updates": 33})
    press(manager, "rounds/recipe/1/use/")
    newest = recipe_of(project=project)
    assert (newest.number, newest.config) == (3, first.config)
    assert "in use" in page(manager, "rounds/recipe/3/")


def test_reviewers_read_the_recipe_and_cannot_save_it(project: Project) -> None:
    reviewer = browser_of(project, Member.Role.REVIEWER)
    assert "Save as a new version" not in page(reviewer, "rounds/recipe/")
    assert press(reviewer, "rounds/recipe/save/").status_code == 403


def test_every_setting_has_words_that_can_be_translated() -> None:
    unnamed = [setting.key for setting in SETTINGS if not {setting.key, setting.name} & LABELS.keys()]
    assert not unnamed, f"name them in rounds/recipe_labels.py, or leave them out by NOT_HERE: {unnamed}"
    assert len({setting.key for setting in SETTINGS}) == len(SETTINGS)
