"""The data browser, the figures and what changed between versions; and erasure, which asks twice."""

import pytest
from django.test import Client

from feedback_app.annotation.models import Judgment, Task
from feedback_app.datasets.models import DatasetVersion, Erasure
from feedback_app.datasets.services import create_dataset_version, index_examples, measure_duplicates
from feedback_app.projects.models import Member, Project
from tests.factories import make_project, make_task, make_user
from tests.web.judged import judged_row, judged_rows, run_rows

pytestmark = pytest.mark.django_db


@pytest.fixture
def project() -> Project:
    return make_project()


@pytest.fixture
def manager(project: Project) -> Client:
    client = Client()
    client.force_login(make_user(project, Member.Role.MANAGER))
    return client


def test_a_search_finds_chinese_and_leads_to_the_judgments(manager: Client, project: Project) -> None:
    run_rows(project, [judged_row(0), judged_row(1, prompt="请解释量子纠缠")])
    index_examples(project=project)
    page = manager.get(f"/p/{project.slug}/data/browse/?words=量子")
    task = Task.objects.get(prompt__messages__0__content="请解释量子纠缠")
    assert [found.pk for found in page.context["page"]] == [task.pk]
    assert f"/p/{project.slug}/tasks/{task.pk}/" in page.content.decode()
    assert b"No example fits" in manager.get(f"/p/{project.slug}/data/browse/?words=nothing").content


def test_filters_that_make_no_sense_are_named_and_narrow_nothing(manager: Client, project: Project) -> None:
    run_rows(project, judged_rows(2))
    page = manager.get(f"/p/{project.slug}/data/browse/?since=yesterday&split=elsewhere")
    assert page.status_code == 200
    assert set(page.context["form"].errors) == {"since", "split"}
    assert len(page.context["page"]) == 2


def test_tasks_that_nobody_judged_are_shown_when_asked_for(manager: Client, project: Project) -> None:
    make_task(project)
    assert len(manager.get(f"/p/{project.slug}/data/browse/").context["page"]) == 0
    assert len(manager.get(f"/p/{project.slug}/data/browse/?unjudged=on").context["page"]) == 1


def test_figures_are_drawn_from_what_is_measured(manager: Client, project: Project) -> None:
    assert b"nothing to count yet" in manager.get(f"/p/{project.slug}/data/figures/").content
    run_rows(project, judged_rows(10))
    page = manager.get(f"/p/{project.slug}/data/figures/")
    charts = {str(chart["title"]): chart for chart in page.context["charts"]}
    assert sum(count for _label, count in charts["Splits"]["bars"]) == 10
    # VERDICTS: all three annotators agree on 1 1 1 (twice), 2 2 2 and 0 0 0.
    assert dict(charts["Agreement on a task"]["bars"])["0.9–1.0"] == 4


def test_near_duplicates_across_splits_are_called_what_they_are(manager: Client, project: Project) -> None:
    words = "Please tell me at once how one makes a good cup of tea for number"
    run_rows(project, [judged_row(n, prompt=f"{words} {n}") for n in range(12)])
    measure_duplicates(project=project, threshold=0.5)
    page = manager.get(f"/p/{project.slug}/data/figures/").content.decode()
    assert "two splits" in page
    assert "nearly learned on the other" in page


def test_two_versions_are_compared(manager: Client, project: Project) -> None:
    run_rows(project, judged_rows(5))
    create_dataset_version(project=project, format="preference")
    run_rows(project, judged_rows(10))
    create_dataset_version(project=project, format="preference")
    page = manager.get(f"/p/{project.slug}/data/versions/2/?against=1")
    # Of the five tasks that came, 0 0 0 makes no pair, and its judgments are not in the version: 4 * 3 are new.
    assert page.context["difference"]["judgments"] == {"added": 12, "removed": 0}
    assert b"What changed" in page.content
    assert manager.get(f"/p/{project.slug}/data/versions/2/?against=9").status_code == 404


def test_erasing_asks_for_the_projects_name_and_says_what_it_did(manager: Client, project: Project) -> None:
    run_rows(project, judged_rows(5))
    create_dataset_version(project=project, format="preference")
    url = f"/p/{project.slug}/data/erase/"
    refused = manager.post(url, {"annotator": "annotator1", "confirm": "something"})
    assert refused.status_code == 422
    assert list(refused.context["form"].errors) == ["confirm"]
    assert Judgment.objects.count() == 15
    for sent in ({}, {"annotator": "nobody"}):
        assert manager.post(url, {"confirm": project.slug, **sent}).status_code == 422
    done = manager.post(url, {"annotator": "annotator1", "confirm": project.slug})
    assert done.status_code == 200
    assert b"5 judgments are erased" in done.content
    assert not Judgment.objects.filter(annotator__display_name="annotator1").exists()
    assert Erasure.objects.get().judgments == 5
    assert DatasetVersion.objects.get(number=1).tainted_at is not None


def test_a_version_whose_files_were_deleted_says_so_and_offers_no_download(manager: Client, project: Project) -> None:
    run_rows(project, judged_rows(5))
    version = create_dataset_version(project=project, format="preference")
    sent = {"annotator": "annotator1", "withdraw": "on", "confirm": project.slug}
    manager.post(f"/p/{project.slug}/data/erase/", sent)
    page = manager.get(f"/p/{project.slug}/data/versions/{version.number}/")
    assert b"Its files were deleted" in page.content
    assert b"Download as ZIP" not in page.content
