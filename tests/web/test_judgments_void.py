"""Voiding keeps the row, takes it out of what counts, and gives its place to somebody else."""

from datetime import timedelta

import pytest
from django.core.exceptions import ValidationError
from django.utils import timezone

from feedback_app.accounts.models import AuditEntry
from feedback_app.annotation.errors import VerdictDiffers
from feedback_app.annotation.models import Judgment, Response, Task
from feedback_app.annotation.services import (
    NewResponse,
    archive_tasks,
    create_task,
    next_task,
    restore_tasks,
    retire_untouched_tasks,
    revise_judgment,
    void_judgments,
)
from feedback_app.projects.services import publish_guidelines, publish_protocol
from tests.factories import make_judgment, make_policy, make_project, make_prompt, make_task, make_tasks, make_user

pytestmark = pytest.mark.django_db


def test_a_voided_judgment_stays_and_its_place_goes_to_somebody_new() -> None:
    project = make_project()
    task = make_task(project)
    ann, bob, manager = make_user(project), make_user(project), make_user(project)
    judgment = make_judgment(task, ann)
    voided = void_judgments(project=project, voided_by=manager, reason="asleep", judgments=[judgment.pk])
    assert (voided.judgments, voided.tasks_reopened) == ([judgment.pk], 1)
    judgment.refresh_from_db()
    assert (judgment.voided_by, judgment.void_reason, judgment.ranks) == (manager, "asleep", [0, 1])
    assert AuditEntry.objects.filter(action="judgment.void", actor=manager).count() == 1
    assert next_task(project=project, annotator=ann) is None
    make_judgment(task, bob)
    with pytest.raises(VerdictDiffers):
        revise_judgment(judgment_id=judgment.pk, editor=ann, body={"ranking": []})
    # Voiding it again gives no second place back.
    assert void_judgments(project=project, voided_by=manager, reason="again", judgments=[judgment.pk]).judgments == []
    task.refresh_from_db()
    assert (task.counted, task.open) == (1, False)


def test_judgments_are_chosen_by_person_time_guidelines_and_protocol_together() -> None:
    project = make_project(overlap=1)
    ann, bob = make_user(project), make_user(project)
    first, second, third, fourth = make_tasks(project, 4)
    old = make_judgment(first, ann)
    Judgment.objects.filter(pk=old.pk).update(created_at=timezone.now() - timedelta(days=2))
    guidelines, protocol = project.guidelines, project.protocol
    publish_guidelines(project=project, text="new")
    under_new_guidelines = make_judgment(second, ann)
    publish_protocol(project=project, protocol="pairwise")
    under_new_protocol = make_judgment(third, ann)
    others = make_judgment(fourth, bob)

    def void(**which: object) -> set[object]:
        return set(void_judgments(project=project, voided_by=None, reason="x", **which).judgments)  # type: ignore[arg-type]

    assert void(annotator=ann, guidelines=guidelines, since=timezone.now() - timedelta(days=1)) == set()
    assert void(until=timezone.now() - timedelta(days=1)) == {old.pk}
    assert void(protocol=protocol) == {under_new_guidelines.pk}
    assert void(annotator=ann) == {under_new_protocol.pk}
    assert not Judgment.objects.get(pk=others.pk).voided_at


def test_voiding_without_saying_which_or_why_is_refused() -> None:
    project = make_project()
    for which, field in (({}, "judgments"), ({"judgments": [], "reason": " "}, "reason")):
        with pytest.raises(ValidationError) as caught:
            void_judgments(project=project, voided_by=None, **{"reason": "x", **which})  # type: ignore[arg-type]
        assert list(caught.value.message_dict) == [field]


def test_on_going_live_untouched_tasks_of_old_policies_are_retired_lowered_or_kept() -> None:
    project = make_project(overlap=2)
    old, new = make_policy(project, 0), make_policy(project, 1)
    untouched, started, held = make_tasks(project, 3, policy=old)
    annotator = make_user(project)
    next_task(project=project, annotator=annotator)
    Task.objects.filter(pk=started.pk).update(counted=1)
    fresh, imported = make_task(project, policy=new), make_task(project)
    held_id = Task.objects.get(reserved=1).pk
    old_and_idle = ({untouched.pk, started.pk, held.pk} - {held_id, started.pk}).pop()

    assert retire_untouched_tasks(project=project, older_than_policy=new, how="keep") == 0
    assert retire_untouched_tasks(project=project, older_than_policy=new, how="lower") == 1
    assert list(Task.objects.filter(priority=-1).values_list("pk", flat=True)) == [old_and_idle]
    assert retire_untouched_tasks(project=project, older_than_policy=new) == 1  # the project's setting: retire
    retired = Task.objects.get(state=Task.State.RETIRED)
    assert (retired.pk, retired.open) == (old_and_idle, False)
    assert Task.objects.filter(pk__in=[started.pk, held_id, fresh.pk, imported.pk], state="active").count() == 4


def test_an_archived_task_is_given_to_nobody_until_it_is_restored() -> None:
    project = make_project()
    task = make_task(project)
    tasks = Task.objects.filter(pk=task.pk)
    annotator = make_user(project)
    assert archive_tasks(project=project, tasks=tasks, archived_by=None) == 1
    assert next_task(project=project, annotator=annotator) is None
    assert restore_tasks(project=project, tasks=tasks, restored_by=None) == 1
    make_judgment(task, annotator)


def test_tasks_addressed_to_one_annotator_go_to_nobody_else() -> None:
    project = make_project()
    ann, bob = make_user(project), make_user(project)
    [task] = make_tasks(project, 1, addressed_to=ann)
    assert next_task(project=project, annotator=bob) is None
    make_judgment(task, ann)


def test_a_task_needs_as_many_responses_as_the_protocol_takes() -> None:
    project = make_project()
    prompt = make_prompt(project)
    one = NewResponse(text="x", source=Response.Source.IMPORTED)
    for number in (1, 3):
        with pytest.raises(ValidationError) as caught:
            create_task(prompt=prompt, responses=[one] * number)
        assert list(caught.value.message_dict) == ["responses"]
    assert not Task.objects.exists()
