"""Rounds that survive anything, as often as one has time for: seeded kills of real processes while a round runs.

    python -m benchmarks.kills [--runs N] [--seed S]

Each run starts the same round, breaks something at a step or at a random moment, half of the time two things, and then
asks for exactly one result, bit-equal to that of a round that nobody disturbed, a worker on the round again within 30 s
of the restart, and nothing left running or reserved. Prints one JSON line. A run's seed says all of it:
`--runs 1 --seed S` does it again.
"""

import argparse
import json
import random
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import httpx

from benchmarks.clocks import CLOCK_BLOWS, mend_clocks
from benchmarks.killing import BLOWS, Blow, Site
from tests.loop.rounds import import_judged_rows, result_of, start
from tests.loop.stack import run_stack, wait_until
from tests.loop.tiny_policy import make_tiny_policy

RECOVERS_WITHIN_S = 30.0
ENDS_WITHIN_S = 240.0
# The seeds below it take no clock away from anybody, and mean what they meant before there were such blows; from it on
# a clock jumps first, and anything may follow. Every blow of either kind comes at every step, and as often at random.
FIRST_OF_CLOCKS = 200
RUNS = FIRST_OF_CLOCKS + 2 * 6 * len(CLOCK_BLOWS)
ANY = BLOWS | CLOCK_BLOWS
STEPS = ("export", "reward", "ppo", "evaluate", "gate", "push")
# All begin with the base, so that what they end with can be compared; few updates, a checkpoint after every second.
RECIPE = """
start_from = "base"
[reward]
batch = 8
lr = 2e-3
max_length = 96
checkpoint_every = 2
[ppo]
updates = 16
rollout_batch = 16
minibatch = 16
response_length = 16
lr = 1e-3
critic = "head"
checkpoint_every = 2
[evaluate]
response_length = 16
max_prompts = 8
[gate]
win_rate_over_parent = 0.0
max_kl = 0.0
max_length_ratio = 0.0
max_perplexity_ratio = 0.0
max_skill_loss = 0.0
no_alarm = false
"""


@dataclass(frozen=True)
class Moment:
    """When a blow falls: so many seconds after a step began, or after the round was started where it names none."""

    step: str
    after_s: float


@dataclass(frozen=True)
class Plan:
    """What a seed does to a round."""

    blows: tuple[str, ...]
    moments: tuple[Moment, ...]

    def __str__(self) -> str:
        return ", ".join(
            f"{blow} {moment.after_s:.2f} s after {moment.step or 'the start'}"
            for blow, moment in zip(self.blows, self.moments, strict=True)
        )


def plan_of(seed: int, undisturbed_s: float) -> Plan:
    """Return a seed's plan: every blow at every step in turn, and as often at a random moment."""
    chance = random.Random(seed)
    with_clocks = seed >= FIRST_OF_CLOCKS
    names = list(CLOCK_BLOWS if with_clocks else BLOWS)
    turn, place = divmod(seed - FIRST_OF_CLOCKS if with_clocks else seed, len(names))
    by_step = turn % 2 == 0
    step = STEPS[turn // 2 % len(STEPS)]
    first = Moment(step, chance.uniform(0, 2.0)) if by_step else Moment("", chance.uniform(0, undisturbed_s))
    blows, moments = [names[place]], [first]
    if chance.random() < 0.5:
        blows.append(chance.choice(list(ANY if with_clocks else BLOWS)))
        moments.append(Moment(chance.choice(STEPS), chance.uniform(0, 3.0)))
        moments.sort(key=lambda moment: STEPS.index(moment.step) if moment.step else -1)
    return Plan(tuple(blows), tuple(moments))


@dataclass
class Outcome:
    """What came of a run; why is empty where all held."""

    seed: int
    plan: str
    why: str = ""
    seconds: float = 0.0
    recovery_s: list[float] = field(default_factory=list)


class Series:
    """A project, the result of its undisturbed round, and runs against it."""

    def __init__(self, site: Site, client: httpx.Client) -> None:
        self.site, self.client = site, client
        began = time.monotonic()
        first = start(client)
        self.site.wait_for_end(first, ENDS_WITHIN_S)
        self.undisturbed_s = time.monotonic() - began
        self.expected = result_of(site.stack, client, first)
        problems = self.site.problems_after(first)
        assert not problems, problems

    def run(self, seed: int) -> Outcome:
        """Do what a seed says; never raises for what the product did wrong."""
        plan = plan_of(seed, self.undisturbed_s)
        outcome = Outcome(seed, str(plan))
        began = time.monotonic()
        round_id = ""
        try:
            self._roll_back()
            round_id = start(self.client)
            for name, moment in zip(plan.blows, plan.moments, strict=True):
                self._strike(round_id, ANY[name], moment, outcome)
            self.site.wait_for_end(round_id, ENDS_WITHIN_S)
            self._judge(round_id, outcome)
        except (AssertionError, httpx.HTTPError, ValueError) as error:
            outcome.why = f"{type(error).__name__}: {error}"
        outcome.seconds = time.monotonic() - began
        if outcome.why:
            self.site.bring_up()  # what failed here is told; the runs to come are about something else
        if outcome.why and round_id:
            self.site.give_up(round_id)
        mend_clocks(self.site)
        return outcome

    def _roll_back(self) -> None:
        """Let the base answer again: the same weights would be taken for the old ones still serving."""
        # It may just have been killed at the end of the run before, and a version that does not answer cannot go live.
        self.site.wait_for_answers()
        if self.site.live_number():
            self.client.post("/projects/letters/rollback/").raise_for_status()
        assert self.site.live_number() == 0, "the base does not serve"

    def _strike(self, round_id: str, blow: Blow, moment: Moment, outcome: Outcome) -> None:
        self.site.wait_for_step(round_id, moment.step, ENDS_WITHIN_S)
        time.sleep(moment.after_s)
        blow(self.site, round_id)
        self.site.wait_for_restart()
        restarted = time.monotonic()
        wait_until(lambda: self.site.is_held(round_id), RECOVERS_WITHIN_S, "a worker has the round again")
        outcome.recovery_s.append(round(time.monotonic() - restarted, 1))

    def _judge(self, round_id: str, outcome: Outcome) -> None:
        if problems := self.site.problems_after(round_id):
            outcome.why = "; ".join(problems)
            return
        found = result_of(self.site.stack, self.client, round_id)
        if found != self.expected:
            differs = [key for key in self.expected if found.get(key) != self.expected[key]]
            outcome.why = f"not the undisturbed result: {', '.join(differs)}"


def main() -> int:
    """Run it; exit code 1 where anything did not hold."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.kills", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--runs", type=int, default=RUNS)
    parser.add_argument("--seed", type=int, default=0, help="of the first run; the others follow it")
    given = parser.parse_args()
    outcomes = []
    with run_stack(lambda path: make_tiny_policy(path, seed=3)) as stack:
        site = Site(stack)
        with site.client(_make_project(site)) as client:
            import_judged_rows(client)
            series = Series(site, client)
            say(f"undisturbed: {series.undisturbed_s:.1f} s")
            for seed in range(given.seed, given.seed + given.runs):
                outcome = series.run(seed)
                outcomes.append(outcome)
                say(f"seed {seed}: {outcome.why or 'held'} ({outcome.plan}; {outcome.seconds:.0f} s, recovered after "
                    f"{outcome.recovery_s} s)")  # fmt: skip
    print(json.dumps(summary(outcomes, series.undisturbed_s)), flush=True)
    return 1 if any(outcome.why for outcome in outcomes) else 0


def say(line: str) -> None:
    """Say how it goes, beside the one line of the result."""
    print(line, file=sys.stderr, flush=True)


def _make_project(site: Site) -> str:
    with tempfile.TemporaryDirectory() as folder:
        recipe = Path(folder) / "recipe.toml"
        recipe.write_text(RECIPE)
        site.stack.manage("create_project", "letters")
        token = site.stack.manage("create_user", "boss", "--project", "letters", "--role", "manager")
        site.stack.manage("set_recipe", "letters", str(recipe))
    return token


def summary(outcomes: list[Outcome], undisturbed_s: float) -> dict[str, Any]:
    """Return what the runs came to."""
    recovery = [seconds for outcome in outcomes for seconds in outcome.recovery_s]
    return {
        "benchmark": "kills", "runs": len(outcomes), "held": sum(not outcome.why for outcome in outcomes),
        "undisturbed_s": round(undisturbed_s, 1), "blows": len(recovery),
        "recovery_s": {"median": median(recovery), "max": max(recovery)} if recovery else {},
        "failed": [{"seed": o.seed, "plan": o.plan, "why": o.why} for o in outcomes if o.why],
    }  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
