"""A disk that fills up while a checkpoint is written: the one before stands, and the reason is the kernel's own."""

import errno
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from training.checkpoint import OutputDirectory
from training.config import PPOConfig


@contextmanager
def files_end_at(size: int) -> Iterator[None]:
    """Let no file of this process grow beyond a size, as no file grows on a full disk; Python ignores the signal."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_checkpoint_that_does_not_fit_leaves_the_one_before_and_says_so_in_the_kernels_words(tmp_path: Path) -> None:
    config = PPOConfig(policy="p", reward="r:r", prompts="q")
    output = OutputDirectory(tmp_path / "ppo", stage="ppo", config=config, resume=True)
    output.log({"update": 1})
    output.save_checkpoint(1, {"weights": torch.ones(1000)})
    output.log({"update": 2})
    with files_end_at(50_000), pytest.raises(OSError, match="File too large") as full:
        output.save_checkpoint(2, {"weights": torch.ones(1_000_000)})
    assert full.value.errno == errno.EFBIG
    assert [path.name for path in output.checkpoints.iterdir()] == ["00000001.pt"]
    assert not (tmp_path / "ppo" / "manifest.json").exists()
    found = output.load_checkpoint()
    assert found is not None
    assert (found[0], found[1]["weights"].sum()) == (1, 1000)
    # What was reported after the checkpoint is cut back: it is computed again.
    assert len(output.progress.read_text().splitlines()) == 1
