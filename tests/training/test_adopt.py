"""A model made elsewhere is taken in byte for byte, loads, answers the canary and is sealed, or is refused."""

import json
import os
import shutil
from pathlib import Path

import pytest

from training.__main__ import main
from training.records import verify_manifest


def adopt(source: Path, output: Path) -> int:
    config = output.with_suffix(".toml")
    config.write_text(f'model = "{source}"\n')
    return main(["adopt", "--config", str(config), "--output", str(output)])


@pytest.fixture
def source(tiny: Path, tmp_path: Path) -> Path:
    """Return a model as another trainer leaves it: with pickled weights, code and notes beside it."""
    directory = tmp_path / "dpo"
    shutil.copytree(tiny, directory)
    (directory / "optimizer.bin").write_bytes(b"pickle")
    (directory / "modeling_own.py").write_text("raise SystemExit")
    (directory / ".cache").mkdir()
    return directory


def test_a_model_is_taken_in_as_it_is(source: Path, tmp_path: Path) -> None:
    weights = source / "model.safetensors"
    bytes_before = weights.read_bytes()
    weights.rename(tmp_path / "blob")
    weights.symlink_to(tmp_path / "blob")  # as a hub's cache keeps it
    output = tmp_path / "out"
    assert adopt(source, output) == 0
    manifest = verify_manifest(output)
    assert (output / "model" / "model.safetensors").read_bytes() == bytes_before
    assert not (output / "model" / "model.safetensors").is_symlink()
    assert {"canary.json", "model/config.json", "model/tokenizer.json"} <= manifest["files"].keys()
    assert not any(name.endswith((".bin", ".py")) for name in manifest["files"])
    assert len(json.loads((output / "canary.json").read_text())["prompts"]) == 4
    assert json.loads((output / "metrics.json").read_text())["n/parameters"] > 1000


def test_a_stages_output_is_taken_with_its_adapter(source: Path, tmp_path: Path) -> None:
    stage = tmp_path / "stage"
    stage.mkdir()
    source.rename(stage / "model")
    (stage / "adapter").mkdir()
    (stage / "adapter" / "adapter_config.json").write_text("{}")
    assert adopt(stage, tmp_path / "out") == 0
    assert "adapter/adapter_config.json" in verify_manifest(tmp_path / "out")["files"]


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda path: shutil.rmtree(path), "is no directory"),
        (lambda path: (path / "config.json").unlink(), "holds no config.json"),
        (lambda path: (path / "config.json").rename(path / "adapter_config.json"), "holds an adapter alone"),
        (lambda path: (path / "model.safetensors").rename(path / "pytorch_model.bin"), "holds no safetensors"),
        (lambda path: (path / "model.safetensors").write_bytes(b"no"), "is no whole safetensors file"),
        (lambda path: os.truncate(path / "model.safetensors", 4000), "is no whole safetensors file"),
        (lambda path: (path / "tokenizer.json").unlink(), "no tokenizer can be loaded"),
        (lambda path: (path / "chat_template.jinja").unlink(), "chat template: the model's tokenizer has none"),
    ],
)
def test_what_cannot_be_served_is_refused_in_one_line(
    source: Path, tmp_path: Path, spoil: object, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    spoil(source)  # type: ignore[operator]
    assert adopt(source, tmp_path / "out") == 2
    errors = capsys.readouterr().err.strip()
    assert said in errors
    assert "\n" not in errors
    assert not (tmp_path / "out" / "manifest.json").exists()
