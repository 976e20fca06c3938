"""Whatever annotators do, in whatever order: overlap holds, no place or work is lost, nobody meets a task twice."""

from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest
from django.utils import timezone
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from feedback_app.accounts.models import User
from feedback_app.annotation.errors import ReservationEnded
from feedback_app.annotation.models import Assignment, Judgment, Task
from feedback_app.annotation.services import (
    expire_reservations,
    next_task,
    renew,
    save_draft,
    set_overlap,
    set_priority,
    skip,
    submit_judgment,
    void_judgments,
)
from tests.factories import canonical_ids, make_project, make_tasks, make_user

pytestmark = pytest.mark.django_db

PEOPLE = st.integers(0, 3)
PICK = st.integers(0, 1000)


class Judging(RuleBasedStateMachine):
    """Four annotators and a few tasks; the model is the set of pairs that were given, and the verdicts sent."""

    @initialize(overlap=st.integers(1, 3), tasks=st.integers(1, 4), urgent=st.integers(0, 2))
    def begin(self, overlap: int, tasks: int, urgent: int) -> None:
        self.project = make_project(overlap=overlap)
        self.people = [make_user(self.project) for _ in range(4)]
        self.tasks = make_tasks(self.project, tasks) + make_tasks(self.project, urgent, priority=1)
        self.ids = {task.pk: canonical_ids(task) for task in self.tasks}
        self.given: set[tuple[UUID, int]] = set()
        self.verdicts: dict[tuple[UUID, int], dict[str, Any]] = {}

    def live(self, person: User) -> list[Assignment]:
        return list(
            Assignment.objects.filter(annotator=person, state="reserved", expires_at__gt=timezone.now()).order_by(
                "created_at"
            )
        )

    def fitting(self, person: User) -> list[Task]:
        """What this annotator could be given, places of reservations that have run out included."""
        found = []
        for task in Task.objects.filter(project=self.project, state="active"):
            live = task.assignments.filter(state="reserved", expires_at__gt=timezone.now()).count()
            if (task.pk, person.pk) not in self.given and live + task.counted < (task.overlap or 0):
                found.append(task)
        return found

    @rule(who=PEOPLE, hold=st.booleans())
    def take(self, who: int, hold: bool) -> None:
        person = self.people[who]
        live, open_now = self.live(person), Task.objects.filter(pk__in=[t.pk for t in self.fitting(person)], open=True)
        top = max((task.priority for task in open_now), default=None)
        fitting = self.fitting(person)
        found = next_task(project=self.project, annotator=person, hold=[a.pk for a in live] if hold else [])
        if live and not hold:
            assert found is not None
            assert found.assignment_id == live[0].pk
        elif len(live) >= 2 or not fitting:
            assert found is None
        else:
            assert found is not None, "a place was lost"
            assert (found.id, person.pk) not in self.given, "met twice"
            if top is not None:
                assert Task.objects.get(pk=found.id).priority == top
            self.given.add((found.id, person.pk))

    def chosen(self, pick: int, *states: str) -> Assignment | None:
        found = list(Assignment.objects.filter(task__project=self.project, state__in=states).order_by("created_at"))
        return found[pick % len(found)] if found else None

    @rule(pick=PICK, tie=st.booleans())
    def submit(self, pick: int, tie: bool) -> None:
        """Of a reservation, one that ran out, or a skipped one: late verdicts are work too."""
        if a := self.chosen(pick, "reserved", "expired", "skipped"):
            first, second = self.ids[a.task_id]
            body = {"ranking": [[first, second]] if tie else [[first], [second]]}
            task = Task.objects.get(pk=a.task_id)
            free = a.state == "reserved" or task.reserved + task.counted < (task.overlap or 0)
            stored = submit_judgment(task_id=a.task_id, annotator=a.annotator, body=body)
            assert stored["surplus"] is not free
            self.verdicts[a.task_id, a.annotator_id] = body

    @rule(pick=PICK)
    def submit_again(self, pick: int) -> None:
        if a := self.chosen(pick, "submitted"):
            before = Judgment.objects.count()
            submit_judgment(task_id=a.task_id, annotator=a.annotator, body=self.verdicts[a.task_id, a.annotator_id])
            assert Judgment.objects.count() == before

    @rule(pick=PICK)
    def give_up(self, pick: int) -> None:
        if a := self.chosen(pick, "reserved", "expired"):
            skip(task_id=a.task_id, annotator=a.annotator)

    @rule(pick=PICK)
    def beat(self, pick: int) -> None:
        if a := self.chosen(pick, "reserved", "expired", "skipped"):
            if a.state == "reserved":
                renew(task_id=a.task_id, annotator=a.annotator)
                assert Assignment.objects.filter(pk=a.pk, expires_at__gt=timezone.now()).exists()
            else:
                with pytest.raises(ReservationEnded):
                    renew(task_id=a.task_id, annotator=a.annotator)

    @rule(pick=PICK)
    def draft(self, pick: int) -> None:
        if a := self.chosen(pick, "reserved", "expired"):
            save_draft(task_id=a.task_id, annotator=a.annotator, draft={"rationale": "so far"})

    @rule(pick=PICK, sweep=st.booleans())
    def run_out(self, pick: int, sweep: bool) -> None:
        if a := self.chosen(pick, "reserved"):
            Assignment.objects.filter(pk=a.pk).update(expires_at=timezone.now() - timedelta(hours=1))
        if sweep:
            expire_reservations()
            assert not Assignment.objects.filter(state="reserved", expires_at__lt=timezone.now()).exists()

    @precondition(lambda self: self.verdicts)
    @rule(pick=PICK)
    def void(self, pick: int) -> None:
        judgments = list(Judgment.objects.filter(project=self.project).order_by("created_at", "id"))
        void_judgments(
            project=self.project, voided_by=None, reason="a try", judgments=[judgments[pick % len(judgments)].pk]
        )

    @rule(pick=PICK, overlap=st.integers(1, 4))
    def change_overlap(self, pick: int, overlap: int) -> None:
        task = Task.objects.filter(pk=self.tasks[pick % len(self.tasks)].pk)
        set_overlap(project=self.project, tasks=task, overlap=overlap, changed_by=None)

    @rule(pick=PICK, priority=st.integers(-1, 1))
    def change_priority(self, pick: int, priority: int) -> None:
        task = Task.objects.filter(pk=self.tasks[pick % len(self.tasks)].pk)
        set_priority(project=self.project, tasks=task, priority=priority, changed_by=None)

    @invariant()
    def the_tables_agree(self) -> None:
        for task in Task.objects.filter(project=self.project):
            assert task.reserved == task.assignments.filter(state="reserved").count()
            assert task.counted == task.judgments.filter(surplus=False, voided_at=None).count()
            assert task.overlap is not None
            assert task.reserved + task.counted <= task.overlap
            assert task.open == (task.reserved + task.counted < task.overlap)
        assert Assignment.objects.filter(task__project=self.project).count() == len(self.given)
        assert Judgment.objects.filter(project=self.project).count() == len(self.verdicts), "work was thrown away"
        for person in self.people:
            assert len(self.live(person)) <= 2


def test_any_order_of_acts_keeps_the_promises_of_the_queue() -> None:
    run_state_machine_as_test(
        Judging,
        settings=settings(
            max_examples=30, stateful_step_count=25, deadline=None, suppress_health_check=list(HealthCheck)
        ),
    )  # fmt: skip
