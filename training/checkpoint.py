"""A stage's directory: written so that it can be killed at any moment, resumed bit-equal, and trusted when done."""

import contextlib
import ctypes
import importlib.metadata
import json
import math
import os
import random
import shutil
import signal
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import torch

from training import processes
from training.config import StageConfig, to_toml
from training.devices import use_device
from training.launcher import launched_here
from training.progress_bar import ProgressBar
from training.records import MANIFEST, Manifest, file_sha256
from training.tensorboard import FOLDER as TENSORBOARD
from training.tensorboard import EventFiles

KEPT_CHECKPOINTS = 2
# Left out of the manifest: what only a resume needs, and what is written as the stage runs.
NOT_IN_MANIFEST = ("checkpoints", TENSORBOARD, MANIFEST)


class Stopped(Exception):
    """A signal asked the stage to stop; what was done is in its checkpoint."""


class OutputDirectory:
    """The place a stage writes to: config.toml, progress.jsonl, metrics.json, model/, checkpoints/, manifest.json.

    Of several processes the first one writes and reads, and the others are told what it read.
    """

    def __init__(self, path: Path, *, stage: str, config: StageConfig, resume: bool) -> None:
        self.path, self.stage, self.config, self.resume = path, stage, config, resume
        self.checkpoints = path / "checkpoints"
        self.progress = path / "progress.jsonl"
        self.events = EventFiles(path) if config.tensorboard else None
        self.bar = ProgressBar()
        processes.first_does(self._begin)

    def _begin(self) -> None:
        if self.path.exists() and not self.path.is_dir():
            raise FileExistsError(f"{self.path}: is not a directory")
        if not self.resume and self.path.exists() and any(self.path.iterdir()):
            raise FileExistsError(f"{self.path}: is not empty; --resume goes on with it")
        self.checkpoints.mkdir(parents=True, exist_ok=True)
        for unfinished in self.path.glob(".*.new"):  # left by a kill; no manifest may name them
            unfinished.unlink()
        _write_atomically(self.path / "config.toml", to_toml(self.config))
        self.progress.touch()

    @property
    def done(self) -> bool:
        """Say whether the stage has finished: its manifest is what is written last."""
        return processes.first_does((self.path / MANIFEST).is_file)

    def log(self, line: Mapping[str, Any]) -> None:
        """Append a line to progress.jsonl, at once; a number that is not finite becomes null, for JSON has none."""
        if not processes.is_first():
            return
        whole = {
            name: None if isinstance(value, float) and not math.isfinite(value) else value
            for name, value in line.items()
        }
        with self.progress.open("a", encoding="utf-8") as file:
            file.write(json.dumps(whole, allow_nan=False) + "\n")
        if self.events is not None:
            self.events.write(whole)
        self.bar.show(whole)

    def save_checkpoint(self, update: int, state: Mapping[str, Any]) -> None:
        """Keep what a resume needs after `update` updates, random states and the length of progress.jsonl with it."""
        if not processes.is_first():
            return
        target = self.checkpoints / f"{update:08d}.pt"
        fresh = target.with_suffix(".new")
        content = {"update": update, "state": state, "random": random_state(), "lines": self.progress.stat().st_size}
        _save(content, fresh)
        _sync(fresh)
        _sync(self.progress)
        fresh.rename(target)
        for old in sorted(self.checkpoints.glob("*.pt"))[:-KEPT_CHECKPOINTS]:
            old.unlink()

    def load_checkpoint(self) -> tuple[int, dict[str, Any]] | None:
        """Return (updates done, state) of the newest whole checkpoint, with random states and progress put back."""
        if not self.resume:
            return None
        content = processes.first_does(self._newest)
        if content is None:
            return None
        set_random_state(content["random"])
        return content["update"], content["state"]

    def _newest(self) -> dict[str, Any] | None:
        for unfinished in self.checkpoints.glob("*.new"):
            unfinished.unlink()
        found = sorted(self.checkpoints.glob("*.pt"))
        if not found:
            self.progress.write_text("")
            self._rewrite_events()
            return None
        content: dict[str, Any] = torch.load(found[-1], map_location="cpu", weights_only=True)
        os.truncate(self.progress, content["lines"])
        self._rewrite_events()
        return content

    def _rewrite_events(self) -> None:
        if self.events is not None:
            self.events.begin_again(self.progress)

    def finish(self, metrics: Mapping[str, Any], *, data: Sequence[str | Path], parents: Sequence[str | Path]) -> None:
        """Write metrics.json and then the manifest, atomically: from here on the stage is done."""
        processes.first_does(lambda: self._finish(metrics, data, parents))

    def _finish(self, metrics: Mapping[str, Any], data: Sequence[str | Path], parents: Sequence[str | Path]) -> None:
        _write_atomically(self.path / "metrics.json", json.dumps(metrics, indent=1, sort_keys=True) + "\n")
        shutil.rmtree(self.checkpoints, ignore_errors=True)
        if self.events is not None:
            self.events.close()
        manifest: Manifest = {
            "stage": self.stage,
            "files": {
                str(file.relative_to(self.path)): {"size": file.stat().st_size, "sha256": file_sha256(file)}
                for file in sorted(self.path.rglob("*"))
                if file.is_file() and file.relative_to(self.path).parts[0] not in NOT_IN_MANIFEST
            },
            "parents": {str(parent): directory_sha256(Path(parent)) for parent in parents},
            "data_sha256": {str(path): file_sha256(Path(path)) for path in data if Path(path).is_file()},
            "config_sha256": file_sha256(self.path / "config.toml"),
            "versions": {name: importlib.metadata.version(name) for name in ("torch", "transformers", "numpy")},
        }
        for name in manifest["files"]:
            _sync(self.path / name)
        _write_atomically(self.path / MANIFEST, json.dumps(manifest, indent=1, sort_keys=True) + "\n")


def _save(content: Mapping[str, Any], path: Path) -> None:
    """Write a checkpoint or nothing: a full disk says so, in place of PyTorch's words, and gets its room back."""
    try:
        with path.open("wb") as file:
            torch.save(content, file)
    except (OSError, RuntimeError) as error:
        path.unlink()
        cause: BaseException | None = error
        while cause is not None and not isinstance(cause, OSError):
            cause = cause.__context__
        if cause is None:
            raise
        raise OSError(cause.errno, cause.strerror, str(path)) from error


def directory_sha256(directory: Path) -> str:
    """Return one hash of a model directory: of its manifest where it (or its parent) has one, else of its weights."""
    for folder in (directory, directory.parent):
        if (folder / MANIFEST).is_file():
            return file_sha256(folder / MANIFEST)
    weights = sorted(directory.glob("*.safetensors"))
    return "+".join(file_sha256(path) for path in weights) or "none"


def random_state() -> dict[str, Any]:
    """Return the states of every generator that training draws from."""
    kind, keys, position, has_gauss, gauss = np.random.get_state(legacy=True)
    version, numbers, extra = random.getstate()
    return {
        "torch": torch.get_rng_state(),
        "numpy": [kind, torch.from_numpy(np.asarray(keys, dtype=np.int64)), position, has_gauss, gauss],
        "python": [version, list(numbers), extra],
    }


def set_random_state(state: Mapping[str, Any]) -> None:
    """Put back what random_state returned."""
    torch.set_rng_state(state["torch"])
    kind, keys, position, has_gauss, gauss = state["numpy"]
    np.random.set_state((kind, keys.numpy().astype(np.uint32), position, has_gauss, gauss))
    version, numbers, extra = state["python"]
    random.setstate((version, tuple(numbers), extra))


def prepare_process(config: StageConfig) -> None:
    """Choose the device, seed every generator, pin the threads: so the same machine computes the same bits.

    Raises:
        ConfigError: the device is not there.
    """
    use_device(config.device)
    keep_freed_memory()
    random.seed(config.seed)
    np.random.seed(config.seed % 2**32)
    torch.manual_seed(config.seed % 2**63)
    beside = launched_here()[1] if processes.count() > 1 else 1
    torch.set_num_threads(config.threads or max(1, (os.cpu_count() or 1) // beside))


def keep_freed_memory() -> None:
    """Tell glibc to keep what is freed: giving back and faulting in a step's tensors took a third of its time."""
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return  # another C library: nothing is lost but speed
    m_trim_threshold, m_mmap_threshold = -1, -3  # <malloc.h>
    mallopt(m_mmap_threshold, 2**30)
    mallopt(m_trim_threshold, 2**31 - 1)


@contextlib.contextmanager
def stop_requests() -> Iterator["StopRequests"]:
    """Turn SIGTERM and SIGINT into a question that the loop asks between updates."""
    requests = StopRequests()
    previous = {number: signal.signal(number, requests.receive) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield requests
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


class StopRequests:
    """Remembers that a signal came; a second one ends the process the usual way."""

    def __init__(self) -> None:
        self.received = False

    @property
    def heeded(self) -> bool:
        """Say whether to stop now: a signal to one process is a signal to all. To be asked once an update."""
        return processes.anywhere(self.received)

    def receive(self, number: int, frame: FrameType | None) -> None:
        if self.received:
            raise KeyboardInterrupt
        self.received = True


def _write_atomically(path: Path, text: str) -> None:
    fresh = path.with_name(f".{path.name}.new")
    fresh.write_text(text, encoding="utf-8")
    _sync(fresh)
    fresh.rename(path)


def _sync(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())
