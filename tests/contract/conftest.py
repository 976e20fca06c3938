"""Tiny models and one inference server for the session's contract tests."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.inference_server import Server, make_model, running_server


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Return the directories of two models that answer differently."""
    root = tmp_path_factory.mktemp("models")
    return {"base": make_model(root / "base", seed=1), "other": make_model(root / "other", seed=2)}


@pytest.fixture(scope="session")
def server(models: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Run one server of the base model; tests leave its policies as they found them."""
    with running_server(models["base"], tmp_path_factory.mktemp("server") / "log") as running:
        yield running
