"""What this machine has and what runs on it takes: asked of the system and of nvidia-smi, never of torch in here."""

import contextlib
import shutil
import subprocess
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import psutil

MIB = 2**20
ASK_TIMEOUT_S = 5.0
GPU_COLUMNS = "index,name,memory.total,memory.used,utilization.gpu"


@dataclass(frozen=True, kw_only=True)
class Gpu:
    """One GPU as nvidia-smi sees it; memory in bytes, load in per cent."""

    index: int
    name: str
    total: int
    used: int
    load: int


def read_gpus() -> list[Gpu]:
    """Return the GPUs of this machine; none where there is no nvidia-smi, or where it does not answer."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return []
    try:
        answer = subprocess.run(
            [program, f"--query-gpu={GPU_COLUMNS}", "--format=csv,noheader,nounits"],
            capture_output=True,
            text=True,
            timeout=ASK_TIMEOUT_S,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return []
    return [gpu for line in answer.stdout.splitlines() if (gpu := _gpu(line)) is not None]


def _gpu(line: str) -> Gpu | None:
    """Read one line; a device that does not tell its load (MIG, some laptops) has 0."""
    parts = [part.strip() for part in line.split(",")]
    if len(parts) != len(GPU_COLUMNS.split(",")):
        return None
    index, name, total, used, load = parts
    numbers = [int(float(part)) if part.replace(".", "", 1).isdigit() else 0 for part in (total, used, load)]
    return Gpu(index=int(index), name=name, total=numbers[0] * MIB, used=numbers[1] * MIB, load=numbers[2])


class Gauge:
    """Watches a trainer and all it has started: memory, processors and GPUs, and the most memory there was."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.peak = 0
        self.gpu_peak = 0
        self._gpu_before = sum(gpu.used for gpu in read_gpus())
        self._cpu_s, self._read_at = 0.0, time.monotonic()

    def read_memory(self) -> int:
        """Return the bytes that the processes hold now, and remember the most."""
        held = high = 0
        for process in self._processes():
            with contextlib.suppress(psutil.Error):
                resident = process.memory_info().rss
                held += resident
                high += max(resident, _high_water(process.pid))
        self.peak = max(self.peak, high)
        return held

    def read(self) -> dict[str, Any]:
        """Return {"memory", "peak", "cpu" (processors in use since the last reading), "gpus"}."""
        memory = self.read_memory()
        spent, now = self._cpu_seconds(), time.monotonic()
        cores = max(0.0, spent - self._cpu_s) / max(0.001, now - self._read_at)
        self._cpu_s, self._read_at = spent, now
        gpus = read_gpus()
        self.gpu_peak = max(self.gpu_peak, sum(gpu.used for gpu in gpus) - self._gpu_before)
        return {
            "memory": memory, "peak": self.peak, "cpu": round(cores, 2), "cpus": psutil.cpu_count() or 1,
            "total": psutil.virtual_memory().total, "gpus": [asdict(gpu) for gpu in gpus],
        }  # fmt: skip

    def _processes(self) -> Sequence[psutil.Process]:
        try:
            leader = psutil.Process(self.pid)
            return [leader, *leader.children(recursive=True)]
        except psutil.Error:
            return []

    def _cpu_seconds(self) -> float:
        spent = 0.0
        for process in self._processes():
            with contextlib.suppress(psutil.Error):
                times = process.cpu_times()
                spent += times.user + times.system
        return spent


def _high_water(pid: int) -> int:
    """Return the most memory that a process has ever held, where the system counts it (Linux)."""
    try:
        with Path(f"/proc/{pid}/status").open(encoding="ascii", errors="replace") as status:
            line = next((line for line in status if line.startswith("VmHWM:")), "")
    except OSError:
        return 0
    return int(line.split()[1]) * 1024 if line else 0
