"""Disk of a round: refused before it starts where it would not fit, ended while it runs where it takes too much."""

import os
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
from pytest_django import Settings

from feedback_app.rounds.estimates import estimate_round
from feedback_app.rounds.leases import claim_round
from feedback_app.rounds.models import Round, RoundStep
from feedback_app.rounds.recipes import parse_recipe
from feedback_app.rounds.room import GIB, bytes_below, bytes_needed
from feedback_app.rounds.services import RoundRefused
from feedback_app.rounds.supervisor import StepFailed, StepRun
from feedback_app.rounds.workspace import step_dir
from tests.training.tiny import make_tiny_model
from tests.web.rounds import judged_project, start

pytestmark = pytest.mark.django_db


def test_the_room_asked_for_follows_from_the_model_and_the_recipe(settings: Settings, tmp_path: Path) -> None:
    settings.BASE_MODEL = str(make_tiny_model(tmp_path / "tiny"))
    project = judged_project(30)
    small = bytes_needed(project=project, recipe=parse_recipe({"ppo": {"updates": 5}}))
    # Three checkpoints of PPO, a separate critic's too: each of 8 bytes a weight and learner, 4 of them moments.
    large = bytes_needed(project=project, recipe=parse_recipe({"ppo": {"updates": 100, "critic": "separate"}}))
    shape = estimate_round(project=project, recipe=parse_recipe({})).shape
    assert shape is not None
    assert large - small == 3 * 2 * 8 * shape.parameters
    settings.BASE_MODEL = str(tmp_path)
    assert bytes_needed(project=judged_project(30), recipe=parse_recipe({})) == 6 * GIB  # no weights there to count


def test_a_round_that_would_not_fit_is_refused_with_the_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    project = judged_project(30)
    with pytest.raises(RoundRefused, match=r"allows 2 GiB of disk, and a round by it takes about 6.0"):
        start(project, max_disk_gb=2)
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: SimpleNamespace(free=3 * GIB))
    with pytest.raises(RoundRefused, match=r"3.0 GiB are free in .* and 6.5 are needed"):
        start(project)
    assert not Round.objects.exists()


def test_a_round_that_takes_more_than_its_recipe_allows_is_ended(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = start(judged_project(30), max_disk_gb=7)
    held = claim_round(round_id=made.pk)
    assert held is not None
    held.config["max_disk_gb"] = 3000 / GIB
    folder = step_dir(held, "ppo")
    folder.mkdir(parents=True)
    (folder / "one").write_bytes(b"x" * 2000)
    os.link(folder / "one", folder / "again")  # as a checkpoint that an older fence left: the same bytes
    assert bytes_below(folder) == 2000
    run = StepRun(held, RoundStep.objects.get(round=held, name="ppo"), float("inf"), renewed_at=0.0)
    run.heartbeat()
    (folder / "more").write_bytes(b"x" * 1001)
    run.renewed_at = run.disk_looked_at = 0.0
    with pytest.raises(StepFailed, match="max_disk_gb"):
        run.heartbeat()
    held.config["max_disk_gb"] = 0
    run.renewed_at = run.disk_looked_at = 0.0
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: SimpleNamespace(free=100 * 2**20))
    with pytest.raises(StepFailed, match="only 100 MiB are free"):
        run.heartbeat()
