"""Recipes: every error names its key, pages cannot name code, presets are laid under, and a round freezes its own."""

import json
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from django.core.management import CommandError, call_command

from feedback_app.rounds.models import Recipe as StoredRecipe
from feedback_app.rounds.recipes import PRESETS, Recipe, RecipeError, parse_recipe, parse_recipe_toml, with_preset
from feedback_app.rounds.services import publish_recipe, recipe_of, start_round
from tests.factories import make_judgment, make_project, make_task, make_user


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"speed": 1}, "speed: unknown key; there are start_from, "),
        ({"start_from": "child"}, "start_from: parent or base, not 'child'"),
        ({"reference": 3}, "reference: str is needed, not 3"),
        ({"max_pairs": -1}, "max_pairs: 0 or more"),
        ({"max_pairs": 1.5}, "max_pairs: int is needed, not 1.5"),
        ({"max_pairs": True}, "max_pairs: int is needed, not True"),
        ({"minimum_judgments": -1}, "minimum_judgments: 0 or more"),
        ({"max_hours": 0}, "max_hours: above 0"),
        ({"max_hours": float("nan")}, "max_hours: a finite number is needed, not nan"),
        ({"max_disk_gb": float("inf")}, "max_disk_gb: a finite number is needed, not inf"),
        ({"gate": {"max_kl": float("inf")}}, "gate.max_kl: a finite number is needed, not inf"),
        ({"soak": {"minutes": 1e300}}, "soak.minutes: 525600 at most"),
        ({"soak": {"minutes": float("nan")}}, "soak.minutes: a finite number is needed, not nan"),
        ({"judge_share": 1.0}, "judge_share: between 0 and 1"),
        ({"use_sft": "yes"}, "use_sft: bool is needed, not 'yes'"),
        ({"ppo": 3}, "ppo: a table is needed"),
        ({"ppo": {"updates": 0}}, "ppo.updates: 1 or more, not 0"),
        ({"ppo": {"update": 3}}, "ppo.update: unknown key"),
        ({"ppo": {"lr": "fast"}}, "ppo.lr: float is needed, not 'fast'"),
        ({"ppo": {"critic": "two"}}, "ppo.critic: one of auto, separate, head, not 'two'"),
        ({"ppo": {"prompts": "mine.jsonl"}}, "ppo.prompts: is filled in by the round"),
        ({"ppo": {"reference": "/etc"}}, "ppo.reference: is filled in by the round"),
        ({"reward": {"model": "other"}}, "reward.model: is filled in by the round"),
        ({"evaluate": {"parent": "other"}}, "evaluate.parent: is filled in by the round"),
        ({"sft": {"epochs": 0}}, "sft.epochs: 1 or more, not 0"),
        ({"gate": {"max_kl": -1}}, "gate.max_kl: 0 or more"),
        ({"gate": {"max_kl": "low"}}, "gate.max_kl: float is needed, not 'low'"),
        ({"gate": {"kl": 1}}, "gate.kl: unknown key; there are approval, "),
        ({"judgments": {"ties": "keep"}}, "judgments.ties: one of drop, both"),
        ({"judgments": {"sorted": True}}, "judgments.sorted: "),
        ({"judgments": {"split": "test"}}, "judgments.split: is the round's to choose"),
        ({"launcher": "accelerate launch"}, "launcher: a list of texts is needed"),
    ],
)
def test_an_error_names_its_key(values: dict[str, Any], said: str) -> None:
    for by_operator in (False, True):
        with pytest.raises(RecipeError) as refused:
            parse_recipe(values, by_operator=by_operator)
        assert str(refused.value).startswith(said)


@pytest.mark.parametrize(
    "values",
    [
        {"ppo": {"reward": "os:system"}},
        {"ppo": {"reward": "http://10.0.0.1/score"}},
        {"ppo": {"ptx": "/etc/passwd", "ptx_coef": 0.1}},
        {"evaluate": {"reward": "os:system"}},
        {"evaluate": {"perplexity_text": "/etc/passwd"}},
        {"launcher": ["accelerate", "launch"]},
    ],
)
def test_code_addresses_and_paths_come_from_an_operator_alone(values: dict[str, Any]) -> None:
    [key] = values
    with pytest.raises(RecipeError, match=f"^{key}.*only set_recipe may set it"):
        parse_recipe(values)
    parse_recipe(values, by_operator=True)


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_every_preset_is_a_recipe_that_a_page_may_use(name: str) -> None:
    recipe = parse_recipe(with_preset({"preset": name}))
    assert parse_recipe(json.loads(json.dumps(recipe.as_json()))) == recipe


def test_values_are_laid_over_the_preset_table_by_table() -> None:
    recipe = parse_recipe_toml('preset = "quick"\nmax_pairs = 9\n[ppo]\nupdates = 3\n', by_operator=False)
    assert recipe.max_pairs == 9
    assert recipe.ppo == {**PRESETS["quick"]["ppo"], "updates": 3}
    assert recipe.reward == PRESETS["quick"]["reward"]
    with pytest.raises(RecipeError, match=r"^preset: one of quick, .* not 'slow'"):
        with_preset({"preset": "slow"})
    with pytest.raises(RecipeError, match=r"^not TOML"):
        parse_recipe_toml("updates = ", by_operator=True)


@pytest.mark.django_db
def test_a_recipe_is_followed_by_the_next_number_and_a_round_keeps_its_own() -> None:
    project = make_project()
    assert recipe_of(project=project).number == 1  # the quick preset, where none was set
    make_judgment(make_task(project), make_user(project))
    held = start_round(project=project)
    publish_recipe(project=project, recipe=Recipe(max_pairs=7))
    held.refresh_from_db()
    assert held.recipe is not None
    assert (held.recipe.number, held.config["max_pairs"]) == (1, PRESETS["quick"]["max_pairs"])
    assert recipe_of(project=project).number == 2
    assert recipe_of(project=project).config["max_pairs"] == 7


@pytest.mark.django_db
def test_set_recipe_takes_a_file_and_prints_the_number(tmp_path: Path) -> None:
    project, file, out = make_project(), tmp_path / "recipe.toml", StringIO()
    file.write_text('preset = "quick"\nlauncher = ["accelerate", "launch"]\n')
    call_command("set_recipe", project.slug, str(file), stdout=out)
    assert out.getvalue().strip() == "1"
    assert recipe_of(project=project).config["launcher"] == ["accelerate", "launch"]
    file.write_text("[ppo]\nupdates = 0\n")
    with pytest.raises(CommandError, match=r"recipe.toml: ppo.updates: 1 or more"):
        call_command("set_recipe", project.slug, str(file))
    with pytest.raises(CommandError, match="No such file"):
        call_command("set_recipe", project.slug, str(tmp_path / "other.toml"))
    (tmp_path / "latin.toml").write_bytes("# für".encode("latin-1"))
    with pytest.raises(CommandError, match=r"latin\.toml: is no UTF-8 text"):
        call_command("set_recipe", project.slug, str(tmp_path / "latin.toml"))
    with pytest.raises(CommandError, match="no project 'nowhere'"):
        call_command("set_recipe", "nowhere", str(file))
    assert StoredRecipe.objects.filter(project=project).count() == 1
