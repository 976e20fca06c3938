"""Run one trainer as a process of its own: watched, reported on, stopped on request, never outliving its watcher."""

import contextlib
import json
import logging
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from django.db import connection
from django.utils.translation import gettext_noop as _

from feedback_app.rounds.leases import DATABASE_AWAY, LEASE, RENEW_EVERY_S, LeaseLost, fenced, renew_lease
from feedback_app.rounds.machine import Gauge
from feedback_app.rounds.models import Round, RoundStep
from feedback_app.rounds.room import NoRoom, check_limits
from feedback_app.rounds.trainers import last_words, log_path, trainer, write_command
from feedback_app.sentences import SaidError

logger = logging.getLogger(__name__)
POLL_S = 0.3
REPORT_EVERY_S = 2.0
LOOK_AT_DISK_EVERY_S = 20.0
# What a trainer ends with that was asked to stop and has written its checkpoint.
STOPPED = 130


class StepFailed(SaidError):
    """A step ended without its result; the message is for the manager."""


class TrainerKilled(StepFailed):
    """A trainer was ended by a signal that we did not send: its checkpoint can be gone on from."""


class Cancelled(Exception):
    """A person asked for the end of the round."""


@dataclass
class StepRun:
    """A step under a fence: who may write, and when the lease was last renewed."""

    held: Round
    step: RoundStep
    deadline: float
    renewed_at: float = field(default_factory=time.monotonic)
    disk_looked_at: float = 0.0

    def heartbeat(self) -> None:
        """Renew the lease when it is due. Raises LeaseLost, Cancelled, or StepFailed past a limit of time or disk."""
        now = time.monotonic()
        if now - self.renewed_at < RENEW_EVERY_S:
            return
        try:
            cancel, _pause = renew_lease(round_id=self.held.pk, fence=self.held.fence)
        except DATABASE_AWAY as error:
            self._bear(error)
            return
        self.renewed_at = now
        if cancel:
            raise Cancelled
        if now > self.deadline:
            raise StepFailed(_("the round's time limit (max_hours) has passed"))
        if now - self.disk_looked_at >= LOOK_AT_DISK_EVERY_S:
            self.disk_looked_at = now
            try:
                check_limits(self.held)
            except NoRoom as error:
                raise StepFailed(error.kept["words"], **error.kept["values"]) from error

    def report(self, lines: list[dict[str, Any]] | None, usage: dict[str, Any] | None) -> None:
        """Put what the trainer has written so far, and what it takes, into the step's row; None is nothing new."""
        news = {key: value for key, value in (("progress", lines), ("usage", usage)) if value is not None}
        if not news:
            return
        try:
            with fenced(round_id=self.held.pk, fence=self.held.fence):
                RoundStep.objects.filter(pk=self.step.pk).update(**news)
        except DATABASE_AWAY as error:
            self._bear(error)
        else:
            self.step.progress = self.step.progress if lines is None else lines

    def report_whole(self, progress: Path, part: str) -> None:
        """Put all that a trainer has written into the step's row once it is done.

        The last lines may have gone unheard: the database was away for them, or the worker that watched died first.
        """
        lines = _Reader(progress, part, self.step).lines()
        if lines is None or lines == self.step.progress:
            return
        with fenced(round_id=self.held.pk, fence=self.held.fence):
            RoundStep.objects.filter(pk=self.step.pk).update(progress=lines)
        self.step.progress = lines

    def _bear(self, error: Exception) -> None:
        """Go on without the database for as long as the lease would have lasted; then the trainer has to stop."""
        if time.monotonic() - self.renewed_at > LEASE.total_seconds():
            raise LeaseLost from error
        logger.warning("round=%s fence=%s: the database is away: %s", self.held.pk, self.held.fence, error)
        connection.close()


def run_trainer(
    run: StepRun,
    *,
    stage: str,
    config: Mapping[str, Any],
    directory: Path,
    resume: bool,
    part: str = "",
) -> None:
    """Run `python -m training STAGE` until its manifest stands.

    Raises:
        LeaseLost, Cancelled: and nothing of the trainer runs any more.
        TrainerKilled: by a signal from elsewhere, as the kernel's when memory runs out.
        StepFailed: with the last words of its log.
    """
    launcher = run.held.config["launcher"]
    command = write_command(launcher, stage=stage, config=config, directory=directory, resume=resume)
    log = log_path(directory)
    code = _supervise(run, command, log, directory / "progress.jsonl", part)
    if code < 0 or code == STOPPED:
        words = _("%(stage)s was ended by a signal (exit code %(code)s): %(last)s")
        raise TrainerKilled(words, stage=stage, code=code, last=last_words(log))
    if code != 0:
        words = _("%(stage)s ended with exit code %(code)s: %(last)s")
        raise StepFailed(words, stage=stage, code=code, last=last_words(log))


def _supervise(run: StepRun, command: Sequence[str], log: Path, progress: Path, part: str) -> int:
    with trainer(command, log) as process:
        logger.info("round=%s fence=%s step=%s pid=%s", run.held.pk, run.held.fence, run.step.name, process.pid)
        return _watch(run, process, _Reader(progress, part, run.step))


class _Reader:
    """The whole lines of progress.jsonl, behind those of the step's other part."""

    def __init__(self, path: Path, part: str, step: RoundStep) -> None:
        self.path, self.part = path, part
        self.earlier = [line for line in step.progress if line.get("part", "") != part]
        self.reported = -1

    def lines(self) -> list[dict[str, Any]] | None:
        """Return all lines when there are new ones, else None."""
        with contextlib.suppress(FileNotFoundError):
            whole = self.path.read_bytes()
            whole = whole[: whole.rfind(b"\n") + 1]
            if len(whole) != self.reported:
                self.reported = len(whole)
                mark = {"part": self.part} if self.part else {}
                return [*self.earlier, *({**json.loads(line), **mark} for line in whole.splitlines())]
        return None


def _watch(run: StepRun, process: subprocess.Popen[bytes], reader: _Reader) -> int:
    reported_at, gauge = 0.0, Gauge(process.pid)
    while True:
        code = process.poll()
        if code is not None or time.monotonic() - reported_at >= REPORT_EVERY_S:
            reported_at = time.monotonic()
            usage = gauge.read() if code is None else None
            lines = reader.lines()
            run.report(lines, usage)
        if code is not None:
            return code
        run.heartbeat()
        time.sleep(POLL_S)


__all__ = ["Cancelled", "LeaseLost", "StepFailed", "StepRun", "TrainerKilled", "run_trainer"]
