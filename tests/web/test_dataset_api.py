"""Imports, exports and dataset versions over HTTP: who may, what is answered, and that files are streamed."""

import gzip
import io
import json
import zipfile
from typing import Any

import pytest
from django.core.files.uploadedfile import SimpleUploadedFile
from django.test import Client

from feedback_app.annotation.models import Judgment, Prompt, Task
from feedback_app.datasets.models import ImportJob
from feedback_app.datasets.services import run_import
from feedback_app.projects.models import Member, Project
from tests.factories import make_project, make_token, make_user
from tests.web.judged import as_lines, judged_rows, run_rows

pytestmark = pytest.mark.django_db


def client_of(project: Project | None, role: Member.Role = Member.Role.MANAGER) -> Client:
    return Client(headers={"authorization": f"Token {make_token(make_user(project, role))}"})


@pytest.fixture
def project() -> Project:
    return make_project(slug="tea")


@pytest.fixture
def manager(project: Project) -> Client:
    return client_of(project)


def finish(client: Client, answer: Any) -> dict[str, Any]:
    """Do the job that a request has queued, as a worker would, and return what the API then says of it."""
    assert answer.status_code == 202, answer.content
    run_import(job_id=answer.json()["id"])
    return dict(client.get(f"/api/v1/imports/{answer.json()['id']}/").json())


def test_rows_come_as_json_as_a_form_file_or_as_the_body(project: Project, manager: Client) -> None:
    rows = judged_rows(4)
    url = "/api/v1/projects/tea/imports/?format=judged"
    answers = [
        manager.post(url, {"rows": rows[:1]}, content_type="application/json"),
        manager.post(url, rows[1:2], content_type="application/json"),
        manager.post(url, {"file": SimpleUploadedFile("a.jsonl", as_lines(rows[2:3]))}),
        manager.post(url, gzip.compress(as_lines(rows[3:])), content_type="application/gzip"),
    ]
    for answer in answers:
        assert answer.json()["state"] == "queued"
        done = finish(manager, answer)
        assert (done["state"], done["rows_new"], done["rows_refused"]) == ("done", 1, 0)
    assert Task.objects.filter(project=project).count() == 4
    assert len(manager.get("/api/v1/projects/tea/imports/").json()) == 4


def test_the_report_names_every_refused_row(manager: Client) -> None:
    rows = [judged_rows(1)[0], {"prompt": "=x"}, {"prompt": 1}, 7]
    answer = manager.post("/api/v1/projects/tea/imports/", rows, content_type="application/json")
    done = finish(manager, answer)
    assert (done["rows_read"], done["rows_new"], done["rows_refused"]) == (4, 2, 2)
    report = manager.get(f"/api/v1/imports/{done['id']}/report/")
    assert "attachment" in report["Content-Disposition"]
    refused = json.loads(b"".join(report))["refused"]
    assert [row["line"] for row in refused] == [3, 4]
    assert refused == done["refused"]
    as_csv = b"".join(manager.get(f"/api/v1/imports/{done['id']}/report/?file=csv")).decode()
    assert as_csv.splitlines()[0] == "line,reason"
    assert as_csv.splitlines()[2] == '4,"an object is needed, not a number"'


def test_a_prompt_file_makes_prompts_without_tasks(project: Project, manager: Client) -> None:
    content = b"prompt,language\nHow are you?,en\n" + "你好吗？,zh\n".encode()
    answer = manager.post(
        "/api/v1/projects/tea/imports/?format=prompts", {"file": SimpleUploadedFile("p.csv", content)}
    )
    assert finish(manager, answer)["rows_new"] == 2
    assert set(Prompt.objects.values_list("language", flat=True)) == {"en", "zh"}
    assert Task.objects.count() == 0


@pytest.mark.parametrize(
    ("url", "body", "field"),
    [
        ("imports/?format=word", [], "format"),
        ("imports/", {"row": []}, "rows"),
        ("imports/", 3, "rows"),
        ("datasets/", {"format": "nonsense"}, "format"),
        ("datasets/", {"options": {"colour": 1}}, "colour"),
        ("datasets/", {"file": "csv"}, "file"),
        ("datasets/", {"size": 1}, "size"),
        ("datasets/", {"wait": "maybe"}, "wait"),
        ("datasets/", {"wait": False, "options": {"policies": ["\ud800"]}}, "policies"),
        ("datasets/", {"options": {"annotators": ["a\x00"]}}, "annotators"),
        ("datasets/", {"options": {"annotators": ["a"] * 1001}}, "annotators"),
        ("datasets/", {"options": {"rating_weights": {"a\x00": 1}}}, "rating_weights"),
        ("datasets/", {"options": {"simulated": []}}, "simulated"),
        ("datasets/", {"options": {"since": "9999-12-31T23:59:59-12:00"}}, "since"),
        ("erasures/", {"annotator": "\ud800"}, "annotator"),
        ("erasures/", {"annotator": "a\x00"}, "annotator"),
        ("datasets/", {}, "options"),  # nothing to freeze yet
    ],
)
def test_a_bad_request_names_its_field(manager: Client, url: str, body: Any, field: str) -> None:
    answer = manager.post(f"/api/v1/projects/tea/{url}", body, content_type="application/json")
    assert answer.status_code == 400
    assert list(answer.json()) == [field]


@pytest.mark.parametrize(
    "query", ["format=nonsense", "file=doc", "split=dev", "colour=red", "simulated=maybe", "languages=%00"]
)
def test_a_bad_export_is_refused_before_it_begins(manager: Client, query: str) -> None:
    answer = manager.get(f"/api/v1/projects/tea/export/?{query}")
    assert answer.status_code == 400
    assert list(answer.json()) == [query.partition("=")[0]]


def test_exports_are_streamed_files_of_the_train_split_unless_asked(project: Project, manager: Client) -> None:
    run_rows(project, judged_rows(40))
    answer = manager.get("/api/v1/projects/tea/export/?format=preference")
    assert answer.status_code == 200
    assert answer.streaming
    assert answer["Content-Disposition"] == 'attachment; filename="tea-preference-train.jsonl"'
    train = [json.loads(line) for line in b"".join(answer).splitlines()]
    every = [json.loads(line) for line in b"".join(manager.get("/api/v1/projects/tea/export/?split=all")).splitlines()]
    prompts = {row["prompt_id"] for row in train}
    assert prompts == {str(pk) for pk in Prompt.objects.filter(split="train").values_list("pk", flat=True)} & {
        row["prompt_id"] for row in every
    }
    assert len(every) > len(train) > 0
    judgments = b"".join(manager.get("/api/v1/projects/tea/export/?format=judgments")).splitlines()
    assert sum(len(json.loads(line)["judgments"]) for line in judgments) == Judgment.objects.count() == 120
    for file, start in (("parquet", b"PAR1"), ("csv", b"prompt,chosen,rejected,id,margin,weight,prompt_id,")):
        assert b"".join(manager.get(f"/api/v1/projects/tea/export/?file={file}")).startswith(start)


def test_an_empty_export_is_an_empty_file(manager: Client) -> None:
    assert b"".join(manager.get("/api/v1/projects/tea/export/")) == b""
    assert b"".join(manager.get("/api/v1/projects/tea/export/?file=csv")).startswith(b"prompt,")


def test_a_dataset_version_is_made_shown_and_downloaded(project: Project, manager: Client) -> None:
    run_rows(project, judged_rows(40))
    url = "/api/v1/projects/tea/datasets/"
    answer = manager.post(url, {"format": "preference", "options": {"margin": "none"}}, content_type="application/json")
    assert answer.status_code == 201
    made = answer.json()
    assert (made["number"], made["format"], made["options"]["margin"]) == (1, "preference", "none")
    assert manager.get(f"/api/v1/datasets/{made['id']}/").json() == made
    assert [one["id"] for one in manager.get(url).json()] == [made["id"]]
    content = b"".join(manager.get(f"/api/v1/datasets/{made['id']}/download/"))
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        assert archive.testzip() is None
        assert json.loads(archive.read("manifest.json"))["content_sha256"] == made["content_sha256"]
        rows = archive.read("train.jsonl").splitlines()
    assert len(rows) == made["manifest"]["rows"]["train"]
    one = manager.get(f"/api/v1/datasets/{made['id']}/download/?file=train.jsonl")
    assert b"".join(one).splitlines() == rows
    for name in ("../../secret_key", "nothing.jsonl", "/etc/passwd"):
        assert manager.get(f"/api/v1/datasets/{made['id']}/download/", {"file": name}).status_code == 404


def test_only_managers_of_the_project_touch_its_data(project: Project, manager: Client) -> None:
    run_rows(project, judged_rows(10))
    dataset = manager.post("/api/v1/projects/tea/datasets/", {}, content_type="application/json").json()["id"]
    job = ImportJob.objects.get().pk
    reads = ["projects/tea/imports/", f"imports/{job}/", f"imports/{job}/report/", "projects/tea/export/",
             "projects/tea/datasets/", f"datasets/{dataset}/", f"datasets/{dataset}/download/"]  # fmt: skip
    writes = ["projects/tea/imports/", "projects/tea/datasets/"]
    stranger = client_of(make_project())
    for client, status in (
        (client_of(project, Member.Role.ANNOTATOR), 403),
        (client_of(project, Member.Role.REVIEWER), 403),
        (stranger, 404),
        (Client(), 401),
    ):
        assert {client.get(f"/api/v1/{path}").status_code for path in reads} == {status}
        sent = {client.post(f"/api/v1/{path}", {}, content_type="application/json").status_code for path in writes}
        assert sent == {status}
    assert ImportJob.objects.count() == 1


def test_a_worker_does_what_waits(project: Project, manager: Client, django_capture_on_commit_callbacks: Any) -> None:
    from unittest.mock import patch

    from feedback_app.datasets import tasks

    with patch.object(tasks.run_import_job, "delay") as rung, django_capture_on_commit_callbacks(execute=True):
        answer = manager.post("/api/v1/projects/tea/imports/", judged_rows(1), content_type="application/json")
    rung.assert_called_once_with(answer.json()["id"])
    with patch.object(tasks.run_import_job, "delay") as again:
        tasks.ring_waiting_imports()
    again.assert_called_once_with(answer.json()["id"])
    tasks.run_import_job(answer.json()["id"])
    assert ImportJob.objects.get().state == "done"
