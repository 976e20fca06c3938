"""What trainers made, kept in a store: written once, verified on every read, fetched by a host that lacks it."""

import json
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest
from pytest_django import Settings

from feedback_app.rounds.models import RoundStep
from feedback_app.rounds.runner import work_on_round
from feedback_app.rounds.services import retry_round
from feedback_app.rounds.workspace import is_complete, seal
from feedback_app.serving.artifacts import PIECE, ArtifactError, ArtifactStore
from tests.web.endpoint import FakeEndpoint, run_endpoint
from tests.web.rounds import GOOD, judged_project, start


@pytest.fixture
def url() -> str:
    """Give a store in memory that no other test has."""
    return f"memory://{uuid.uuid4().hex}"


def made(home: Path, name: str = "rounds/r/f1/ppo", weights: bytes = b"w" * 1000) -> Path:
    """Return a directory as a trainer leaves it."""
    folder = home / name
    (folder / "model").mkdir(parents=True)
    (folder / "model" / "model.safetensors").write_bytes(weights)
    (folder / "metrics.json").write_text("{}")
    seal(folder, "ppo")
    (folder / "checkpoints").mkdir()
    (folder / "checkpoints" / "000001.pt").write_bytes(b"c")
    return folder


def blobs(url: str) -> list[str]:
    files, root = fsspec.core.url_to_fs(url)
    return [str(path) for path in files.find(f"{root}/sha256")]


def test_a_directory_comes_back_whole_on_another_machine_without_its_checkpoints(url: str, tmp_path: Path) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    ArtifactStore(url, here).put(made(here))
    other = ArtifactStore(url, there)
    folder = there / "rounds/r/f1/ppo"
    assert other.has(folder)
    assert other.fetch(folder)
    assert is_complete(folder)
    assert sorted(path.name for path in folder.rglob("*") if path.is_file()) == [
        "manifest.json", "metrics.json", "model.safetensors",
    ]  # fmt: skip
    assert not other.fetch(there / "rounds/r/f2/ppo")  # there is none of that name


def test_what_two_directories_share_is_there_once_and_putting_again_changes_nothing(url: str, tmp_path: Path) -> None:
    store = ArtifactStore(url, tmp_path)
    first = made(tmp_path)
    store.put(first)
    store.put(first)
    store.put(made(tmp_path, "rounds/r/f2/ppo"))
    assert len(blobs(url)) == 2  # the weights and the metrics, equal in both


def test_a_name_is_never_written_over_and_what_is_broken_here_is_never_put(url: str, tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    ArtifactStore(url, one).put(made(one))
    with pytest.raises(ArtifactError, match="is there already, and is another one"):
        ArtifactStore(url, two).put(made(two, weights=b"x" * 1000))
    ArtifactStore(url, tmp_path / "three").fetch(tmp_path / "three/rounds/r/f1/ppo")
    assert (tmp_path / "three/rounds/r/f1/ppo/model/model.safetensors").read_bytes() == b"w" * 1000
    broken = made(tmp_path / "four", "rounds/q/f1/ppo")
    (broken / "model" / "model.safetensors").write_bytes(b"y" * 1000)
    with pytest.raises(ValueError, match="differs from the manifest"):
        ArtifactStore(url, tmp_path / "four").put(broken)
    assert not ArtifactStore(url, tmp_path / "four").has(broken)


def test_a_damaged_or_missing_file_of_the_store_is_refused_and_leaves_nothing_here(url: str, tmp_path: Path) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    folder = made(here)
    ArtifactStore(url, here).put(folder)
    files, _root = fsspec.core.url_to_fs(url)
    sha256 = json.loads((folder / "manifest.json").read_text())["files"]["model/model.safetensors"]["sha256"]
    [blob] = [path for path in blobs(url) if path.endswith(sha256)]
    files.pipe_file(blob, b"z" * 1000)
    store, target = ArtifactStore(url, there), there / "rounds/r/f1/ppo"
    with pytest.raises(ArtifactError, match="differs from its name"):
        store.fetch(target)
    files.rm_file(blob)
    with pytest.raises(ArtifactError, match="missing"):
        store.fetch(target)
    assert not (target / "manifest.json").exists()
    assert not [path for path in target.rglob("*") if path.suffix == ".safetensors" or path.name.startswith(".model")]


def test_a_manifest_cannot_lead_out_of_its_directory(url: str, tmp_path: Path) -> None:
    files, root = fsspec.core.url_to_fs(url)
    evil = {"files": {"../../../evil": {"size": 1, "sha256": "ab" * 32}}}
    files.pipe_file(f"{root}/manifests/rounds/r/f1/ppo/manifest.json", json.dumps(evil).encode())
    with pytest.raises(ArtifactError, match="leads out"):
        ArtifactStore(url, tmp_path).fetch(tmp_path / "rounds/r/f1/ppo")


def test_an_address_that_nobody_knows_is_said_by_its_setting(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="ARTIFACT_STORE: nonsense://x"):
        ArtifactStore("nonsense://x", tmp_path)


@pytest.fixture
def endpoint(settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeEndpoint]:
    settings.BASE_MODEL = str(tmp_path)
    settings.ARTIFACT_STORE = f"file://{tmp_path}/store"
    monkeypatch.setenv("FAKE_METRICS", json.dumps({"evaluate": GOOD}))
    with run_endpoint() as fake:
        settings.SERVING_URL = fake.url
        yield fake


@pytest.mark.django_db
def test_a_round_goes_on_on_a_host_that_has_none_of_its_files(
    endpoint: FakeEndpoint, settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE_EXIT", json.dumps({"ppo": 3}))
    held = start(judged_project())
    assert (failed := work_on_round(round_id=held.pk)) is not None
    assert (failed.state, "ppo" in failed.error) == ("failed", True)
    settings.DATA_DIR = tmp_path / "another"
    settings.DATA_DIR.mkdir()
    monkeypatch.delenv("FAKE_EXIT")
    retry_round(round_id=held.pk, retried_by=None)
    done = work_on_round(round_id=held.pk)
    assert done is not None
    assert (done.state, done.error) == ("succeeded", "")
    # Export and both reward models were fetched, not made again.
    attempts = dict(RoundStep.objects.filter(round=held).values_list("name", "attempt"))
    assert (attempts["export"], attempts["reward"], attempts["ppo"]) == (1, 1, 2)
    reward = settings.DATA_DIR / RoundStep.objects.get(round=held, name="reward").directory
    assert is_complete(reward / "model")
    assert is_complete(reward / "judge")


@pytest.mark.django_db
def test_a_store_that_fails_ends_the_round_in_words(endpoint: FakeEndpoint, settings: Settings, tmp_path: Path) -> None:
    held = start(judged_project())
    (tmp_path / "store").write_text("a file, where a folder has to be")
    failed = work_on_round(round_id=held.pk)
    assert failed is not None
    assert failed.state == "failed"
    assert f"file://{tmp_path}/store" in failed.error


@pytest.mark.parametrize("kind", ["memory", "file"])
def test_a_store_that_fails_in_the_middle_of_a_file_holds_nothing_of_it_and_takes_it_later(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = f"memory://{uuid.uuid4().hex}" if kind == "memory" else f"file://{tmp_path / 'store'}"
    here, there = tmp_path / "here", tmp_path / "there"
    folder = made(here, weights=b"w" * (3 * PIECE))
    store = ArtifactStore(url, here)
    honest = store.files.open

    def full(path: str, mode: str = "rb", **more: Any) -> Any:
        file = honest(path, mode, **more)
        if mode == "wb":
            write, left = file.write, [PIECE]

            def some(piece: bytes) -> int:
                left[0] -= len(piece)
                if left[0] < 0:
                    raise OSError(28, "No space left on device")
                return int(write(piece))

            monkeypatch.setattr(file, "write", some)
        return file

    monkeypatch.setattr(store.files, "open", full)
    with pytest.raises(ArtifactError, match="No space left"):
        store.put(folder)
    assert not store.has(folder)
    assert not any("model.safetensors" in path or int(store.files.size(path)) > 1000 for path in blobs(url))
    monkeypatch.setattr(store.files, "open", honest)
    store.put(folder)
    copy = there / "rounds/r/f1/ppo"
    assert ArtifactStore(url, there).fetch(copy)
    assert is_complete(copy)
