"""Reservations that run out, verdicts that come late, and time that is counted only while somebody is there."""

from datetime import timedelta

import pytest
from django.utils import timezone

from feedback_app.annotation.errors import ReservationEnded
from feedback_app.annotation.models import AnnotatorPosition, Assignment, Judgment, Task
from feedback_app.annotation.services import expire_reservations, next_task, renew, save_draft, submit_judgment
from feedback_app.projects.services import publish_guidelines
from tests.factories import canonical_ids, make_judgment, make_project, make_task, make_tasks, make_user

pytestmark = pytest.mark.django_db


def let_run_out() -> None:
    Assignment.objects.filter(state="reserved").update(expires_at=timezone.now() - timedelta(seconds=1))


def test_a_reservation_that_ran_out_goes_to_somebody_else_without_anybody_sweeping() -> None:
    project = make_project()
    task = make_task(project)
    next_task(project=project, annotator=make_user(project))
    let_run_out()
    found = next_task(project=project, annotator=make_user(project))
    assert found is not None
    assert found.id == task.pk


def test_a_late_verdict_counts_while_a_place_is_free() -> None:
    project = make_project()
    task = make_task(project)
    annotator = make_user(project)
    next_task(project=project, annotator=annotator)
    let_run_out()
    assert expire_reservations() == 1
    stored = submit_judgment(task_id=task.pk, annotator=annotator, body={"ranking": [canonical_ids(task)]})
    task.refresh_from_db()
    assert (stored["surplus"], task.reserved, task.counted, task.open) == (False, 0, 1, False)


def test_a_late_verdict_is_kept_as_surplus_when_the_place_is_taken() -> None:
    project = make_project()
    task = make_task(project)
    late = make_user(project)
    next_task(project=project, annotator=late)
    let_run_out()
    make_judgment(task, make_user(project))
    stored = submit_judgment(task_id=task.pk, annotator=late, body={"ranking": [canonical_ids(task)]})
    task.refresh_from_db()
    assert (stored["surplus"], task.reserved, task.counted) == (True, 0, 1)
    assert Judgment.objects.filter(annotator=late, surplus=True).exists()


def test_a_verdict_in_time_for_an_unswept_reservation_still_has_its_place() -> None:
    project = make_project()
    task = make_task(project)
    annotator = make_user(project)
    next_task(project=project, annotator=annotator)
    let_run_out()
    stored = submit_judgment(task_id=task.pk, annotator=annotator, body={"ranking": [canonical_ids(task)]})
    assert stored["surplus"] is False


def test_a_draft_outlives_its_reservation() -> None:
    project = make_project()
    task = make_task(project)
    annotator = make_user(project)
    next_task(project=project, annotator=annotator)
    let_run_out()
    expire_reservations()
    save_draft(task_id=task.pk, annotator=annotator, draft={"rationale": "long thought"})
    assert Assignment.objects.get().draft == {"rationale": "long thought"}
    with pytest.raises(ReservationEnded):
        renew(task_id=task.pk, annotator=annotator)


def test_a_reopened_task_is_found_by_one_whose_position_has_passed_it() -> None:
    project = make_project()
    tasks = make_tasks(project, 40)
    sleeper, worker = make_user(project), make_user(project)
    next_task(project=project, annotator=sleeper)  # holds the first
    for task in tasks[1:-1]:
        make_judgment(task, worker)
    # The position is written in steps of 16; it has passed the first task, or this would test nothing.
    assert AnnotatorPosition.objects.get(annotator=worker).position > Task.objects.get(pk=tasks[0].pk).position
    let_run_out()
    expire_reservations()
    make_judgment(tasks[-1], worker)
    make_judgment(tasks[0], worker)  # moved to the end when it opened again
    assert next_task(project=project, annotator=worker) is None


def test_a_row_that_was_committed_out_of_sequence_is_found_before_nothing_to_do() -> None:
    project = make_project()
    worker = make_user(project)
    [task] = make_tasks(project, 1)
    # As if others had passed by while the row was not yet visible.
    AnnotatorPosition.objects.create(project=project, annotator=worker, priority=0, position=task_position(task) + 100)
    make_judgment(task, worker)
    assert AnnotatorPosition.objects.get().position < task_position(task)  # put right


def task_position(task: Task) -> int:
    return Task.objects.values_list("position", flat=True).get(pk=task.pk)


def test_active_time_is_bounded_by_heartbeats() -> None:
    project = make_project()
    task = make_task(project)
    annotator = make_user(project)
    next_task(project=project, annotator=annotator)
    hour_ago = timezone.now() - timedelta(hours=1)
    Assignment.objects.update(last_seen_at=hour_ago)
    renew(task_id=task.pk, annotator=annotator)  # nobody was there for that hour: a minute at the most
    assert Assignment.objects.get().active_seconds == 60
    Assignment.objects.update(last_seen_at=timezone.now() - timedelta(seconds=10))
    stored = submit_judgment(
        task_id=task.pk, annotator=annotator, body={"ranking": [canonical_ids(task)], "lead_time": 3600}
    )
    judgment = Judgment.objects.get(pk=stored["id"])
    assert judgment.lead_time == 3600  # as the page measured it
    assert judgment.active_seconds == pytest.approx(70, abs=5)


def test_an_assignment_is_pinned_to_the_guidelines_of_its_day() -> None:
    project = make_project(guidelines="first")
    first = project.guidelines
    task = make_task(project)
    annotator = make_user(project)
    next_task(project=project, annotator=annotator)
    publish_guidelines(project=project, text="second")
    submit_judgment(task_id=task.pk, annotator=annotator, body={"ranking": [canonical_ids(task)]})
    assert Judgment.objects.get().assignment.guidelines == first
