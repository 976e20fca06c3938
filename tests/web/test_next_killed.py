"""32 real connections, some killed in mid-transaction: overlap holds, no place and no stored verdict is lost."""

import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from random import Random
from threading import Event
from typing import Any
from uuid import UUID

import psycopg
import pytest
from django.db import DatabaseError, connection, connections

from feedback_app.accounts.models import User
from feedback_app.annotation.models import Assignment, Judgment, Task
from feedback_app.annotation.services import next_task, skip, submit_judgment
from feedback_app.projects.models import Project
from tests.factories import make_project, make_tasks, make_user

pytestmark = pytest.mark.django_db(transaction=True)

PEOPLE = 32
TASKS = 60
OVERLAP = 4
SKIPPED = 0.1


@pytest.fixture(autouse=True)
def _own_connections() -> Iterator[None]:
    """Give every thread a connection of its own, without the pool: a killed one must not be another's."""
    options = connection.settings_dict["OPTIONS"]
    before = options.pop("pool")
    connection.close()
    yield
    connection.close()
    options["pool"] = before


def dsn() -> str:
    """Return the test database's address for a connection that Django knows nothing of."""
    known = {name: connection.get_connection_params().get(name) for name in ("dbname", "user", "host", "port")}
    return psycopg.conninfo.make_conninfo(**{name: value for name, value in known.items() if value})


class Person:
    """Judges until nothing is left, whatever happens to the connection; knows what was answered as stored."""

    def __init__(self, project: Project, user: User, seed: int) -> None:
        self.project, self.user, self.chance = project, user, Random(seed)
        self.stored: list[UUID] = []
        self.killed = 0

    def work(self) -> None:
        try:
            while self._one():
                pass
        finally:
            connections.close_all()

    def _one(self) -> bool:
        """Take a task and finish it; False where nothing is left."""
        found = self._again(lambda: next_task(project=self.project, annotator=self.user))
        if found is None:
            return False
        if self.chance.random() < SKIPPED:
            self._again(lambda: skip(task_id=found.id, annotator=self.user))
            return True
        ids = [response["id"] for response in found.responses]
        body = {"ranking": [[pk] for pk in sorted(ids)]}
        key = f"{self.user.pk}-{found.id}"
        answer = self._again(
            lambda: submit_judgment(task_id=found.id, annotator=self.user, body=body, idempotency_key=key)
        )
        self.stored.append(UUID(answer["id"]))
        return True

    def _again(self, act: Any) -> Any:
        """Repeat what a killed connection cut off, as a page does."""
        while True:
            try:
                return act()
            except DatabaseError:
                self.killed += 1
                connection.close()


def kill_some(address: str, database: str, stop: Event) -> int:
    """End connections that stand in the middle of a transaction, at random, until told to stop; returns how many."""
    chance, killed = Random(5), 0
    with psycopg.connect(address, autocommit=True) as own:
        while not stop.is_set():
            found = own.execute(
                "SELECT pid FROM pg_stat_activity WHERE datname = %s AND pid <> pg_backend_pid()"
                " AND xact_start IS NOT NULL AND backend_type = 'client backend'",
                [database],
            ).fetchall()
            if found:
                killed += bool(own.execute("SELECT pg_terminate_backend(%s)", chance.choice(found)).rowcount)
            time.sleep(0.02)
    return killed


def test_killed_connections_lose_no_place_and_no_verdict() -> None:
    project = make_project(overlap=OVERLAP)
    make_tasks(project, TASKS)
    people = [Person(project, make_user(project), seed) for seed in range(PEOPLE)]
    address, database, stop = dsn(), str(connection.settings_dict["NAME"]), Event()
    with ThreadPoolExecutor(PEOPLE + 1) as threads:
        killer = threads.submit(kill_some, address, database, stop)
        try:
            for done in [threads.submit(person.work) for person in people]:
                done.result(120)
        finally:
            stop.set()
        killed = killer.result(30)
    assert killed > 5
    assert sum(person.killed for person in people) > 0
    # Somebody may have found nothing to do while a killed transaction still held a place; latecomers find what is left.
    for _ in range(OVERLAP):
        latecomer = Person(project, make_user(project), PEOPLE)
        while (found := next_task(project=project, annotator=latecomer.user)) is not None:
            body = {"ranking": [[response["id"]] for response in found.responses]}
            submit_judgment(task_id=found.id, annotator=latecomer.user, body=body)

    # Every place of every task is filled once, and none twice.
    assert set(Task.objects.values_list("reserved", "counted", "open")) == {(0, OVERLAP, False)}
    counted = Counter(Judgment.objects.filter(surplus=False).values_list("task_id", flat=True))
    assert set(counted.values()) == {OVERLAP}
    given = Counter(Assignment.objects.values_list("task_id", "annotator_id"))
    assert set(given.values()) == {1}
    assert Assignment.objects.filter(state="submitted").count() == Judgment.objects.count()
    # What was answered as stored is stored, once each.
    answered = [pk for person in people for pk in person.stored]
    assert len(set(answered)) == len(answered)
    assert set(answered) <= set(Judgment.objects.values_list("id", flat=True))
