"""Many at once, on connections of their own: overlap holds, no place is lost, one verdict is stored once."""

import random
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from typing import TypeVar

import pytest
from django.db import connection, connections

from feedback_app.accounts.models import User
from feedback_app.annotation.errors import VerdictDiffers
from feedback_app.annotation.models import Assignment, Judgment, Task
from feedback_app.annotation.services import expire_reservations, next_task, skip, submit_judgment
from feedback_app.projects.models import Project
from tests.factories import canonical_ids, make_project, make_tasks, make_user

pytestmark = pytest.mark.django_db(transaction=True)

THREADS = 18
Answer = TypeVar("Answer")


@pytest.fixture(autouse=True)
def _connections() -> Iterator[None]:
    """Give every thread a connection: the pool of the settings holds fewer."""
    options = connection.settings_dict["OPTIONS"]
    before = options["pool"]
    _close_pool()
    options["pool"] = {**before, "max_size": THREADS + 2}
    yield
    _close_pool()
    options["pool"] = before


def _close_pool() -> None:
    connection.close()
    connection.close_pool()  # type: ignore[attr-defined]  # PostgreSQL's connection has it


def at_once(act: Callable[[int], Answer], number: int = THREADS) -> list[Answer]:
    """Run act in threads that start together, each on its own connection."""
    barrier = Barrier(number)

    def run(index: int) -> Answer:
        try:
            barrier.wait(30)
            return act(index)
        finally:
            connections.close_all()

    with ThreadPoolExecutor(number) as pool:
        return list(pool.map(run, range(number)))


def judge_all(project: Project, annotator: User, *, skips: float = 0.0, seed: int = 0) -> int:
    """Judge what comes until nothing does, or skip it; returns how many were judged."""
    chance, judged = random.Random(seed), 0
    while found := next_task(project=project, annotator=annotator):
        if chance.random() < skips:
            skip(task_id=found.id, annotator=annotator)
        else:
            ranking = [[response["id"]] for response in found.responses]
            submit_judgment(task_id=found.id, annotator=annotator, body={"ranking": ranking})
            judged += 1
    return judged


def test_eighteen_annotators_fill_every_place_and_none_twice() -> None:
    project = make_project(overlap=3)
    tasks = make_tasks(project, 40)
    annotators = [make_user(project) for _ in range(THREADS)]
    judged = at_once(lambda index: judge_all(project, annotators[index]))
    # 40 tasks of 3 places: whoever found nothing to do found every place taken or held.
    assert sum(judged) == 120
    assert set(Task.objects.values_list("reserved", "counted", "open")) == {(0, 3, False)}
    given = Counter(Assignment.objects.values_list("task_id", "annotator_id"))
    assert set(given.values()) == {1}
    assert {task for task, _annotator in given} == {task.pk for task in tasks}


def test_one_place_and_eighteen_who_want_it() -> None:
    project = make_project(overlap=1)
    make_tasks(project, 1)
    annotators = [make_user(project) for _ in range(THREADS)]
    found = at_once(lambda index: next_task(project=project, annotator=annotators[index]))
    assert sum(task is not None for task in found) == 1


def test_a_task_with_a_place_for_each_is_found_by_each_though_the_others_lock_it() -> None:
    project = make_project(overlap=THREADS)
    [task] = make_tasks(project, 1)
    annotators = [make_user(project) for _ in range(THREADS)]
    found = at_once(lambda index: next_task(project=project, annotator=annotators[index]))
    assert [answer and answer.id for answer in found] == [task.pk] * THREADS


def test_places_that_were_skipped_or_ran_out_are_filled_by_others() -> None:
    project = make_project(overlap=2)
    make_tasks(project, 20)
    annotators = [make_user(project) for _ in range(THREADS)]

    def act(index: int) -> int:
        if index == 0:
            return sum(expire_reservations() for _ in range(30))  # beside the others, and to no harm
        return judge_all(project, annotators[index], skips=0.4 if index % 2 else 0.0, seed=index)

    at_once(act)
    # Somebody may have left while a skipper still held a place; one who comes later finds it.
    latecomers = [make_user(project) for _ in range(2)]
    for latecomer in latecomers:
        judge_all(project, latecomer)
    assert set(Task.objects.values_list("reserved", "counted")) == {(0, 2)}


def test_two_tabs_and_more_never_hold_a_third_task() -> None:
    project = make_project()
    make_tasks(project, THREADS)
    annotator = make_user(project)
    first = next_task(project=project, annotator=annotator)
    assert first is not None
    at_once(lambda _index: next_task(project=project, annotator=annotator, hold=[first.assignment_id]))
    assert Assignment.objects.count() == 2


def test_a_verdict_sent_many_times_at_once_is_stored_once_and_answered_alike() -> None:
    project = make_project()
    [task] = make_tasks(project, 1)
    annotator = make_user(project)
    next_task(project=project, annotator=annotator)
    body = {"ranking": [canonical_ids(task)]}
    answers = at_once(
        lambda index: submit_judgment(
            task_id=task.pk, annotator=annotator, body=body, idempotency_key="k" if index % 2 else ""
        )
    )
    assert all(answer == answers[0] for answer in answers)
    assert Judgment.objects.count() == 1


def test_one_key_on_two_tasks_at_once_is_taken_by_one_of_them() -> None:
    project = make_project()
    tasks = make_tasks(project, 2)
    annotator = make_user(project)
    first = next_task(project=project, annotator=annotator)
    assert first is not None
    next_task(project=project, annotator=annotator, hold=[first.assignment_id])

    def act(index: int) -> str:
        body = {"ranking": [canonical_ids(tasks[index])]}
        try:
            return str(
                submit_judgment(task_id=tasks[index].pk, annotator=annotator, body=body, idempotency_key="k")["id"]
            )
        except VerdictDiffers:
            return "409"

    answers = at_once(act, 2)
    assert answers.count("409") == 1
    assert Judgment.objects.count() == 1
