"""Whatever workers, clocks and people do to rounds: at most one live fence, and every queued round is started."""

from datetime import timedelta

import pytest
from django.utils import timezone
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from feedback_app.rounds.leases import LeaseLost, claim_round, fenced, renew_lease
from feedback_app.rounds.models import Round
from feedback_app.rounds.runner import _end, _leave
from feedback_app.rounds.selectors import waiting_rounds
from feedback_app.rounds.services import (
    RoundRefused,
    approve_round,
    cancel_round,
    pause_round,
    reject_round,
    resume_round,
    retry_round,
    start_round,
)
from feedback_app.rounds.supervisor import Cancelled
from tests.factories import make_judgment, make_project, make_task, make_user

pytestmark = pytest.mark.django_db

State = Round.State
WHO = st.integers(0, 1000)
WAITS = {State.QUEUED, State.PAUSED, State.WAITING_FOR_APPROVAL, State.WAITING_FOR_JUDGMENTS}
OVER = {State.SUCCEEDED, State.REJECTED, State.FAILED, State.CANCELLED}
# What each act of a person does to a round that no worker is in the middle of: from which states, and to which.
MOVES = {
    "resume": (resume_round, "resumed_by", {State.PAUSED: State.QUEUED}),
    "approve": (approve_round, "approved_by", {State.WAITING_FOR_APPROVAL: State.QUEUED}),
    "reject": (reject_round, "rejected_by", {State.WAITING_FOR_APPROVAL: State.REJECTED}),
    "cancel": (cancel_round, "cancelled_by", dict.fromkeys(WAITS, State.CANCELLED) | {State.RUNNING: State.RUNNING}),
    "pause": (pause_round, "paused_by", {State.QUEUED: State.PAUSED, State.RUNNING: State.RUNNING}),
}


class Rounds(RuleBasedStateMachine):
    """One project's rounds; the model is each round's state, who holds the newest fence, and whether the lease ran out.

    Workers are what they hold: a round as it was when they claimed it. An old one never learns that it is old.
    """

    @initialize()
    def begin(self) -> None:
        self.project = make_project()
        make_judgment(make_task(self.project), make_user(self.project))
        self.workers: list[Round] = []
        self.states: dict[object, State] = {}
        self.expired = False
        self.asked: set[object] = set()  # rounds whose end a person asked for while a worker had them
        self.start()

    def current(self) -> Round:
        newest = Round.objects.filter(project=self.project).first()
        assert newest is not None
        return newest

    def is_live(self, worker: Round) -> bool:
        newest = max(other.fence for other in self.workers if other.pk == worker.pk)
        return worker.fence == newest and self.states[worker.pk] == State.RUNNING

    @rule()
    def start(self) -> None:
        if any(state not in OVER for state in self.states.values()):
            with pytest.raises(RoundRefused, match="active already"):
                start_round(project=self.project)
        else:
            self.states[start_round(project=self.project).pk] = State.QUEUED

    @rule(doubled=st.booleans())
    def ring(self, doubled: bool) -> None:
        """A bell rings, perhaps twice: at most one worker gets the round."""
        held = self.current()
        free = self.states[held.pk] == State.QUEUED or (self.states[held.pk] == State.RUNNING and self.expired)
        claimed = [got for got in (claim_round(round_id=held.pk) for _ in range(1 + doubled)) if got is not None]
        assert len(claimed) == int(free)
        if claimed:
            self.workers += claimed
            self.states[held.pk], self.expired = State.RUNNING, False

    @rule()
    def die(self) -> None:
        """The worker falls silent, and its lease runs out."""
        held = self.current()
        if self.states[held.pk] == State.RUNNING:
            Round.objects.filter(pk=held.pk).update(lease_until=timezone.now() - timedelta(seconds=1))
            self.expired = True

    @rule(who=WHO)
    def renew(self, who: int) -> None:
        if not self.workers:
            return
        worker = self.workers[who % len(self.workers)]
        if self.is_live(worker):
            renew_lease(round_id=worker.pk, fence=worker.fence)
            self.expired = False
        else:
            with pytest.raises(LeaseLost):
                renew_lease(round_id=worker.pk, fence=worker.fence)

    @rule(who=WHO)
    def write(self, who: int) -> None:
        if not self.workers:
            return
        worker = self.workers[who % len(self.workers)]
        if self.is_live(worker):
            with fenced(round_id=worker.pk, fence=worker.fence) as locked:
                locked.gate = {"by": worker.fence}
                locked.save(update_fields=["gate"])
        else:
            with pytest.raises(LeaseLost), fenced(round_id=worker.pk, fence=worker.fence):
                raise AssertionError("a stale fence was let in")

    @rule(who=WHO, state=st.sampled_from(sorted(OVER)))
    def end(self, who: int, state: State) -> None:
        """A worker comes to an end; a stale one's end is nobody's."""
        if self.workers:
            worker = self.workers[who % len(self.workers)]
            live = self.is_live(worker)
            _end(worker, state, "")
            if live:
                self.states[worker.pk] = state

    @rule(who=WHO, state=st.sampled_from([State.PAUSED, State.WAITING_FOR_APPROVAL]))
    def leave(self, who: int, state: State) -> None:
        if not self.workers:
            return
        worker = self.workers[who % len(self.workers)]
        if self.is_live(worker) and worker.pk in self.asked:
            with pytest.raises(Cancelled):  # it must not wait for somebody: it has yet to end
                _leave(worker, state)
        elif self.is_live(worker):
            _leave(worker, state)
            self.states[worker.pk] = state
        else:
            with pytest.raises(LeaseLost):
                _leave(worker, state)

    @rule(act=st.sampled_from(sorted(MOVES)))
    def steer(self, act: str) -> None:
        held = self.current()
        move, by, allowed = MOVES[act]
        before = self.states[held.pk]
        if before in allowed:
            if act == "cancel" and before == State.RUNNING:
                self.asked.add(held.pk)
            move(round_id=held.pk, **{by: None})  # type: ignore[operator]  # each has an argument of its own for who
            self.states[held.pk] = allowed[before]
        else:
            with pytest.raises(RoundRefused):
                move(round_id=held.pk, **{by: None})  # type: ignore[operator]

    @rule()
    def retry(self) -> None:
        held = self.current()
        if self.states[held.pk] in {State.FAILED, State.CANCELLED, State.REJECTED}:
            retry_round(round_id=held.pk, retried_by=None)
            self.asked.discard(held.pk)
            self.states[held.pk] = State.QUEUED
        else:
            with pytest.raises(RoundRefused):
                retry_round(round_id=held.pk, retried_by=None)

    @invariant()
    def the_rows_are_as_the_model_says(self) -> None:
        rows = list(Round.objects.filter(project=self.project))
        assert {row.pk: row.state for row in rows} == self.states
        assert sum(row.state in Round.ACTIVE for row in rows) <= 1
        assert sum(self.is_live(worker) for worker in self.workers) <= 1
        for row in rows:
            # No lease is held while a round waits or is over, and an old fence has never written past a newer one.
            assert (row.lease_until is not None) == (row.state == State.RUNNING)
            assert row.gate.get("by", 0) <= row.fence

    def teardown(self) -> None:
        """Every queued round is started in the end: the tick finds it, however many bells were lost."""
        if not hasattr(self, "states"):
            return
        held = self.current()
        waits = self.states[held.pk] == State.QUEUED or (self.states[held.pk] == State.RUNNING and self.expired)
        assert (held.pk in waiting_rounds()) == waits
        if waits:
            assert claim_round(round_id=held.pk) is not None
            assert held.pk not in waiting_rounds()


def test_any_order_of_acts_keeps_the_promises_of_rounds() -> None:
    run_state_machine_as_test(
        Rounds,
        settings=settings(
            max_examples=40, stateful_step_count=25, deadline=None, suppress_health_check=list(HealthCheck)
        ),
    )  # fmt: skip
