"""Clocks that jump under a running round: one process comes up, or goes on, with another time than its machine's.

By libfaketime and for that process alone, with what it starts: the machine's clock is never touched. `up` starts it and
knows nothing of this: Python reads a sitecustomize from the stack's folder of hooks, which begins the process anew.
"""

import json
import time
from collections.abc import Callable

from benchmarks.killing import ROLES, Blow, Site
from tests.faked_time import HABITS, library

DAY_S = 24 * 3600
# Until a process that has just been started is at its work.
AT_WORK_AFTER_S = 5.0
HOOK = """
import os, sys
folder, library, habits, roles = {folder!r}, {library!r}, {habits}, {roles}
if "FAKETIME_TIMESTAMP_FILE" not in os.environ:
    command = " ".join(sys.orig_argv) + " "
    for role, mark in roles.items():
        clock = os.path.join(folder, role)
        if mark in command and os.path.exists(clock):
            with open(clock + ".log", "a") as log:
                log.write(f"{{os.getpid()}} {{command}}\\n")
            faked = os.environ | habits | {{"LD_PRELOAD": library, "FAKETIME_TIMESTAMP_FILE": clock}}
            os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], faked)
"""


def set_clock(site: Site, role: str, ahead_s: int) -> None:
    """Set the clock of a role: of its process, where that was started with a clock of its own, and of those to come."""
    faked = library()
    assert faked is not None, "there is no libfaketime for this machine"
    folder = site.stack.hooks / "clocks"
    folder.mkdir(parents=True, exist_ok=True)
    hook = HOOK.format(folder=str(folder), library=str(faked), habits=json.dumps(HABITS), roles=json.dumps(ROLES))
    for path, text in ((folder / role, f"{ahead_s:+d}"), (site.stack.hooks / "sitecustomize.py", hook)):
        fresh = path.with_suffix(".new")
        fresh.write_text(text)
        fresh.replace(path)


def mend_clocks(site: Site) -> None:
    """Give every role the machine's time again."""
    wrong = [role for role in ROLES if (site.stack.hooks / "clocks" / role).exists()]
    for role in wrong:
        (site.stack.hooks / "clocks" / role).unlink()
        site.kill(role)
    if wrong:
        site.wait_for_restart()


def _ahead_from_its_start(role: str) -> Blow:
    def blow(site: Site, round_id: str) -> None:
        set_clock(site, role, DAY_S)
        site.kill(role)

    return blow


def _back_under_it(role: str) -> Blow:
    def blow(site: Site, round_id: str) -> None:
        set_clock(site, role, 0)
        site.kill(role)
        site.wait_for_restart()
        time.sleep(AT_WORK_AFTER_S)
        set_clock(site, role, -DAY_S)

    return blow


_KINDS: tuple[tuple[str, Callable[[str], Blow]], ...] = (
    ("clock of {} a day ahead from its start", _ahead_from_its_start),
    ("clock of {} a day back while it runs", _back_under_it),
)
CLOCK_BLOWS: dict[str, Blow] = {
    words.format(shown): make(role)
    for role, shown in (("gpu-worker", "the worker"), ("worker", "the other worker"), ("beat", "beat"))
    for words, make in _KINDS
}
