"""Files with other people's column names come in by a mapping, are looked at first, and tried without a trace."""

import io
from typing import Any

import pytest
from django.core.exceptions import ValidationError
from django.core.management import call_command
from django.test import Client

from feedback_app.annotation.models import Judgment, Prompt
from feedback_app.datasets.mapping import map_row, parse_mapping
from feedback_app.datasets.models import ImportJob
from feedback_app.datasets.services import imports, preview_import, run_import, set_draft_format, start_import
from feedback_app.datasets.services.imports import file_of
from feedback_app.projects.models import Member
from tests.factories import make_project, make_token, make_user
from tests.web.judged import as_lines, judged_row, judged_rows, refusals, run_rows

pytestmark = pytest.mark.django_db


@pytest.mark.parametrize(
    ("mapping", "row", "mapped"),
    [
        ({"q": "prompt"}, {"q": "x", "z": 1}, {"prompt": "x", "z": 1}),
        ({"a": "b", "b": "a"}, {"a": 1, "b": 2}, {"a": 2, "b": 1}),  # exchanged
        ({"q": ""}, {"q": "x", "z": 1}, {"z": 1}),  # left out
        ({"d.q": "d.prompt"}, {"d": {"q": "x", "r": 1}}, {"d": {"prompt": "x", "r": 1}}),
        ({"a.b": "c"}, {"a.b": 1}, {"c": 1}),  # a column's own name holds a dot
        ({"b": "responses.1.text", "a": "responses.0.text"}, {"a": "x", "b": "y"},
         {"responses": [{"text": "x"}, {"text": "y"}]}),
        ({"a": "responses.0", "b": "responses.1"}, {"a": "x", "b": "y"}, {"responses": ["x", "y"]}),
        ({"missing": "prompt"}, {"z": 1}, {"z": 1}),
    ],
)  # fmt: skip
def test_columns_move_to_our_names_and_others_stay(mapping: Any, row: Any, mapped: Any) -> None:
    before = repr(row)
    assert map_row(row, parse_mapping(mapping)) == mapped
    assert repr(row) == before


def test_a_mapping_reads_alike_from_json_and_from_an_address() -> None:
    assert parse_mapping("question=prompt, answer = chosen,x=") == {"question": "prompt", "answer": "chosen", "x": ""}


@pytest.mark.parametrize(
    "given", ["prompt", 3, {"a": 1}, {"": "b"}, {"a": "b", "c": "b"}, {"a": "b", "c": "b.d"}, {"a": "r.9.text"},
              {"a": "x" * 300}, {"a\x00": "prompt"}, {"a": "\ud800"}]
)  # fmt: skip
def test_a_mapping_that_cannot_be_is_refused(given: Any) -> None:
    with pytest.raises(ValidationError, match="mapping"):
        parse_mapping(given)


def test_an_excel_file_of_semicolons_comes_in_by_its_own_names() -> None:
    # As Excel for Windows writes "CSV UTF-8" where the decimal mark is a comma.
    content = '\ufeffFrage;Gute Antwort;Schlechte Antwort\r\nWas?;Dies, ja.;"Nein;""so"""\r\n'.encode()
    mapping = {"Frage": "prompt", "Gute Antwort": "chosen", "Schlechte Antwort": "rejected"}
    job = run_rows(make_project(), content, format="preference", name="Mappe1.csv", mapping=mapping)
    assert (job.rows_new, refusals(job)) == (1, {})
    texts = Judgment.objects.get().task.responses.values_list("text", flat=True)
    assert set(texts) == {"Dies, ja.", 'Nein;"so"'}


def test_judged_rows_come_out_of_flat_columns() -> None:
    rows = [{"question": "Q?", "a": "x", "b": "y", "who": "ann", "order": [[1], [0]]}]
    mapping = (
        "question=prompt,a=responses.0.text,b=responses.1.text,who=judgments.0.annotator,order=judgments.0.ranking"
    )
    job = run_rows(make_project(), rows, mapping=mapping)
    assert refusals(job) == {}
    assert Judgment.objects.get().ranks == [1, 0]


def test_a_dry_run_reports_all_and_leaves_nothing() -> None:
    project = make_project()
    run_rows(project, judged_rows(3))
    job = run_rows(project, [*judged_rows(5), {"prompt": 1}], dry_run=True)
    assert (job.state, job.rows_read, job.rows_new, job.rows_known) == (ImportJob.State.DONE, 6, 2, 3)
    assert list(refusals(job)) == [6]
    assert Prompt.objects.filter(project=project).count() == 3
    assert not file_of(job).exists()


def test_a_dry_run_counts_what_the_import_then_does_across_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(imports, "BATCH", 2)
    project = make_project()
    run_rows(project, judged_rows(1))
    other = {"annotator": "annotator9", "ranking": [[0], [1]]}
    otherwise = {"annotator": "annotator1", "ranking": [[0, 1]]}
    named = judged_row(7, external_id="seven")
    rows = [
        judged_row(0), judged_row(1),  # stored before; new
        judged_row(1), judged_row(2),  # repeats one of the batch before; new
        judged_row(1, judgments=[other]), judged_row(0, judgments=[other]),  # one more judgment each: new
        judged_row(1, judgments=[other]), judged_row(0, judgments=[other]),  # repeats them
        judged_row(2, judgments=[otherwise]), {"prompt": "Alone?"},  # contradicts (line 9); new
        {"prompt": "Alone?"}, named,  # repeats; new
        judged_row(8, external_id="seven"), named,  # the name with another content (line 13); repeats
    ]  # fmt: skip
    tried = run_rows(project, rows, dry_run=True)
    counts = (tried.rows_new, tried.rows_known, sorted(refusals(tried)))
    assert counts == (6, 6, [9, 13])
    assert Prompt.objects.filter(project=project).count() == 1
    done = run_rows(project, rows)
    assert (done.rows_new, done.rows_known, sorted(refusals(done))) == counts
    assert refusals(tried) == refusals(done)


def test_a_dry_run_that_another_worker_takes_over_counts_from_the_first_row() -> None:
    project = make_project()
    job = start_import(
        project=project, format="judged", file_name="x.jsonl", content=io.BytesIO(as_lines(judged_rows(3) * 2)),
        requested_by=None, dry_run=True,
    )  # fmt: skip
    ImportJob.objects.filter(pk=job.pk).update(rows_read=3, rows_new=3)  # as the worker left it that died
    done = run_import(job_id=job.pk)
    assert done is not None
    assert (done.rows_read, done.rows_new, done.rows_known) == (6, 3, 3)


def test_a_preview_shows_the_columns_and_follows_the_mapping() -> None:
    rows = [{"q": f"Q{n}?", "meta": {"lang": "en"}} for n in range(30)]
    job = start_import(
        project=make_project(), format="prompts", file_name="x.jsonl", content=io.BytesIO(as_lines(rows)),
        requested_by=None, state=ImportJob.State.DRAFT,
    )  # fmt: skip
    before = preview_import(job=job)
    assert (before.columns, before.rows, len(before.refused), before.more) == (["q", "meta.lang"], [], 20, True)
    set_draft_format(job=job, format="prompts", mapping={"q": "prompt", "meta.lang": "language"})
    after = preview_import(job=job)
    assert [(row.messages[0]["content"], row.language) for row in after.rows[:2]] == [("Q0?", "en"), ("Q1?", "en")]
    assert (len(after.rows), after.refused) == (20, [])
    assert Prompt.objects.count() == 0


def test_the_api_takes_both_as_parameters_or_fields() -> None:
    project = make_project()
    manager = make_user(project, Member.Role.MANAGER)
    client = Client(headers={"authorization": f"Token {make_token(manager)}"})
    url = f"/api/v1/projects/{project.slug}/imports/"
    body = {"rows": [{"q": "One?"}], "format": "prompts", "mapping": {"q": "prompt"}, "dry_run": True}
    made = client.post(url, body, content_type="application/json")
    assert (made.status_code, made.json()["dry_run"], made.json()["mapping"]) == (202, True, {"q": "prompt"})
    job = run_import(job_id=made.json()["id"])
    assert job is not None
    assert (job.state, job.rows_new, Prompt.objects.count()) == ("done", 1, 0)
    query = f"{url}?format=prompts&mapping=q%3Dprompt&dry_run=false"
    made = client.post(query, as_lines([{"q": "One?"}]), content_type="application/jsonl")
    run_import(job_id=made.json()["id"])
    assert Prompt.objects.count() == 1
    assert client.post(f"{url}?dry_run=perhaps", [], content_type="application/json").status_code == 400
    assert client.post(f"{url}?mapping=q", [], content_type="application/json").json().keys() == {"mapping"}


def test_the_command_takes_both(tmp_path: Any, capsys: pytest.CaptureFixture[str]) -> None:
    project = make_project()
    path = tmp_path / "rows.jsonl"
    path.write_bytes(as_lines([{"q": "One?"}]))
    arguments = ("import_data", project.slug, str(path), "--format", "prompts", "--map", "q=prompt")
    call_command(*arguments, "--dry-run")
    assert '"rows_new": 1' in capsys.readouterr().out
    assert Prompt.objects.count() == 0
    call_command(*arguments)
    assert Prompt.objects.count() == 1
