"""Gold, qualification and repeats: mixed in unseen, scored, and acted on by the project's rules."""

from datetime import timedelta
from typing import Any

import psycopg
import pytest
from django.utils import timezone

from feedback_app.accounts.models import User
from feedback_app.annotation.comparisons import gold_agreement, pair_agreement, rating_agreement
from feedback_app.annotation.errors import LimitReached, MemberPaused
from feedback_app.annotation.models import Check, Judgment, Task
from feedback_app.annotation.services import make_gold, next_task, submit_judgment
from feedback_app.annotation.services.queue import ReservedTask
from feedback_app.projects.models import Member, Project
from feedback_app.projects.services import set_languages, update_settings
from tests.factories import canonical_ids, make_judgment, make_project, make_task, make_tasks, make_user

pytestmark = pytest.mark.django_db


def judge(task: ReservedTask, annotator: User, best: str) -> dict[str, Any]:
    """Submit that the response with a text is the better one of two."""
    ids = sorted(task.responses, key=lambda response: response["text"] != best)
    return submit_judgment(
        task_id=task.id, annotator=annotator, body={"ranking": [[response["id"]] for response in ids]}
    )


def gold_of(project: Project, number: int, kind: Task.Kind = Task.Kind.GOLD) -> list[Task]:
    """Make tasks with a known answer: "First." is better than "Second."."""
    return [
        make_gold(
            task=task, verdict={"ranking": [[pk] for pk in canonical_ids(task)]}, kind=kind, made_by=None
        )
        for task in make_tasks(project, number)
    ]  # fmt: skip


def test_agreement_counts_pairs_that_say_the_same() -> None:
    # a: 0 over 1, 0 over 2, 1 ties 2. b: 0 over 1, 2 over 0, 2 over 1: one pair of three is the same.
    assert pair_agreement([0, 1, 1], [1, 2, 0]) == pytest.approx(1 / 3)
    assert pair_agreement([0, None], [0, 1]) is None


def test_gold_counts_a_pair_left_unranked_as_missed() -> None:
    # Expected: 0 over 1, 0 over 2, 1 over 2; said: 0 over 1 alone.
    assert gold_agreement([0, 1, None], [0, 1, 2]) == pytest.approx(1 / 3)
    assert gold_agreement([0, 1], [None, None]) is None


def test_a_rating_is_met_within_the_tolerance() -> None:
    expected = {"r": {"helpfulness": 3, "verbosity": 0}}
    assert rating_agreement({"r": {"helpfulness": 4, "verbosity": 2}}, expected, 1) == 0.5
    assert rating_agreement({}, expected, 1) == 0.0


def test_gold_comes_by_its_share_once_each_and_looks_like_any_task() -> None:
    project = make_project(gold_share=1.0)
    annotator = make_user(project)
    gold = {task.pk for task in gold_of(project, 2)}
    normal = make_task(project)
    first = next_task(project=project, annotator=annotator)
    assert first is not None
    assert first.id in gold
    judge(first, annotator, "First.")
    second = next_task(project=project, annotator=annotator)
    assert second is not None
    assert second.id == (gold - {first.id}).pop()
    judge(second, annotator, "Second.")
    third = next_task(project=project, annotator=annotator)
    assert third is not None
    assert third.id == normal.pk
    assert set(first.as_json()) == set(third.as_json())
    assert list(Check.objects.order_by("pk").values_list("kind", "score")) == [("gold", 1.0), ("gold", 0.0)]


def test_gold_is_never_served_where_its_share_is_nothing_nor_where_nothing_else_waits() -> None:
    project = make_project()
    gold_of(project, 1)
    annotator = make_user(project)
    assert next_task(project=project, annotator=annotator) is None
    update_settings(project=project, changed_by=None, gold_share=1.0)
    assert next_task(project=project, annotator=annotator) is None  # alone, it would show what it is
    normal = make_task(project)
    gold = next_task(project=project, annotator=annotator)
    assert gold is not None
    assert gold.id != normal.pk
    # A reload answers the task that is held, and no second one in its place.
    again = next_task(project=project, annotator=annotator)
    assert again is not None
    assert again.id == gold.id


def test_who_met_a_prompt_does_not_get_it_as_gold() -> None:
    project = make_project(gold_share=1.0)
    annotator = make_user(project)
    task = make_task(project)
    make_judgment(task, annotator)
    make_gold(
        task=task, verdict={"ranking": [[pk] for pk in canonical_ids(task)]}, kind=Task.Kind.GOLD, made_by=None
    )  # fmt: skip
    assert next_task(project=project, annotator=annotator) is None


def test_a_task_made_gold_leaves_the_queue_so_that_nobody_meets_both() -> None:
    project = make_project(overlap=2)
    task = make_task(project)
    make_judgment(task, make_user(project))
    make_gold(
        task=task, verdict={"ranking": [[pk] for pk in canonical_ids(task)]}, kind=Task.Kind.GOLD, made_by=None
    )  # fmt: skip
    task.refresh_from_db()
    assert (task.state, task.open) == (Task.State.ARCHIVED, False)


def test_failing_gold_pauses_with_the_reason_after_so_many() -> None:
    project = make_project(gold_share=1.0, pause_gold_below=0.7, pause_after=3)
    annotator = make_user(project)
    gold_of(project, 4)
    make_task(project)  # gold comes in place of another task
    for best in ("First.", "Second.", "Second."):  # 1 of 3 right: 33 %
        task = next_task(project=project, annotator=annotator)
        assert task is not None
        judge(task, annotator, best)
    member = Member.objects.get(project=project, user=annotator)
    assert member.paused_at is not None
    assert "33 %" in member.pause_reason
    with pytest.raises(MemberPaused, match="33 %"):
        next_task(project=project, annotator=annotator)


def test_a_verdict_on_gold_or_a_plain_task_takes_the_same_statements(monkeypatch: pytest.MonkeyPatch) -> None:
    project = make_project(gold_share=1.0, pause_gold_below=0.1, pause_after=3)
    annotator = make_user(project)
    gold_of(project, 2)
    make_task(project)
    execute, sent = psycopg.Cursor.execute, list[str]()

    def noted(cursor: Any, statement: Any, *values: Any, **more: Any) -> Any:
        sent.append(str(statement))
        return execute(cursor, statement, *values, **more)

    monkeypatch.setattr(psycopg.Cursor, "execute", noted)
    taken = []
    for _ in range(3):  # two of gold in place of the plain one, and it
        task = next_task(project=project, annotator=annotator)
        assert task is not None
        sent.clear()
        judge(task, annotator, "First.")
        taken.append([statement.split('"')[0] for statement in sent])  # without the savepoint's name
    assert list(Check.objects.values_list("kind", "score")) == [("gold", 1.0)] * 2
    assert len(taken[0]) > 2
    assert taken[0] == taken[1] == taken[2]


def test_a_rule_says_nothing_before_there_are_so_many() -> None:
    project = make_project(gold_share=1.0, pause_gold_below=0.7, pause_after=3)
    annotator = make_user(project)
    gold_of(project, 2)
    make_task(project)
    for _ in range(2):
        task = next_task(project=project, annotator=annotator)
        assert task is not None
        judge(task, annotator, "Second.")
    assert Member.objects.get(user=annotator).paused_at is None


def test_judging_too_quickly_pauses() -> None:
    project = make_project(gold_share=1.0, pause_seconds_below=5.0, pause_after=3)
    annotator = make_user(project)
    for task in make_tasks(project, 3):
        make_judgment(task, annotator)  # at once: active seconds are close to nothing
    gold_of(project, 1)
    make_task(project)
    gold = next_task(project=project, annotator=annotator)
    assert gold is not None
    judge(gold, annotator, "First.")
    assert "5.0 s is the least" in Member.objects.get(user=annotator).pause_reason


@pytest.mark.parametrize(("answers", "passes"), [(("First.", "First."), True), (("First.", "Second."), False)])
def test_a_qualification_opens_the_queue_or_says_the_score(answers: tuple[str, ...], passes: bool) -> None:
    project = make_project(qualification_pass=0.75)
    annotator = make_user(project)
    normal = make_task(project)
    tests = {task.pk for task in gold_of(project, 2, Task.Kind.QUALIFICATION)}
    for best in answers:
        task = next_task(project=project, annotator=annotator)
        assert task is not None
        assert task.id in tests
        judge(task, annotator, best)
    member = Member.objects.get(user=annotator)
    assert member.qualification_score == (1.0 if passes else 0.5)
    if passes:
        opened = next_task(project=project, annotator=annotator)
        assert opened is not None
        assert opened.id == normal.pk
    else:
        with pytest.raises(MemberPaused, match="50 % reached, 75 % needed"):
            next_task(project=project, annotator=annotator)


def test_managers_need_no_qualification() -> None:
    project = make_project(qualification_pass=0.75)
    gold_of(project, 1, Task.Kind.QUALIFICATION)
    normal = make_task(project)
    task = next_task(project=project, annotator=make_user(project, Member.Role.MANAGER))
    assert task is not None
    assert task.id == normal.pk


def test_a_repeat_shows_an_old_task_in_the_opposite_order_and_is_compared() -> None:
    project = make_project(repeat_share=1.0)
    annotator = make_user(project)
    update_settings(project=project, changed_by=None, repeat_share=0.0)
    judged = [make_judgment(task, annotator) for task in make_tasks(project, 12)]
    Judgment.objects.update(created_at=timezone.now() - timedelta(hours=1))
    Judgment.objects.filter(pk=judged[0].pk).update(created_at=timezone.now() - timedelta(hours=2))
    update_settings(project=project, changed_by=None, repeat_share=1.0)
    make_task(project)  # a repeat comes in place of another task
    again = next_task(project=project, annotator=annotator)
    assert again is not None
    repeat = Task.objects.get(pk=again.id)
    assert (repeat.kind, repeat.repeat_of_id) == (Task.Kind.REPEAT, judged[0].pk)
    before = judged[0].assignment.shown_order
    ids = canonical_ids(repeat)
    assert [response["id"] for response in again.responses] == [ids[place] for place in reversed(before)]
    judge(again, annotator, "Second.")  # the opposite of what was said before
    assert Check.objects.get().score == 0.0


def test_what_was_judged_just_now_is_not_repeated() -> None:
    project = make_project(repeat_share=1.0)
    annotator = make_user(project)
    for task in make_tasks(project, 12):
        make_judgment(task, annotator)
    normal = make_task(project)
    found = next_task(project=project, annotator=annotator)
    assert found is not None
    assert found.id == normal.pk


def test_the_daily_limit_counts_what_is_held_and_takes_nothing_back() -> None:
    project = make_project(daily_limit=2)
    annotator = make_user(project)
    make_tasks(project, 4)
    first = next_task(project=project, annotator=annotator)
    assert first is not None
    second = next_task(project=project, annotator=annotator, hold=[first.assignment_id])
    assert second is not None
    judge(first, annotator, "First.")
    # One judged and one held are two: what a page would fetch ahead is one too many.
    assert next_task(project=project, annotator=annotator, hold=[second.assignment_id]) is None
    update_settings(project=project, changed_by=None, daily_limit=1)
    held = next_task(project=project, annotator=annotator)
    assert held is not None
    assert held.id == second.id
    judge(held, annotator, "First.")
    with pytest.raises(LimitReached):
        next_task(project=project, annotator=annotator)


def test_members_get_tasks_in_their_languages() -> None:
    project = make_project(language="de")
    annotator = make_user(project)
    member = Member.objects.get(user=annotator)
    make_task(project)
    set_languages(member=member, languages=["en"])
    assert next_task(project=project, annotator=annotator) is None
    set_languages(member=member, languages=["en", "de"])
    assert next_task(project=project, annotator=annotator) is not None


@pytest.mark.parametrize(("second", "places"), [((0, 1), 2), ((1, 0), 3)])
def test_two_that_disagree_ask_for_a_third(second: tuple[int, int], places: int) -> None:
    project = make_project(overlap=2, third_on_disagreement=True)
    task = make_task(project)
    make_judgment(task, make_user(project), (0, 1))
    make_judgment(task, make_user(project), second)
    task.refresh_from_db()
    assert (task.overlap, task.open) == (places, places == 3)


def test_a_share_of_the_tasks_takes_more_judgments() -> None:
    project = make_project(overlap=1, extra_overlap=3, extra_overlap_share=0.5)
    overlaps = [task.overlap for task in make_tasks(project, 200)]
    # 200 draws at 0.5: fewer than 60 or more than 140 come less often than once in a hundred million.
    assert 60 <= overlaps.count(3) <= 140
    assert set(overlaps) == {1, 3}
