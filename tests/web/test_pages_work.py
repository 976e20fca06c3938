"""An annotator's own pages: what waits, today's work, every judgment of theirs, and what the judging page may know."""

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django.test import Client
from django.utils import timezone
from pytest_django import DjangoAssertNumQueries

from feedback_app.annotation.models import Judgment, Review, Task
from feedback_app.annotation.services import next_task, submit_judgment, void_judgments
from feedback_app.annotation.work import work_by_project
from feedback_app.projects.models import GuidelinesReading, Member, Project
from feedback_app.projects.services import set_paused
from tests.factories import make_judgment, make_policy, make_project, make_task, make_tasks, make_user

pytestmark = pytest.mark.django_db


def signed_in(project: Project, role: Member.Role = Member.Role.ANNOTATOR) -> Client:
    client = Client()
    client.force_login(make_user(project, role))
    return client


def post(client: Client, path: str, body: Any = None) -> Any:
    return client.post(path, json.dumps(body or {}), content_type="application/json")


def test_home_says_what_waits_and_counts_today() -> None:
    project = make_project(name="Kitchen")
    annotator = make_user(project)
    make_tasks(project, 3)
    client = Client()
    client.force_login(annotator)
    assert "3 tasks wait for you" in client.get("/").content.decode()
    reserved = next_task(project=project, annotator=annotator)
    assert reserved is not None
    page = client.get("/").content.decode()
    assert "2 tasks wait for you" in page
    assert "Resume" in page
    ids = [response["id"] for response in reserved.responses]
    submit_judgment(task_id=reserved.id, annotator=annotator, body={"ranking": [ids]})
    page = client.get("/").content.decode()
    assert "1 judgment today" in page
    assert "Resume" not in page


def test_home_counts_no_further_than_anybody_plans_and_passes_by_what_is_not_theirs() -> None:
    project = make_project()
    annotator, other = make_user(project), make_user(project)
    make_tasks(project, 105)
    make_task(project, addressed_to=other)
    assert work_by_project(user=annotator, projects=[project])[project.pk].waiting == 100
    Task.objects.filter(addressed_to=None).update(kind=Task.Kind.GOLD)
    assert work_by_project(user=annotator, projects=[project])[project.pk].waiting == 0


def test_home_takes_as_many_queries_for_ten_projects_as_for_one(
    django_assert_max_num_queries: DjangoAssertNumQueries,
) -> None:
    annotator = make_user(make_project())
    client = Client()
    client.force_login(annotator)
    for number in range(10):
        project = make_project(f"more-{number}")
        Member.objects.create(project=project, user=annotator)
        make_task(project)
    # Session, user, projects, memberships, what is live, and the four of the work.
    with django_assert_max_num_queries(10):
        assert client.get("/").status_code == 200


def test_home_without_projects_says_what_to_do_and_who_may_make_one() -> None:
    client = Client()
    lonely = make_user()
    client.force_login(lonely)
    page = client.get("/").content.decode()
    assert lonely.username in page
    assert "/projects/new/" not in page
    lonely.is_superuser = True
    lonely.save()
    assert "/projects/new/" in client.get("/").content.decode()


def test_home_tells_annotators_nothing_of_policies() -> None:
    project = make_project()
    make_task(project, policy=make_policy(project))
    assert "live" not in signed_in(project).get("/").content.decode().lower().replace("deliver", "")
    assert "nothing is live yet" in signed_in(project, Member.Role.REVIEWER).get("/").content.decode()


def test_a_paused_member_reads_why_at_home_and_in_the_queue() -> None:
    project = make_project()
    annotator = make_user(project)
    make_task(project)
    set_paused(member=project.members.get(), paused=True, reason="Talk to Kim first.")
    client = Client()
    client.force_login(annotator)
    assert "Talk to Kim first." in client.get("/").content.decode()
    answer = post(client, f"/p/{project.slug}/judge/next/")
    assert answer.status_code == 403
    assert "Talk to Kim first." in str(answer.json())


def test_the_page_gets_the_apis_task_with_html_and_nothing_of_models() -> None:
    project = make_project(guidelines="Be fair.")
    make_task(project, ("**Bold**", "<script>x</script>"), policy=make_policy(project, 7))
    client = signed_in(project)
    answer = post(client, f"/p/{project.slug}/judge/next/")
    task = answer.json()
    again = post(client, f"/api/v1/projects/{project.slug}/tasks/next/").json()
    assert {name: task[name] for name in ("id", "assignment", "protocol", "draft")} == {
        name: again[name] for name in ("id", "assignment", "protocol", "draft")
    }
    assert [{name: response[name] for name in ("id", "text")} for response in task["responses"]] == again["responses"]
    html = {response["text"]: response["html"] for response in task["responses"]}
    assert "<strong>Bold</strong>" in html["**Bold**"]
    assert "<script" not in html["<script>x</script>"]
    assert task["guidelines"]["read"] is False
    for word in ("model", "policy", "source", "seed", f"{project.slug}-v7"):
        assert word not in answer.content.decode()
        assert f"{project.slug}-v7" not in client.get(f"/p/{project.slug}/judge/").content.decode()


def test_the_next_task_costs_a_page_few_queries(django_assert_max_num_queries: DjangoAssertNumQueries) -> None:
    project = make_project(protocol="ranking")
    make_tasks(project, 5, tuple("abcdefghi"), overlap=2)
    client = signed_in(project)
    # Session, user, the transaction's begin and end, entering, picking, and the guidelines.
    with django_assert_max_num_queries(8):
        assert post(client, f"/p/{project.slug}/judge/next/").status_code == 200


def test_opening_the_page_reserves_nothing() -> None:
    project = make_project()
    make_task(project)
    assert signed_in(project).get(f"/p/{project.slug}/judge/").status_code == 200
    assert Task.objects.get().reserved == 0


def test_guidelines_are_read_once_they_are_said_to_be() -> None:
    project = make_project(guidelines="Be fair.")
    client = signed_in(project)
    path = f"/p/{project.slug}/judge/guidelines/"
    assert "data-unread" in client.get(f"/p/{project.slug}/judge/").content.decode()
    assert post(client, path, {"id": "00000000-0000-0000-0000-000000000000"}).status_code == 404
    assert post(client, path, {"id": "no uuid"}).status_code == 404
    for _ in range(2):
        assert post(client, path, {"id": str(project.guidelines_id)}).status_code == 204
    assert GuidelinesReading.objects.count() == 1
    assert (
        'guidelines-dialog" aria-labelledby="guidelines-title" data-unread'
        not in client.get(f"/p/{project.slug}/judge/").content.decode()
    )
    foreign = make_project(guidelines="Elsewhere.")
    assert post(client, path, {"id": str(foreign.guidelines_id)}).status_code == 404


def test_ones_own_judgment_opens_as_it_was_shown_and_nobody_elses() -> None:
    project = make_project(protocol="ranking")
    annotator = make_user(project)
    judgment = make_judgment(
        make_task(
            project,
            ("One.", "Two.", "Three."),
        ),
        annotator,
        (2, 0, 1),
    )
    client = Client()
    client.force_login(annotator)
    path = f"/p/{project.slug}/judge/judgments/{judgment.pk}/"
    answer = client.get(path).json()
    order = judgment.assignment.shown_order
    assert [response["text"] for response in answer["responses"]] == [
        ("One.", "Two.", "Three.")[place] for place in order
    ]
    texts = {response["id"]: response["text"] for response in answer["responses"]}
    assert [[texts[pk] for pk in tier] for tier in answer["judgment"]["ranking"]] == [["Two."], ["Three."], ["One."]]
    assert signed_in(project, Member.Role.MANAGER).get(path).status_code == 404
    assert Client().get(path).status_code == 401
    void_judgments(project=project, voided_by=None, reason="by mistake", judgments=[judgment.pk])
    assert client.get(path).json()["voided"] == "by mistake"


def test_history_shows_ones_own_newest_first_with_what_became_of_them() -> None:
    project = make_project(protocol="ranking")
    annotator = make_user(project)
    first = make_judgment(make_task(project, ("One.", "Two.", "Three.")), annotator, (0, 1, 1))
    second = make_judgment(make_task(project), annotator, (0, 1))
    theirs = make_judgment(make_task(project), make_user(project), (0, 1))
    Judgment.objects.filter(pk=second.pk).update(surplus=True)
    Review.objects.create(judgment=first, outcome=Review.Outcome.SENT_BACK, comment="Read B again.")
    client = Client()
    client.force_login(annotator)
    page = client.get(f"/p/{project.slug}/history/").content.decode()
    assert page.index(str(second.pk)) < page.index(str(first.pk))
    assert str(theirs.pk) not in page
    assert "Read B again." in page
    assert "extra" in page
    # Canonical position 0 is best, 1 and 2 tie: by the letters of the order in which they were shown.
    letters = {place: "ABC"[index] for index, place in enumerate(first.assignment.shown_order)}
    tied = " = ".join(sorted((letters[1], letters[2])))
    assert f"{letters[0]} &gt; {tied}" in page
    assert "1 sent back to you" in client.get("/").content.decode()


def test_history_of_a_day_is_the_readers_day_and_a_day_that_is_none_is_said() -> None:
    project = make_project()
    annotator = make_user(project)
    judgment = make_judgment(make_task(project), annotator)
    # 20:00 UTC on the first is 04:00 on the second in Shanghai.
    Judgment.objects.update(created_at=datetime(2026, 3, 1, 20, tzinfo=UTC))
    client = Client()
    client.force_login(annotator)
    path = f"/p/{project.slug}/history/?day="
    assert str(judgment.pk) in client.get(path + "2026-03-01").content.decode()
    client.cookies["timezone"] = "Asia%2FShanghai"
    assert str(judgment.pk) not in client.get(path + "2026-03-01").content.decode()
    assert str(judgment.pk) in client.get(path + "2026-03-02").content.decode()
    client.cookies["timezone"] = "../../etc/passwd"
    assert str(judgment.pk) in client.get(path + "2026-03-01").content.decode()
    for nonsense in ("yesterday", "2026-02-31"):
        answer = client.get(path + nonsense)
        assert answer.status_code == 422
        assert 'aria-invalid="true"' in answer.content.decode()
    assert "Nothing judged on this day" in client.get(path + "2020-01-01").content.decode()


def test_history_takes_as_many_queries_for_a_full_page_as_for_one_row(
    django_assert_max_num_queries: DjangoAssertNumQueries,
) -> None:
    project = make_project()
    annotator = make_user(project)
    client = Client()
    client.force_login(annotator)
    for task in make_tasks(project, 12):
        make_judgment(task, annotator)
    with django_assert_max_num_queries(8):
        assert client.get(f"/p/{project.slug}/history/").status_code == 200


def test_todays_count_begins_at_midnight() -> None:
    project = make_project()
    annotator = make_user(project)
    make_judgment(make_task(project), annotator)
    Judgment.objects.update(created_at=timezone.now() - timedelta(days=1))
    make_judgment(make_task(project), annotator)
    assert work_by_project(user=annotator, projects=[project])[project.pk].judged == 1


def test_a_keymap_is_kept_and_nonsense_is_refused() -> None:
    project = make_project()
    annotator = make_user(project)
    client = Client()
    client.force_login(annotator)
    path = f"/p/{project.slug}/judge/keys/"
    assert client.put(path, {"bad": "KeyB"}, content_type="application/json").status_code == 204
    annotator.refresh_from_db()
    assert annotator.keymap == {"bad": "KeyB"}
    for nonsense in ({"bad": 3}, {"bad": "x" * 41}, {str(n): "KeyB" for n in range(41)}):
        assert client.put(path, nonsense, content_type="application/json").status_code == 400
