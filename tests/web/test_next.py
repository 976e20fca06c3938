"""What an annotator is given next."""

import pytest

from feedback_app.annotation.services import next_task, queue
from tests.factories import make_judgment, make_project, make_tasks, make_user

pytestmark = pytest.mark.django_db


def test_tasks_come_in_order_of_priority_and_then_of_age_and_never_twice() -> None:
    project = make_project()
    annotator = make_user(project)
    old, new = make_tasks(project, 2)
    [urgent] = make_tasks(project, 1, priority=1)
    [lowered] = make_tasks(project, 1, priority=-1)
    for expected in (urgent, old, new, lowered):
        make_judgment(expected, annotator)  # refuses a task other than the next one
    assert next_task(project=project, annotator=annotator) is None


def test_what_every_request_asks_is_short_enough_for_psycopg_to_remember_how_it_is_read() -> None:
    # psycopg._queries.MAX_CACHED_STATEMENT_LENGTH; a longer statement is taken apart anew at each call.
    assert max(len(statement) for statement in (queue._QUICK, queue._WHOLE, queue._WITH_ANSWER, queue._ENTER)) <= 4096
