"""The data room: what its forms take, refuse and say, and a file's way from a first look into the project."""

import io

import pytest
from django.test import Client

from feedback_app.annotation.models import Prompt, Task
from feedback_app.datasets.models import DatasetVersion, ImportJob, VersionJob
from feedback_app.datasets.services import create_dataset_version, forget_drafts, run_import, run_version_job
from feedback_app.datasets.services.imports import file_of
from feedback_app.projects.models import Member, Project
from tests.factories import make_project, make_user
from tests.web.judged import as_lines, judged_row, judged_rows, run_rows

pytestmark = pytest.mark.django_db

EXPORT = {
    "format": "preference", "file": "jsonl", "split": "", "minimum_strength": "0", "minimum_agreement": "0",
    "simulated": "exclude", "combine": "per_judgment", "pairs": "all", "margin": "small", "ties": "drop",
    "all_bad": "keep", "adjudicated": "replace", "rating_gap": "0", "policy_decay": "1",
}  # fmt: skip


@pytest.fixture
def project() -> Project:
    return make_project()


@pytest.fixture
def manager(project: Project) -> Client:
    client = Client()
    client.force_login(make_user(project, Member.Role.MANAGER))
    return client


def upload(client: Client, project: Project, content: bytes, **more: object) -> ImportJob:
    """Send a file through the page and return its draft."""
    file = io.BytesIO(content)
    file.name = "rows.jsonl"
    answer = client.post(f"/p/{project.slug}/data/import/", {"format": "judged", "file": file, **more})
    assert answer.status_code == 302, answer.content
    return ImportJob.objects.get(pk=answer["location"].rstrip("/").rpartition("/")[2])


def test_an_empty_project_says_what_to_do(manager: Client, project: Project) -> None:
    page = manager.get(f"/p/{project.slug}/data/").content.decode()
    assert "No dataset version yet" in page
    assert "Bring data in" in page


def test_reviewers_read_and_only_managers_take_data_out_or_bring_it_in(project: Project) -> None:
    client = Client()
    client.force_login(make_user(project, Member.Role.REVIEWER))
    page = client.get(f"/p/{project.slug}/data/")
    assert page.status_code == 200
    assert b"Download" not in page.content
    assert client.post(f"/p/{project.slug}/data/export/", EXPORT).status_code == 403
    assert client.get(f"/p/{project.slug}/data/import/").status_code == 403


def test_the_download_button_leads_to_the_streamed_export_with_what_was_chosen(
    manager: Client, project: Project
) -> None:
    run_rows(project, judged_rows(10))
    answer = manager.post(
        f"/p/{project.slug}/data/export/", EXPORT | {"split": "all", "combine": "majority", "since": "2020-01-31"}
    )
    assert answer.status_code == 302
    assert answer["location"] == (
        f"/api/v1/projects/{project.slug}/export/"
        "?format=preference&file=jsonl&split=all&since=2020-01-31&combine=majority"
    )
    rows = b"".join(manager.get(answer["location"])).splitlines()
    # Majorities of VERDICTS: 0 0 1 and 0 0 0 are ties and give no pair, the other eight do.
    assert len(rows) == 8


def test_a_choice_that_makes_no_sense_is_named_and_what_was_typed_is_kept(manager: Client, project: Project) -> None:
    page = manager.post(
        f"/p/{project.slug}/data/export/",
        EXPORT | {"minimum_agreement": "2", "annotators": "ann, bob", "rating_weights": "x:much"},
    )
    assert page.status_code == 422
    assert "agreement" in page.content.decode()
    assert 'value="ann, bob"' in page.content.decode()
    assert "minimum_agreement" in page.context["form"].errors
    page = manager.post(f"/p/{project.slug}/data/export/", EXPORT | {"rating_weights": "x:much"})
    assert page.context["form"].errors == {"rating_weights": ["x: a number is needed"]}


def test_the_first_rows_are_shown_before_anything_is_taken(manager: Client, project: Project) -> None:
    run_rows(project, judged_rows(10))
    page = manager.post(f"/p/{project.slug}/data/export/", EXPORT | {"split": "all", "do": "preview"})
    assert len(page.context["first_rows"]) == 3
    part = manager.post(
        f"/p/{project.slug}/data/export/", EXPORT | {"do": "preview", "languages": "xx"}, headers={"hx-request": "true"}
    )
    assert part.context["first_rows"] == []
    assert b"<html" not in part.content


def test_a_version_is_made_by_the_form_and_shown_with_its_facts(manager: Client, project: Project) -> None:
    run_rows(project, judged_rows(10))
    answer = manager.post(f"/p/{project.slug}/data/export/", EXPORT | {"do": "freeze"})
    again = manager.post(f"/p/{project.slug}/data/export/", EXPORT | {"do": "freeze"})
    assert again["location"] == answer["location"]  # a button pressed twice makes one
    way = manager.get(answer["location"]).content.decode()
    assert 'hx-trigger="every 1s"' in way
    assert answer["location"] in manager.get(f"/p/{project.slug}/data/").content.decode()
    run_version_job(job_id=VersionJob.objects.get().pk)
    part = manager.get(answer["location"], headers={"hx-request": "true"})
    assert part["HX-Refresh"] == "true"
    version = DatasetVersion.objects.get(project=project)
    made = manager.get(answer["location"], follow=True)
    assert made.redirect_chain[-1][0] == f"/p/{project.slug}/data/versions/1/"
    page = made.content.decode()
    assert version.content_sha256 in page
    assert "No round has used this version yet" in page
    assert f"/api/v1/datasets/{version.pk}/download/" in page


def test_a_version_of_nothing_or_as_csv_is_refused_by_name(manager: Client, project: Project) -> None:
    nothing = manager.post(f"/p/{project.slug}/data/export/", EXPORT | {"do": "freeze"})
    run_version_job(job_id=VersionJob.objects.get().pk)
    for place in (nothing["location"], f"/p/{project.slug}/data/"):
        assert "no judgment makes a row" in manager.get(place).content.decode()
    run_rows(project, judged_rows(3))
    csv = manager.post(f"/p/{project.slug}/data/export/", EXPORT | {"do": "freeze", "file": "csv"})
    assert csv.status_code == 422
    assert "file" in csv.context["form"].errors


def test_what_a_failed_version_was_asked_for_comes_back_into_the_form(manager: Client, project: Project) -> None:
    chosen = {
        "format": "unpaired", "file": "parquet", "split": "all", "since": "2026-11-01", "annotators": "ann, 二",
        "languages": "xx", "minimum_strength": "2", "minimum_agreement": "0.25", "truncated": "on", "ties": "both",
        "rating_weights": "helpfulness:0.123456789", "policy_decay": "0.5",
    }  # fmt: skip
    failed = manager.post(f"/p/{project.slug}/data/export/", EXPORT | chosen | {"do": "freeze"})
    job = VersionJob.objects.get()
    run_version_job(job_id=job.pk)  # no judgment makes a row
    again = f"/p/{project.slug}/data/?again={job.pk}"
    page = manager.get(failed["location"]).content.decode()
    assert f"{again}#export-title" in page
    assert "on its way" not in page
    form = manager.get(again).context["form"]
    # Sent off as the page shows it, it asks for the same.
    shown = {field.html_name: value for field in form if (value := field.value()) is not None and value is not False}
    sent = manager.post(f"/p/{project.slug}/data/export/", shown | {"do": "freeze"})
    assert sent.status_code == 302, sent.context["form"].errors
    same, other = VersionJob.objects.order_by("created_at")
    assert (other.format, other.file_type, other.options) == (same.format, same.file_type, same.options)
    assert other.options["rating_weights"] == {"helpfulness": 0.123456789}
    assert manager.get(f"/p/{make_project().slug}/data/?again={job.pk}").status_code == 404


def test_a_versions_choices_come_back_into_the_form(manager: Client, project: Project) -> None:
    run_rows(project, judged_rows(3))
    create_dataset_version(project=project, format="ranked", options={"combine": "majority", "split": "all"})
    form = manager.get(f"/p/{project.slug}/data/?like=1").context["form"]
    assert (form["format"].value(), form["combine"].value(), form["split"].value()) == ("ranked", "majority", "all")
    for place in ("?like=", "versions/1/?against="):  # more digits than Python takes for a number
        assert manager.get(f"/p/{project.slug}/data/{place}{'9' * 5000}").status_code == 200
    assert "?like=1#" in manager.get(f"/p/{project.slug}/data/versions/1/").content.decode()


def test_many_versions_cost_no_more_queries_than_one(
    manager: Client, project: Project, django_assert_max_num_queries: object
) -> None:
    run_rows(project, judged_rows(10))
    for _ in range(3):
        create_dataset_version(project=project, format="preference")
    with django_assert_max_num_queries(14):  # type: ignore[operator]  # pytest-django's fixture is untyped
        manager.get(f"/p/{project.slug}/data/")


def test_a_file_is_looked_at_before_anything_is_stored(manager: Client, project: Project) -> None:
    job = upload(manager, project, as_lines([judged_row(0), {"responses": []}, judged_row(2)]))
    page = manager.get(f"/p/{project.slug}/data/import/{job.pk}/")
    assert [row.line for row in page.context["preview"].rows] == [1, 3]
    assert page.context["preview"].refused == [(2, "prompt: is required")]
    assert "line 2" in page.content.decode()
    assert not Task.objects.exists()
    assert run_import(job_id=job.pk) is None  # no worker takes a draft


def test_a_dry_run_counts_and_stores_nothing_and_the_import_then_lands(manager: Client, project: Project) -> None:
    run_rows(project, [judged_row(0)])
    rows = [judged_row(0), judged_row(1), {"responses": []}]
    job = upload(manager, project, as_lines(rows))
    act = f"/p/{project.slug}/data/import/{job.pk}/act/"

    manager.post(act, {"do": "try"})
    run_import(job_id=job.pk)
    job.refresh_from_db()
    assert (job.state, job.rows_new, job.rows_known, job.rows_refused) == ("draft", 1, 1, 1)
    assert Task.objects.count() == 1
    assert b"nothing is stored yet" in manager.get(f"/p/{project.slug}/data/import/{job.pk}/").content

    manager.post(act, {"do": "import"})
    run_import(job_id=job.pk)
    job.refresh_from_db()
    assert (job.state, job.rows_new, job.rows_known, job.rows_refused) == ("done", 1, 1, 1)
    assert Task.objects.count() == 2
    assert job.refused_rows.count() == 1  # the dry run's report is gone
    assert not file_of(job).exists()
    manager.post(act, {"do": "import"})
    job.refresh_from_db()
    assert job.state == "done"  # a button pressed twice imports once


def test_prompts_may_be_pasted_as_plain_text(manager: Client, project: Project) -> None:
    answer = manager.post(
        f"/p/{project.slug}/data/import/",
        {"format": "prompts", "rows": 'Why is the sky blue?\n\n{"prompt": "And at night?"}\n'},
    )
    job = ImportJob.objects.get(pk=answer["location"].rstrip("/").rpartition("/")[2])
    manager.post(f"{answer['location']}act/", {"do": "import"})
    run_import(job_id=job.pk)
    assert sorted(str(prompt) for prompt in Prompt.objects.filter(project=project)) == [
        "And at night?", "Why is the sky blue?",
    ]  # fmt: skip


def test_neither_or_both_of_file_and_paste_is_refused(manager: Client, project: Project) -> None:
    page = manager.post(f"/p/{project.slug}/data/import/", {"format": "judged", "rows": " "})
    assert page.status_code == 422
    assert b"one of the two" in page.content


def test_a_file_that_cannot_be_read_on_says_why_in_the_preview(manager: Client, project: Project) -> None:
    job = upload(manager, project, b"PK\x03\x04 not rows")
    assert b"zip archive" in manager.get(f"/p/{project.slug}/data/import/{job.pk}/").content


def test_a_draft_is_read_as_another_format_or_discarded(manager: Client, project: Project) -> None:
    job = upload(manager, project, as_lines([{"instruction": "Say hello."}]))
    act = f"/p/{project.slug}/data/import/{job.pk}/act/"
    manager.post(act, {"do": "format", "format": "prompts"})
    page = manager.get(f"/p/{project.slug}/data/import/{job.pk}/")
    assert len(page.context["preview"].rows) == 1
    refused = manager.post(act, {"do": "format", "format": "no-such"}, follow=True)
    assert b"one of judged" in refused.content
    manager.post(act, {"do": "discard"})
    assert not ImportJob.objects.filter(pk=job.pk).exists()
    assert not file_of(job).exists()


def test_columns_of_other_names_are_mapped_on_the_page(manager: Client, project: Project) -> None:
    job = upload(manager, project, as_lines([{"frage": "Why?", "gut": "Because.", "schlecht": "No."}]))
    url, act = f"/p/{project.slug}/data/import/{job.pk}/", f"/p/{project.slug}/data/import/{job.pk}/act/"
    manager.post(act, {"do": "format", "format": "preference"})
    page = manager.get(url)
    assert page.context["preview"].rows == []
    assert [field.label for field in page.context["form"].column_fields()] == ["frage", "gut", "schlecht"]

    chosen = {"column_0": "prompt", "column_1": "chosen", "column_2": "rejected"}
    manager.post(act, {"do": "format", "format": "preference", **chosen})
    page = manager.get(url)
    assert len(page.context["preview"].rows) == 1
    assert page.context["form"]["column_0"].value() == "prompt"
    twice = manager.post(act, {"do": "format", "format": "preference", **chosen, "column_2": "chosen"}, follow=True)
    assert b"filled from two columns" in twice.content

    manager.post(act, {"do": "import"})
    run_import(job_id=job.pk)
    assert Task.objects.filter(project=project).count() == 1


def test_drafts_that_nobody_came_back_to_are_swept(manager: Client, project: Project) -> None:
    old, fresh = (upload(manager, project, as_lines([judged_row(n)])) for n in range(2))
    ImportJob.objects.filter(pk=old.pk).update(created_at="2020-01-01T00:00Z")
    assert forget_drafts() == 1
    assert list(ImportJob.objects.values_list("pk", flat=True)) == [fresh.pk]
    assert not file_of(old).exists()


def test_the_progress_renews_itself_until_it_ends_and_then_the_page_does(manager: Client, project: Project) -> None:
    job = upload(manager, project, as_lines(judged_rows(3)))
    url = f"/p/{project.slug}/data/import/{job.pk}/"
    manager.post(f"{url}act/", {"do": "import"})
    part = manager.get(url, headers={"hx-request": "true"})
    assert b"every 1s" in part.content
    assert "hx-refresh" not in part.headers
    run_import(job_id=job.pk)
    part = manager.get(url, headers={"hx-request": "true"})
    assert part["hx-refresh"] == "true"
    assert b"every 1s" not in part.content


def test_an_import_of_another_project_is_not_found(manager: Client, project: Project) -> None:
    other = run_rows(make_project(), [judged_row(0)])
    assert manager.get(f"/p/{project.slug}/data/import/{other.pk}/").status_code == 404
