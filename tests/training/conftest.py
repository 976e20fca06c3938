"""What the training tests share: one thread, a tiny model for the session, and files of rows."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers.utils import logging

from tests.training.tiny import make_tiny_model

WriteRows = Callable[[str, Sequence[Mapping[str, Any]]], str]


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the directory of a tiny float32 model; read only."""
    return make_tiny_model(tmp_path_factory.mktemp("tiny") / "model")


@pytest.fixture(scope="session", autouse=True)
def quiet_libraries() -> None:
    """Silence transformers as the command line does by its environment, which is read before this process began."""
    logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Keep models this small on one core: more threads wait longer than they work."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def write_rows(tmp_path: Path) -> WriteRows:
    """Return a function that writes JSON lines under a name and returns the path."""

    def write(name: str, rows: Sequence[Mapping[str, Any]]) -> str:
        path = tmp_path / name
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        return str(path)

    return write


@pytest.fixture
def prompts(write_rows: WriteRows) -> str:
    """Return a file of ten prompts."""
    return write_rows("prompts.jsonl", [{"prompt": [{"role": "user", "content": f"Say {i}"}]} for i in range(10)])


@pytest.fixture
def preferences(write_rows: WriteRows) -> str:
    """Return a file of forty pairs over ten prompts: the answer in vowels is chosen."""
    return write_rows(
        "preferences.jsonl",
        [
            {"prompt": f"Say {i % 10}", "chosen": "aeiou"[: 2 + i % 4], "rejected": "xyzwv"[: 2 + (i + i // 10) % 4],
             "margin": (i % 3) / 3, "weight": 1.0, "prompt_id": str(i % 10)}
            for i in range(40)
        ],
    )  # fmt: skip
