"""What a machine has and what a trainer takes of it, as the system and nvidia-smi say it."""

import os
import stat
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from feedback_app.projects.models import Member
from feedback_app.rounds.machine import Gauge, Gpu, read_gpus
from feedback_app.rounds.models import RoundStep
from feedback_app.rounds.trainers import trainer
from tests.factories import make_project
from tests.web.round_rows import browser_of, page, round_at

MIB = 2**20
# Holds 64 MiB for a moment, lets them go, says so, and waits; a child of its own holds 32 MiB.
CHILD = "x = bytearray(32 * 2**20); print('held', flush=True); input()"
TRAINER = f"""
import subprocess, sys
child = subprocess.Popen([sys.executable, '-c', {CHILD!r}], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
child.stdout.readline()
x = bytearray(64 * 2**20)
del x
print('ready', flush=True)
input()
"""


def pretend_nvidia_smi(folder: Path, monkeypatch: pytest.MonkeyPatch, lines: str, code: int = 0) -> None:
    """Put an nvidia-smi on the path that prints lines: the driver's program lies outside the machine."""
    program = folder / "nvidia-smi"
    program.write_text(f"#!/bin/sh\ncat <<'END'\n{lines}\nEND\nexit {code}\n")
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")


def test_gpus_are_read_from_nvidia_smi_and_one_that_tells_no_load_has_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pretend_nvidia_smi(tmp_path, monkeypatch, "0, NVIDIA L4, 23034, 1024, 87\n1, NVIDIA A100 MIG, 40960, 3, [N/A]")
    assert read_gpus() == [
        Gpu(index=0, name="NVIDIA L4", total=23034 * MIB, used=1024 * MIB, load=87),
        Gpu(index=1, name="NVIDIA A100 MIG", total=40960 * MIB, used=3 * MIB, load=0),
    ]


def test_a_driver_that_fails_is_no_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pretend_nvidia_smi(tmp_path, monkeypatch, "NVIDIA-SMI has failed", code=9)
    assert read_gpus() == []


@pytest.mark.skipif(sys.platform != "linux", reason="the system counts a process's high-water mark on Linux")
def test_a_gauge_counts_all_that_a_trainer_started_and_remembers_the_most() -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", TRAINER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True
    )
    try:
        assert process.stdout is not None
        process.stdout.readline()
        usage = Gauge(process.pid).read()
        # Two interpreters of some 10 MiB each, 32 MiB held by the child; 64 MiB more were held, and are remembered.
        assert 32 * MIB < usage["memory"] < 90 * MIB
        assert usage["peak"] >= usage["memory"] + 50 * MIB
        assert usage["cpus"] >= 1
    finally:
        process.kill()
        process.communicate()


@pytest.mark.django_db
def test_the_rounds_page_says_what_its_trainer_takes() -> None:
    project = make_project("loop")
    held = round_at(project, "running", "ppo", ppo=3)
    gpu = {"index": 0, "name": "NVIDIA L4", "total": 24 * 2**30, "used": 6 * 2**30, "load": 87}
    usage = {"memory": 3 * 2**30, "peak": 4 * 2**30, "total": 16 * 2**30, "cpu": 1.9, "cpus": 2, "gpus": [gpu]}
    RoundStep.objects.filter(round=held, name="ppo").update(usage=usage)
    text = page(browser_of(project, Member.Role.REVIEWER), f"rounds/{held.number}/")
    assert "Memory 3.0 GiB of 16.0 GiB, 4.0 GiB at its peak" in text
    assert "1.9 of 2 processors" in text
    assert "GPU 0 (NVIDIA L4): 6.0 GiB of 24.0 GiB, 87 % busy" in text


def test_a_trainer_that_cannot_be_started_leaves_nothing_open(tmp_path: Path) -> None:
    open_before = psutil.Process().num_fds()
    with pytest.raises(FileNotFoundError), trainer([str(tmp_path / "missing")], tmp_path / "log"):
        pass
    assert psutil.Process().num_fds() == open_before
