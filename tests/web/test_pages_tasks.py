"""The pages of tasks: lists by filters, one task whole, sampling, prompts, and changes to many at once."""

from typing import Any

import pytest
from django.test import Client
from django.utils import timezone

from feedback_app.accounts.models import User
from feedback_app.annotation.models import Judgment, Prompt, Response, SampleJob, Task
from feedback_app.annotation.services import NewResponse, create_task
from feedback_app.projects.models import Member, Project
from feedback_app.serving.models import Deployment, Endpoint
from tests.factories import make_judgment, make_policy, make_project, make_prompt, make_task, make_tasks, make_user

pytestmark = pytest.mark.django_db


@pytest.fixture
def project() -> Project:
    return make_project()


@pytest.fixture
def manager(project: Project) -> Client:
    client = Client()
    client.force_login(make_user(project, Member.Role.MANAGER))
    return client


def listed(client: Client, project: Project, query: str = "") -> set[Any]:
    """Return the ids of the tasks on the list's page."""
    return {task.pk for task in client.get(f"/p/{project.slug}/tasks/{query}").context["page"]}


def go_live(project: Project) -> None:
    policy = make_policy(project)
    endpoint = Endpoint.objects.create(name=project.slug, backend=Endpoint.Backend.EMBEDDED, url="http://127.0.0.1:9/")
    Deployment.objects.create(project=project, endpoint=endpoint, live=policy, flipped_at=timezone.now())


def test_an_empty_project_says_what_to_do(manager: Client, project: Project) -> None:
    page = manager.get(f"/p/{project.slug}/tasks/").content.decode()
    assert "No task yet" in page
    assert "There are no prompts to sample" in page


def test_the_list_is_narrowed_by_each_filter(manager: Client, project: Project) -> None:
    policy = make_policy(project)
    plain, sampled = make_task(project), make_tasks(project, 1, policy=policy)[0]
    archived = make_task(project)
    Task.objects.filter(pk=archived.pk).update(state=Task.State.ARCHIVED, open=False, priority=5)
    make_judgment(plain, make_user(project))
    assert listed(manager, project) == {plain.pk, sampled.pk, archived.pk}
    assert listed(manager, project, f"?policy={policy.name}") == {sampled.pk}
    assert listed(manager, project, "?state=archived") == {archived.pk}
    assert listed(manager, project, "?judged=all") == {plain.pk}
    assert listed(manager, project, "?judged=none&priority=5") == {archived.pk}
    assert listed(manager, project, "?kind=gold") == set()
    assert listed(manager, project, f"?split={plain.prompt.split}") >= {plain.pk}
    assert listed(manager, project, "?state=no-such&priority=x") == {plain.pk, sampled.pk, archived.pk}


def test_words_are_found_in_any_language_and_wherever_they_stand(manager: Client, project: Project) -> None:
    tasks = {text: make_task_of(project, text) for text in ("How is tea made?", "请解释量子纠缠", "Say “tea”.")}
    assert listed(manager, project, "?words=made tea") == {tasks["How is tea made?"].pk}
    assert listed(manager, project, "?words=量子") == {tasks["请解释量子纠缠"].pk}
    assert listed(manager, project, "?words=100%25") == set()


def make_task_of(project: Project, text: str) -> Task:
    """Return a task of a prompt with these words."""
    answers = [NewResponse(text=word, source=Response.Source.IMPORTED, model_name="m") for word in ("Yes.", "No.")]
    return create_task(prompt=make_prompt(project, text), responses=answers)


def test_the_list_costs_the_same_for_one_task_and_for_fifty(
    manager: Client, project: Project, django_assert_max_num_queries: Any
) -> None:
    make_tasks(project, 55)
    with django_assert_max_num_queries(16):
        page = manager.get(f"/p/{project.slug}/tasks/")
    assert len(page.context["page"]) == 50
    assert b"1 to 50 of 55" in page.content
    assert len(listed(manager, project, "?page=2")) == 5


def test_ticked_tasks_change_together_and_others_do_not(manager: Client, project: Project) -> None:
    first, second, third = make_tasks(project, 3)
    url = f"/p/{project.slug}/tasks/change/"
    manager.post(url, {"do": "priority", "number": "7", "task": [str(first.pk), str(second.pk)]})
    assert list(Task.objects.filter(priority=7).order_by("pk")) == sorted([first, second], key=lambda task: task.pk)
    manager.post(url, {"do": "overlap", "number": "3", "task": [str(first.pk)]})
    manager.post(url, {"do": "archive", "task": [str(third.pk), "no-id"]})
    first.refresh_from_db()
    third.refresh_from_db()
    assert (first.overlap, third.state, third.open) == (3, Task.State.ARCHIVED, False)
    manager.post(url, {"do": "restore", "task": [str(third.pk)]})
    third.refresh_from_db()
    assert (third.state, third.open) == (Task.State.ACTIVE, True)


def test_all_that_the_filter_lists_change_at_once(manager: Client, project: Project) -> None:
    make_tasks(project, 60)
    kept = make_task(project)
    Task.objects.filter(pk=kept.pk).update(priority=3)
    answer = manager.post(f"/p/{project.slug}/tasks/change/?priority=0", {"do": "archive", "every": "on"})
    assert answer["location"].endswith("/tasks/?priority=0")
    assert Task.objects.filter(state=Task.State.ARCHIVED).count() == 60


def test_a_change_without_its_number_is_refused_by_name(manager: Client, project: Project) -> None:
    task = make_task(project)
    page = manager.post(f"/p/{project.slug}/tasks/change/", {"do": "overlap", "task": [str(task.pk)]})
    assert page.status_code == 422
    assert list(page.context["bulk"].errors) == ["number"]


def test_a_task_of_another_project_is_never_changed(manager: Client, project: Project) -> None:
    other = make_task(make_project())
    manager.post(f"/p/{project.slug}/tasks/change/", {"do": "archive", "task": [str(other.pk)]})
    other.refresh_from_db()
    assert other.state == Task.State.ACTIVE
    assert manager.get(f"/p/{project.slug}/tasks/{other.pk}/").status_code == 404


def test_sampling_without_prompts_says_so(manager: Client, project: Project) -> None:
    page = manager.post(f"/p/{project.slug}/tasks/sample/", {"prompts": "5"})
    assert page.status_code == 422
    assert "prompts" in page.context["sample_form"].errors
    assert not SampleJob.objects.exists()


def test_sampling_is_queued_and_the_page_says_how_far_it_is(manager: Client, project: Project) -> None:
    go_live(project)
    make_prompt(project)
    answer = manager.post(f"/p/{project.slug}/tasks/sample/", {"prompts": "1"})
    assert answer.status_code == 302
    job = SampleJob.objects.get()
    assert job.prompts_wanted == 1
    part = manager.get(f"/p/{project.slug}/tasks/", headers={"hx-request": "true"})
    assert b"every 2s" in part.content
    SampleJob.objects.update(state=SampleJob.State.FAILED, error="the endpoint does not answer")
    part = manager.get(f"/p/{project.slug}/tasks/", headers={"hx-request": "true"})
    assert b"every 2s" not in part.content
    assert b"the endpoint does not answer" in part.content


def test_prompts_that_have_run_out_are_said(manager: Client, project: Project) -> None:
    go_live(project)
    make_prompt(project)
    assert b"have run out" not in manager.get(f"/p/{project.slug}/tasks/").content
    Prompt.objects.update(times_sampled=2)
    assert b"at least 2 times" in manager.get(f"/p/{project.slug}/tasks/").content


def test_prompts_are_pasted_one_a_line_or_in_blocks_and_known_ones_counted(manager: Client, project: Project) -> None:
    url = f"/p/{project.slug}/tasks/prompts/"
    manager.post(url, {"text": "One?\r\n\r\nTwo?\r\n"})
    again = manager.post(url, {"text": "One?\nThree?"}, follow=True)
    assert b"1 prompt was added. 1 were known already." in again.content
    manager.post(url, {"text": "A poem\nof two lines.\n\nFour?", "blocks": "on"})
    said = {prompt.messages[0]["content"] for prompt in Prompt.objects.all()}
    assert said == {"One?", "Two?", "Three?", "A poem\nof two lines.", "Four?"}
    page = manager.post(url, {"text": "  \n "})
    assert page.status_code == 422


@pytest.fixture
def judged(project: Project) -> Judgment:
    return make_judgment(make_task(project, texts=("**Bold.**", "<b>Raw.</b>")), make_user(project, username="ann"))


def test_a_task_shows_its_answers_with_their_makers_and_the_judgments_behind_it(
    manager: Client, project: Project, judged: Judgment
) -> None:
    page = manager.get(f"/p/{project.slug}/tasks/{judged.task_id}/").content.decode()
    assert "<strong>Bold.</strong>" in page
    assert "&lt;b&gt;Raw." in page
    for shown in ("model-0", "model-1", "ann"):
        assert shown in page


def test_a_judgment_is_voided_with_a_reason_and_gives_its_place_back(
    manager: Client, project: Project, judged: Judgment
) -> None:
    url = f"/p/{project.slug}/tasks/{judged.task_id}/judgments/{judged.pk}/void/"
    page = manager.post(url, {"reason": " "})
    assert page.status_code == 422
    assert b"is required" in page.content
    shown = manager.post(url, {"reason": "Both answers were swapped."}, follow=True)
    assert b"Both answers were swapped." in shown.content
    judged.refresh_from_db()
    judged.task.refresh_from_db()
    assert judged.voided_at is not None
    assert (judged.task.counted, judged.task.open) == (0, True)


def test_reviewers_read_tasks_and_change_nothing(project: Project, judged: Judgment) -> None:
    reviewer: User = make_user(project, Member.Role.REVIEWER)
    client = Client()
    client.force_login(reviewer)
    page = client.get(f"/p/{project.slug}/tasks/{judged.task_id}/")
    assert page.status_code == 200
    assert b"Void it" not in page.content
    base = f"/p/{project.slug}/tasks/"
    for url in ("change/", "sample/", "prompts/", f"{judged.task_id}/judgments/{judged.pk}/void/"):
        assert client.post(base + url, {}).status_code == 403
