"""What rounds leave on disk: checkpoints go first, weights when nothing may ask for them, manifests never."""

import io
import os
from datetime import timedelta
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import pytest
from django.core.management import call_command
from django.utils import timezone
from pytest_django import Settings

from feedback_app.accounts.models import AuditEntry
from feedback_app.projects.models import Member, Project
from feedback_app.rounds import retention
from feedback_app.rounds.models import Round, RoundStep
from feedback_app.rounds.retention import CLEARED, CLEARING, clear_away, needed_versions, pin_policy, plan_removals
from feedback_app.rounds.workspace import is_complete, round_dir, seal
from feedback_app.serving.artifacts import ArtifactError, bring_here, mirror
from feedback_app.serving.models import PolicyVersion
from feedback_app.serving.selectors import deployment_of
from feedback_app.serving.services import PushRefused, push_policy
from tests.factories import make_project
from tests.web.round_rows import browser_of, page, press, round_at

pytestmark = pytest.mark.django_db
WEIGHTS = "ppo/model/model.safetensors"


@pytest.fixture
def project() -> Project:
    return make_project("loop")


def made(project: Project, state: str = "succeeded", *, fence: int = 1) -> Round:
    """Return a round as its trainers leave it: a sealed model of 1,000 bytes, a checkpoint of 3,000 beside it."""
    held = round_at(project, state)
    folder = round_dir(held) / f"f{fence}" / "ppo"
    (folder / "model").mkdir(parents=True)
    (folder / "model" / "model.safetensors").write_bytes(b"w" * 1000)
    (folder / "metrics.json").write_text("{}")
    seal(folder, "ppo")
    (folder / "checkpoints").mkdir()
    (folder / "checkpoints" / "000010.pt").write_bytes(b"c" * 3000)
    step = RoundStep.objects.get(round=held, name="ppo")
    step.directory = f"rounds/{held.pk}/f{fence}/ppo"
    step.save(update_fields=["directory"])
    return held


def version_of(held: Round, number: int, parent: PolicyVersion | None = None) -> PolicyVersion:
    return PolicyVersion.objects.create(
        project=held.project, number=number, name=f"loop-v{number}", source="round", parent=parent, round_id=held.pk,
        directory=str(round_dir(held) / "f1" / "ppo"), manifest_sha256="ab" * 32,
    )  # fmt: skip


def weights(held: Round) -> bool:
    return (round_dir(held) / "f1" / WEIGHTS).exists()


def test_checkpoints_of_rounds_that_went_through_go_and_what_was_promised_stays_whole(project: Project) -> None:
    done, running = made(project), made(project, "running")
    assert [(removal.held, removal.bytes) for removal in plan_removals()] == [(done, 3000)]
    assert (round_dir(done) / "f1" / "ppo" / "checkpoints").exists()  # a plan takes nothing
    clear_away()
    assert not (round_dir(done) / "f1" / "ppo" / "checkpoints").exists()
    assert is_complete(round_dir(done) / "f1" / "ppo")
    assert (round_dir(running) / "f1" / "ppo" / "checkpoints" / "000010.pt").exists()
    entry = AuditEntry.objects.get(action="retention.clear")
    assert (entry.project_slug, entry.detail["bytes"]) == ("loop", 3000)
    assert list(plan_removals()) == []


def test_a_round_that_failed_keeps_its_checkpoint_for_a_week(project: Project) -> None:
    held = made(project, "failed")
    assert list(plan_removals()) == []
    assert [r.held for r in plan_removals(now=timezone.now() + timedelta(days=8))] == [held]


def test_what_a_worker_left_that_another_took_over_from_goes_and_a_shared_file_counts_nothing(
    project: Project,
) -> None:
    held = made(project, fence=2)
    old = round_dir(held) / "f1" / "ppo"
    (old / "model").mkdir(parents=True)
    (old / "model" / "model.safetensors").write_bytes(b"x" * 500)
    (old / "checkpoints").mkdir()
    (old / "checkpoints" / "000010.pt").hardlink_to(round_dir(held) / "f2" / "ppo" / "checkpoints" / "000010.pt")
    left = [removal for removal in plan_removals() if removal.why.startswith("left by a worker")]
    assert [(removal.bytes, len(removal.paths)) for removal in left] == [(500, 1)]
    clear_away()
    assert not (old / "model" / "model.safetensors").exists()
    assert is_complete(round_dir(held) / "f2" / "ppo")


def test_the_newest_the_pinned_and_whatever_serving_may_ask_for_keep_their_weights(
    project: Project, settings: Settings
) -> None:
    settings.KEEP_VERSIONS = 1
    rounds = [made(project) for _ in range(7)]
    versions: list[PolicyVersion] = []
    for number, held in enumerate(rounds, start=1):
        versions.append(version_of(held, number, versions[-1] if versions else None))
    deployment = deployment_of(project=project)
    assert deployment is not None
    # Live is the fifth, whose parent is the fourth; the third was live before; the first is pinned; the newest is 7.
    deployment.live, deployment.previous = versions[4], versions[2]
    deployment.save()
    pin_policy(policy=versions[0], pinned=True, actor=None)
    base = PolicyVersion.objects.get(project=project, number=0)
    kept = {base.pk, *(versions[place].pk for place in (0, 2, 3, 4, 6))}
    # Each round here starts from the base, and the ended ones hold nothing.
    assert needed_versions(project=project) == kept
    clear_away()
    assert [weights(held) for held in rounds] == [True, False, True, True, True, False, True]
    gone = PolicyVersion.objects.get(pk=versions[1].pk)
    assert gone.withheld == CLEARED
    assert (round_dir(rounds[1]) / "f1" / "ppo" / "manifest.json").exists()
    assert (round_dir(rounds[1]) / "f1" / "ppo" / "metrics.json").exists()
    with pytest.raises(PushRefused, match="cleared away"):
        push_policy(policy=gone, requested_by=None)


def test_a_version_that_is_pinned_or_goes_live_between_the_plan_and_its_turn_is_left(
    project: Project, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings.KEEP_VERSIONS = 1
    old, new = made(project), made(project)
    version, _newest = version_of(old, 1), version_of(new, 2)
    planned = list(plan_removals())
    pin_policy(policy=version, pinned=True, actor=None)
    Round.objects.filter(pk=new.pk).update(state="queued")
    monkeypatch.setattr("feedback_app.rounds.retention.plan_removals", lambda: iter(planned))
    taken = clear_away().taken
    assert [removal.held for removal in taken] == [old]  # its checkpoints; nothing of the round begun again
    assert weights(old)
    assert (round_dir(new) / "f1" / "ppo" / "checkpoints").exists()


def test_what_cannot_be_removed_keeps_nothing_else_and_is_tried_again(
    project: Project, settings: Settings, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    settings.KEEP_VERSIONS = 1
    stuck, other, newest = made(project), made(project), made(project)
    version, _live = version_of(stuck, 1), version_of(newest, 2)
    guarded = round_dir(stuck) / "f1" / WEIGHTS
    unlink, rmtree_unlink = Path.unlink, os.unlink

    def refuse(path: Path, *args: Any, **options: Any) -> None:
        if path == guarded:
            raise PermissionError(1, "Operation not permitted", str(path))
        unlink(path, *args, **options)

    monkeypatch.setattr(Path, "unlink", refuse)
    # Of the checkpoints' folder a file cannot be removed either; the one beside it can.
    (round_dir(stuck) / "f1" / "ppo" / "checkpoints" / "000020.pt").write_bytes(b"d" * 2000)

    def refuse_entry(name: Any, *args: Any, **options: Any) -> None:
        if str(name).endswith("000010.pt") and not is_mended:
            raise PermissionError(1, "Operation not permitted", "000010.pt")
        rmtree_unlink(name, *args, **options)

    is_mended = False
    monkeypatch.setattr(os, "unlink", refuse_entry)
    with pytest.raises(SystemExit) as ended:
        call_command("clear_checkpoints")
    assert ended.value.code == 1
    assert "not cleared" in capsys.readouterr().err
    assert (weights(stuck), weights(other)) == (True, False)
    assert [path.name for path in (round_dir(stuck) / "f1" / "ppo" / "checkpoints").iterdir()] == ["000010.pt"]
    # What went is told, and what stands is not: a file of the checkpoints went, and none of the weights.
    told = AuditEntry.objects.filter(subject=str(stuck)).order_by("id").values_list("detail__bytes", "detail__files")
    assert list(told) == [(2000, 0)]
    assert not AuditEntry.objects.filter(subject=version.name).exists()
    version.refresh_from_db()
    assert version.withheld == CLEARING  # it cannot go live, and is not said to be gone
    is_mended = True
    monkeypatch.setattr(Path, "unlink", unlink)
    call_command("clear_checkpoints")
    version.refresh_from_db()
    assert (weights(stuck), version.withheld) == (False, CLEARED)
    assert list(plan_removals()) == []


def test_a_round_that_is_retried_as_its_turn_comes_has_its_version_as_it_was(
    project: Project, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings.KEEP_VERSIONS = 1
    old, new = made(project, "failed"), made(project)
    version = version_of(old, 1)
    version_of(new, 2)
    PolicyVersion.objects.filter(pk=version.pk).update(withheld="its gate is shut")
    withhold = retention._withhold

    def retried_meanwhile(policy: PolicyVersion) -> str | None:
        before = withhold(policy)
        assert PolicyVersion.objects.get(pk=policy.pk).withheld == CLEARING
        Round.objects.filter(pk=old.pk).update(state="queued")
        return before

    monkeypatch.setattr(retention, "_withhold", retried_meanwhile)
    assert [removal.held for removal in clear_away().taken] == [new]
    version.refresh_from_db()
    assert (weights(old), version.withheld) == (True, "its gate is shut")


def test_a_sweep_that_was_killed_behind_its_last_file_is_ended_by_the_next(
    project: Project, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings.KEEP_VERSIONS = 1
    old, new = made(project), made(project)
    version = version_of(old, 1)
    version_of(new, 2)
    with monkeypatch.context() as killed:
        killed.setattr(retention, "_tell_cleared", lambda: None)
        clear_away()
    version.refresh_from_db()
    assert (weights(old), version.withheld) == (False, CLEARING)
    assert list(plan_removals()) == []
    clear_away()
    version.refresh_from_db()
    assert version.withheld == CLEARED


def test_a_store_that_cannot_be_asked_keeps_its_version_and_nothing_else(
    project: Project, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings.KEEP_VERSIONS = 1
    old, new = made(project), made(project)
    version = version_of(old, 1)
    version_of(new, 2)

    def unreachable(directory: str) -> bool:
        raise ArtifactError("the store does not answer")

    monkeypatch.setattr("feedback_app.rounds.retention.is_mirrored", unreachable)
    sweep = clear_away()
    assert [(removal.policy, str(error)) for removal, error in sweep.failed] == [(version, "the store does not answer")]
    assert {removal.held for removal in sweep.taken} == {old, new}  # their checkpoints
    version.refresh_from_db()
    assert (weights(old), version.withheld) == (True, "")


def test_what_a_store_holds_is_cleared_here_and_stays_free_to_go_live(
    project: Project, settings: Settings, tmp_path: Path
) -> None:
    settings.KEEP_VERSIONS = 1
    settings.ARTIFACT_STORE = f"file://{tmp_path}/store"
    old, new = made(project), made(project)
    version = version_of(old, 1)
    version_of(new, 2)
    mirror(Path(version.directory))
    clear_away()
    version.refresh_from_db()
    assert (weights(old), version.withheld) == (False, "")
    bring_here(version.directory)  # as the push that verifies it does
    assert is_complete(Path(version.directory))


def test_what_was_cleared_here_is_downloaded_whole_from_the_store_or_refused_in_words(
    project: Project, settings: Settings, tmp_path: Path
) -> None:
    settings.KEEP_VERSIONS = 1
    settings.ARTIFACT_STORE = f"file://{tmp_path}/store"
    old, new = made(project), made(project)
    version = version_of(old, 1)
    version_of(new, 2)
    mirror(Path(version.directory))
    sound = (Path(version.directory) / "model" / "model.safetensors").read_bytes()
    browser = browser_of(project, Member.Role.MANAGER)
    address = f"/p/{project.slug}/policies/1/download/"
    clear_away()
    assert not weights(old)
    archive = ZipFile(io.BytesIO(b"".join(browser.get(address))))
    assert archive.read("model.safetensors") == sound
    clear_away()
    for blob in (tmp_path / "store" / "sha256").rglob("*"):
        if blob.is_file():
            blob.write_bytes(b"z" * blob.stat().st_size)
    refused = browser.get(address, follow=True).content.decode()
    assert "differs from its name" in refused
    (tmp_path / "store").rename(tmp_path / "away")  # weights that are nowhere make no archive without them
    refused = browser.get(address, follow=True).content.decode()
    assert "model.safetensors" in refused


def test_the_command_says_what_it_would_free(
    project: Project, settings: Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    held = made(project)
    call_command("clear_checkpoints", "--dry-run")
    assert "checkpoints of a finished round" in capsys.readouterr().out
    assert (round_dir(held) / "f1" / "ppo" / "checkpoints").exists()
    call_command("clear_checkpoints")
    assert not (round_dir(held) / "f1" / "ppo" / "checkpoints").exists()


def test_a_manager_pins_a_version_on_its_page(project: Project) -> None:
    version = version_of(made(project), 1)
    manager = browser_of(project, Member.Role.MANAGER)
    assert "Pin" in page(manager, "policies/1/")
    press(manager, "policies/1/pin/", pinned="true")
    version.refresh_from_db()
    assert version.pinned
    assert ">Unpin<" in page(manager, "policies/1/")
    assert browser_of(project, Member.Role.REVIEWER).post("/p/loop/policies/1/pin/").status_code == 403
