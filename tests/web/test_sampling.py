"""Sampling: fresh tasks from the live policy, no two responses alike, and nothing lost while the endpoint is away."""

from collections import Counter
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
from django.db import connection
from django.test import Client
from django.utils import timezone
from pytest_django import Settings

from feedback_app.annotation.models import Prompt, Response, SampleJob, Task
from feedback_app.annotation.sampling import (
    SamplingRefused,
    claim_sample_job,
    refill_queues,
    request_sample,
    run_sample_job,
    too_alike,
    waiting_sample_jobs,
)
from feedback_app.annotation.services import next_task
from feedback_app.annotation.tasks import sample
from feedback_app.projects.models import Member, Project
from feedback_app.projects.services import publish_protocol
from feedback_app.serving.models import Deployment
from feedback_app.serving.services import restage_missing
from tests.factories import make_policy, make_project, make_prompt, make_tasks, make_token, make_user
from tests.web.endpoint import FakeEndpoint, run_endpoint

pytestmark = pytest.mark.django_db


@pytest.fixture
def endpoint(settings: Settings) -> Iterator[FakeEndpoint]:
    with run_endpoint() as fake:
        settings.SERVING_URL = fake.url
        yield fake


def project_with(prompts: int, **more: Any) -> Project:
    project = make_project(**more)
    for _ in range(prompts):
        make_prompt(project)
    return project


def run(job: SampleJob) -> SampleJob:
    """Do a job as a worker does it, and return it as it is then."""
    sample(str(job.pk))
    return SampleJob.objects.get(pk=job.pk)


def test_a_task_holds_k_responses_each_with_its_own_recorded_seed(endpoint: FakeEndpoint) -> None:
    project = project_with(3, protocol="ranking", responses_per_prompt=4, temperature=0.7, top_p=0.9, max_new_tokens=33)
    job = run(request_sample(project=project, prompts=3))
    assert (job.state, job.tasks_made, job.error) == ("done", 3, "")
    tasks = list(Task.objects.filter(project=project))
    assert len({task.prompt_id for task in tasks}) == 3
    for task in tasks:
        responses = Response.objects.filter(task_responses__task=task)
        assert len({response.seed for response in responses}) == 4
        for response in responses:
            # The seed, the sampling and the version are what the endpoint was really asked with.
            assert response.text == f"answer {response.seed}"
            assert response.policy is not None
            assert (response.policy.number, response.source, response.finish_reason) == (0, "policy", "stop")
            assert response.token_count == 2
            assert response.sampling == {"temperature": 0.7, "top_p": 0.9, "max_new_tokens": 33}
    asked = {(body["model"], body["temperature"], body["top_p"], body["max_tokens"]) for body in endpoint.asked}
    assert asked == {(f"{project.slug}-v0", 0.7, 0.9, 33)}


def test_a_response_that_cannot_be_stored_is_replaced(endpoint: FakeEndpoint) -> None:
    project = project_with(1)
    texts = iter(["Tea.", "Cof\x00fee.", "Water, from the tap."])
    endpoint.answer = lambda prompt, seed: next(texts)
    assert run(request_sample(project=project, prompts=1)).tasks_made == 1
    assert sorted(Response.objects.values_list("text", flat=True)) == ["Tea.", "Water, from the tap."]


def test_a_near_identical_response_is_replaced(endpoint: FakeEndpoint) -> None:
    project = project_with(1, protocol="ranking", responses_per_prompt=3)
    texts = iter(["Tea is brewed at dawn.", "tea is brewed at dawn!", "Coffee.", "Neither of the two."])
    endpoint.answer = lambda prompt, seed: next(texts)
    assert run(request_sample(project=project, prompts=1)).tasks_made == 1
    # Three are drawn, of which two are the same but for case and a mark; one more is drawn in place of the second.
    assert len(endpoint.asked) == 4
    assert len({body["seed"] for body in endpoint.asked}) == 4
    kept = sorted(Response.objects.filter(prompt__project=project).values_list("text", flat=True))
    assert kept[0] == "Coffee."
    assert kept[1] == "Neither of the two."
    assert kept[2].casefold().startswith("tea is brewed at dawn")


def test_a_prompt_whose_answer_never_changes_is_given_up_and_said_so(endpoint: FakeEndpoint) -> None:
    project = project_with(2)
    stubborn = Prompt.objects.filter(project=project).first()
    assert stubborn is not None
    said = stubborn.messages[-1]["content"]
    endpoint.answer = lambda prompt, seed: "Always this." if prompt == said else f"answer {seed}"
    job = run(request_sample(project=project, prompts=2))
    assert (job.state, job.tasks_made, job.prompts_given_up) == ("done", 1, 1)
    # 2 at first, of which one is kept, and then one in each of the two further tries; 2 for the other prompt.
    assert len(endpoint.asked) == 2 + 1 + 1 + 2


@pytest.mark.parametrize(
    ("first", "second", "alike"),
    [
        ("Yes, of course.", "yes of course", True),
        ("", "", True),
        ("", "Yes.", False),
        # 19 of 20 words the same: 2 * 19 / 40 = 0.95.
        (" ".join(map(str, range(20))), " ".join(map(str, range(1, 20))) + " x", True),
        # 8 of 10 words the same: 2 * 8 / 20 = 0.8.
        (" ".join(map(str, range(10))), " ".join(map(str, range(2, 10))) + " x y", False),
        ("春天来了花开了", "春天来了，花开了！", True),
        ("春天来了花开了", "冬天走了雪化了", False),
    ],
)
def test_what_counts_as_alike(first: str, second: str, alike: bool) -> None:
    assert too_alike(first, second) is alike


def test_prompts_take_turns(endpoint: FakeEndpoint) -> None:
    project = project_with(5)
    run(request_sample(project=project, prompts=3))
    run(request_sample(project=project, prompts=3))
    # 6 samplings of 5 prompts: one prompt has had two turns, and none is left out.
    assert sorted(Prompt.objects.filter(project=project).values_list("times_sampled", flat=True)) == [1, 1, 1, 1, 2]


def test_while_the_endpoint_is_away_a_sampling_waits_and_loses_nothing(settings: Settings) -> None:
    settings.SERVING_URL = "http://127.0.0.1:9"  # the discard port: nobody listens
    project = project_with(4)
    job = run(request_sample(project=project, prompts=4))
    assert job.state == "queued"
    assert "endpoint embedded" in job.error
    assert list(waiting_sample_jobs()) == [job]
    assert not Task.objects.filter(project=project).exists()
    assert set(Prompt.objects.filter(project=project).values_list("times_sampled", flat=True)) == {0}
    with run_endpoint() as fake:
        settings.SERVING_URL = fake.url
        assert restage_missing() == [f"{project.slug}-v0"]  # as the tick does
        job = run(job)
    assert (job.state, job.tasks_made, job.error) == ("done", 4, "")


def test_an_endpoint_that_falls_in_the_middle_keeps_what_was_made_and_gives_the_turns_back(
    endpoint: FakeEndpoint,
) -> None:
    project = project_with(16)

    def fall(number: int) -> None:
        if number > 16:  # two responses for each of the first eight prompts
            raise ConnectionAbortedError

    endpoint.before = fall
    job = run(request_sample(project=project, prompts=16))
    assert (job.state, job.tasks_made) == ("queued", 8)
    assert Task.objects.filter(project=project).count() == 8
    assert sorted(Prompt.objects.filter(project=project).values_list("times_sampled", flat=True)) == [0] * 8 + [1] * 8
    endpoint.before = lambda number: None
    job = run(job)
    assert (job.state, job.tasks_made) == ("done", 16)
    assert Task.objects.filter(project=project).values("prompt").distinct().count() == 16


def test_a_sampling_whose_endpoint_does_not_come_back_fails_and_says_why(settings: Settings) -> None:
    settings.SERVING_URL = "http://127.0.0.1:9"
    job = request_sample(project=project_with(1), prompts=1)
    SampleJob.objects.filter(pk=job.pk).update(created_at=timezone.now() - timedelta(hours=2))
    job = run(job)
    assert job.state == "failed"
    assert "endpoint embedded" in job.error
    assert not waiting_sample_jobs()


def test_a_doubled_bell_samples_once(endpoint: FakeEndpoint) -> None:
    project = project_with(2)
    job = request_sample(project=project, prompts=2)
    claimed = claim_sample_job(job_id=job.pk)
    assert claimed is not None
    assert claim_sample_job(job_id=job.pk) is None
    run_sample_job(job=claimed)
    assert run(job).state == "done"
    assert Task.objects.filter(project=project).count() == 2


def test_a_worker_that_was_taken_over_stores_nothing(endpoint: FakeEndpoint) -> None:
    project = project_with(2)
    job = request_sample(project=project, prompts=2)
    old = claim_sample_job(job_id=job.pk)
    SampleJob.objects.filter(pk=job.pk).update(lease_until=timezone.now() - timedelta(seconds=1))
    new = claim_sample_job(job_id=job.pk)
    assert old is not None
    assert new is not None
    run_sample_job(job=old)
    assert not Task.objects.filter(project=project).exists()
    run_sample_job(job=new)
    assert Task.objects.filter(project=project).count() == 2
    assert SampleJob.objects.get(pk=job.pk).state == "done"


@pytest.mark.django_db(transaction=True)
def test_a_push_in_the_middle_of_a_sampling_is_followed(endpoint: FakeEndpoint) -> None:
    project = project_with(16)
    job = request_sample(project=project, prompts=16)
    new = make_policy(project, 1)

    def push(number: int) -> None:
        if number == 16:  # the last of the first eight prompts' responses
            Deployment.objects.filter(project=project).update(live=new)
            connection.close()

    endpoint.before = push
    assert run(job).state == "done"
    # Sixteen requests were under way with the old version; every later one names the new one, which was staged first.
    assert Counter(body["model"] for body in endpoint.asked) == {f"{project.slug}-v0": 16, f"{project.slug}-v1": 16}
    assert f"{project.slug}-v1" in endpoint.staged


def test_what_the_protocol_does_not_take_is_refused_before_it_is_sampled(endpoint: FakeEndpoint) -> None:
    project = project_with(2)  # pairwise: two responses, no more
    with pytest.raises(SamplingRefused, match="exactly 2 responses, not 3"):
        request_sample(project=project, prompts=1, responses_per_prompt=3)
    job = request_sample(project=project, prompts=1)
    publish_protocol(project=project, protocol={"name": "ranking", "min_responses": 3})
    job = run(job)
    assert job.state == "failed"
    assert "3 to" in job.error


def test_the_queue_refills_itself_for_every_active_annotator(endpoint: FakeEndpoint) -> None:
    project = project_with(10, refill_per_annotator=3)
    make_tasks(project, 1)
    # Nobody at work: one annotator's worth of 3, of which 1 is there.
    [job] = refill_queues()
    assert (job.prompts_wanted, job.automatic) == (2, True)
    assert refill_queues() == []  # one is under way
    run(job)
    assert Task.objects.filter(project=project, open=True).count() == 3
    assert refill_queues() == []
    for annotator in (make_user(project), make_user(project)):
        assert next_task(project=project, annotator=annotator) is not None
    # Two at work want 6; two places of the three are taken by them, and a task of overlap 1 is closed while it is held.
    [job] = refill_queues()
    assert job.prompts_wanted == 6 - 1


def test_a_project_without_prompts_is_told_so(endpoint: FakeEndpoint) -> None:
    project = make_project(refill_per_annotator=3)
    assert refill_queues() == []
    manager = client_of(project, Member.Role.MANAGER)
    answer = manager.post(f"/api/v1/projects/{project.slug}/sample/", {"prompts": 2}, content_type="application/json")
    assert answer.status_code == 409
    assert "no prompts" in answer.json()["detail"][0]


def client_of(project: Project, role: Member.Role) -> Client:
    return Client(headers={"authorization": f"Token {make_token(make_user(project, role))}"})


def test_a_manager_asks_over_http_and_reads_how_it_goes(endpoint: FakeEndpoint) -> None:
    project = project_with(3, protocol="ranking")
    manager, annotator = client_of(project, Member.Role.MANAGER), client_of(project, Member.Role.ANNOTATOR)
    address = f"/api/v1/projects/{project.slug}/sample/"
    answer = manager.post(address, {"prompts": 2, "responses_per_prompt": 3}, content_type="application/json")
    assert answer.status_code == 202
    assert (answer.json()["state"], answer.json()["responses_per_prompt"]) == ("queued", 3)
    job = answer.json()["id"]
    sample(job)
    shown = manager.get(f"/api/v1/samples/{job}/").json()
    assert (shown["state"], shown["tasks_made"], shown["error"]) == ("done", 2, "")
    assert annotator.post(address, {"prompts": 2}, content_type="application/json").status_code == 403
    assert annotator.get(f"/api/v1/samples/{job}/").status_code == 403
    # To one who is no member, the job of another project is not there.
    assert client_of(make_project(), Member.Role.MANAGER).get(f"/api/v1/samples/{job}/").status_code == 404
    for wrong in ({"prompts": 0}, {"prompts": 10_001}, {"responses_per_prompt": 1}, {"responses_per_prompt": 10}):
        answer = manager.post(address, wrong, content_type="application/json")
        assert answer.status_code == 400
        assert list(answer.json()) == list(wrong)
