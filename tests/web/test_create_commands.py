"""create_project and create_user print one thing on standard output and name what is wrong."""

import json
from io import StringIO
from pathlib import Path

import pytest
from django.core.management import CommandError, call_command

from feedback_app.accounts.models import ApiToken, User
from feedback_app.accounts.services import token_digest
from feedback_app.projects.models import Member, Project
from feedback_app.projects.presets import PRESETS

pytestmark = pytest.mark.django_db


def run(*arguments: str) -> str:
    out = StringIO()
    call_command(*arguments, stdout=out)
    return out.getvalue().strip()


def test_create_project_takes_a_preset_or_a_file(tmp_path: Path) -> None:
    assert run("create_project", "tea", "--protocol", "ranking", "--overlap", "3") == "tea"
    project = Project.objects.get(slug="tea")
    assert project.protocol is not None
    assert (project.overlap, project.protocol.spec["name"], project.refill_per_annotator) == (3, "ranking", 0)

    own = tmp_path / "own.json"
    own.write_text(json.dumps({**PRESETS["pairwise"].as_json(), "name": "own", "ties": False}))
    run("create_project", "milk", "--protocol", str(own))
    assert Project.objects.get(slug="milk").protocol.spec["ties"] is False  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (("tea", "--protocol", "nonsense"), "protocol"),
        (("tea", "--overlap", "0"), "overlap"),
        (("Tea Party",), "slug"),
        (("tea", "--protocol", "missing.json"), "missing.json"),
    ],
)
def test_create_project_names_what_is_wrong(arguments: tuple[str, ...], named: str) -> None:
    with pytest.raises(CommandError, match=named):
        run("create_project", *arguments)
    assert not Project.objects.exists()


def test_create_user_prints_a_token_that_belongs_to_the_user() -> None:
    run("create_project", "tea")
    key = run("create_user", "ann", "--project", "tea", "--role", "reviewer")
    assert ApiToken.objects.get(key_sha256=token_digest(key)).user.username == "ann"
    assert Member.objects.get(user__username="ann").role == "reviewer"
    # A second call keeps the person, changes the role and gives a further token.
    assert run("create_user", "ann", "--project", "tea", "--role", "manager") != key
    assert Member.objects.get(user__username="ann").role == "manager"


@pytest.mark.parametrize(
    "arguments",
    [("ann",), ("ann", "--project", "none"), ("bad name!", "--project", "tea"), ("ann", "--role", "administrator")],
)
def test_create_user_leaves_nothing_behind_when_it_fails(arguments: tuple[str, ...]) -> None:
    run("create_project", "tea")
    if arguments[-1] == "administrator":
        run("create_user", "ann", "--project", "tea")  # an account that exists is never made an administrator
    before = User.objects.count()
    with pytest.raises(CommandError):
        run("create_user", *arguments)
    assert User.objects.count() == before
    assert not User.objects.filter(is_superuser=True).exists()
