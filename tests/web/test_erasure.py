"""What is erased is gone: from the tables, from every later version, from what an import may bring; and it is told."""

import json
from collections import Counter
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any
from uuid import UUID, uuid4

import pytest
from django.core.exceptions import ValidationError
from django.core.management import CommandError, call_command
from django.db import connection
from django.db.models import F
from django.test import Client
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from feedback_app.accounts.models import AuditEntry, User
from feedback_app.annotation.models import Assignment, Judgment, Prompt, Response, Task
from feedback_app.annotation.services import next_task
from feedback_app.annotation.services.reviewing import review_judgment
from feedback_app.datasets.models import DatasetVersion
from feedback_app.datasets.selectors import duplicates_of, lineage_of
from feedback_app.datasets.services import (
    create_dataset_version,
    erase_from_project,
    erasing,
    folder_of,
    measure_duplicates,
    versions,
)
from feedback_app.datasets.services.versions import file_names
from feedback_app.projects.models import Member, Project
from feedback_app.rounds.models import Round
from feedback_app.serving.models import PolicyVersion
from tests.factories import canonical_ids, make_judgment, make_policy, make_project, make_task, make_token, make_user
from tests.web.judged import RANKINGS, judged_row, judged_rows, refusals, run_rows

pytestmark = pytest.mark.django_db


def everything_in(version: DatasetVersion) -> str:
    return "".join((folder_of(version) / name).read_bytes().decode("latin-1") for name in file_names(version))


def check_counters(project: Project) -> None:
    """Assert that every task counts the judgments it has and reserves what is reserved."""
    for task in Task.objects.filter(project=project):
        live = Judgment.objects.filter(task=task, surplus=False, voided_at=None).count()
        held = Assignment.objects.filter(task=task, state=Assignment.State.RESERVED).count()
        assert (task.counted, task.reserved) == (live, held)
        assert task.open == (task.overlap is None or live + held < task.overlap)


def test_an_imported_annotators_verdicts_go_and_no_import_brings_them_back() -> None:
    project = make_project()
    rows = judged_rows(10)
    run_rows(project, rows)
    outcome = erase_from_project(project=project, erased_by=None, annotator="annotator2")
    assert (outcome.erasure.judgments, Judgment.objects.filter(project=project).count()) == (10, 20)
    assert not Judgment.objects.filter(annotator__display_name="annotator2").exists()
    check_counters(project)
    again = run_rows(project, rows)
    assert (again.rows_new, again.rows_refused) == (0, 10)
    assert set(refusals(again).values()) == {"judgments[1].annotator: was erased from this project"}
    assert Judgment.objects.filter(project=project).count() == 20
    # The same name in another project is another person.
    assert run_rows(make_project(), rows).rows_refused == 0


def test_a_prompt_goes_with_all_that_hangs_on_it() -> None:
    project = make_project()
    run_rows(project, judged_rows(3))
    prompt = Prompt.objects.get(messages__0__content="Question 1?")
    outcome = erase_from_project(project=project, erased_by=None, prompt=prompt.pk)
    assert (outcome.erasure.judgments, outcome.erasure.tasks) == (3, 1)
    assert (Prompt.objects.count(), Task.objects.count(), Response.objects.count()) == (2, 2, 4)
    assert (Judgment.objects.count(), Assignment.objects.count()) == (6, 6)
    again = run_rows(project, judged_rows(3))
    assert (again.rows_known, refusals(again)) == (2, {2: "prompt: was erased from this project"})


def test_places_come_back_and_reservations_and_decisions_go() -> None:
    project = make_project(overlap=2)
    leaver, other = make_user(project, username="leaver"), make_user(project)
    first, second = make_task(project), make_task(project)
    make_judgment(first, leaver)
    judged = make_judgment(first, other)
    assert next_task(project=project, annotator=leaver) is not None  # holds the second
    review_judgment(
        judgment_id=judged.pk, reviewer=leaver, outcome="overruled",
        verdict={"ranking": [[canonical_ids(first)[1]], [canonical_ids(first)[0]]]},
    )  # fmt: skip
    outcome = erase_from_project(project=project, erased_by=None, annotator="leaver")
    assert outcome.erasure.judgments == 1
    check_counters(project)
    assert not Assignment.objects.filter(annotator=leaver).exists()
    assert not hasattr(Task.objects.get(pk=first.pk), "adjudication")
    # The first has one verdict of two again, the second none: a newcomer gets both.
    newcomer = make_user(project)
    given = {
        make_judgment(task, newcomer).task_id for task in Task.objects.filter(project=project).order_by("position")
    }
    assert given == {first.pk, second.pk}


def test_versions_that_held_it_are_marked_and_made_anew_and_others_are_not() -> None:
    project = make_project()
    run_rows(project, judged_rows(10))
    whole = create_dataset_version(project=project, format="judgments", options={})
    older = create_dataset_version(project=project, format="judgments", options={})
    other = create_dataset_version(project=project, format="judgments", options={"annotators": ["annotator1"]})
    outcome = erase_from_project(project=project, erased_by=None, annotator="annotator2")
    assert outcome.marked == [whole, older]
    whole.refresh_from_db()
    other.refresh_from_db()
    assert whole.taint_reason == "10 of its judgments were erased since"
    assert other.tainted_at is None
    # Of two versions of one kind one is made anew.
    (renewed,) = outcome.renewed
    assert (renewed.number, renewed.options) == (4, whole.options)
    assert "annotator2" in everything_in(whole)
    assert "annotator2" not in everything_in(renewed)
    assert renewed.manifest["judgments"] == whole.manifest["judgments"] - 10


def test_nothing_names_the_erased_any_more() -> None:
    project = make_project()
    run_rows(project, judged_rows(10))
    other_verdict = judged_row(0, judgments=[{"annotator": "annotator2", "ranking": [[1], [0]]}])
    refused = run_rows(project, [other_verdict])
    assert "'annotator2'" in refusals(refused)[1]
    measure_duplicates(project=project, threshold=0.1)
    for names in (["annotator1", "annotator2"], ["annotator2"]):
        create_dataset_version(project=project, format="preference", options={"annotators": names})
    outcome = erase_from_project(project=project, erased_by=None, annotator="annotator2")
    # The version of two people goes on with one; that of nobody else ends, for no choice would be everybody.
    assert [version.options["annotators"] for version in outcome.renewed] == [["annotator1"]]
    assert "annotator2" not in everything_in(outcome.renewed[0])
    assert "(erased) has judged this row" in refusals(refused)[1]
    assert duplicates_of(project=project) is None  # it holds beginnings of prompts


def test_a_version_whose_rows_were_read_before_an_erasure_is_made_anew_without_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    project = make_project()
    run_rows(project, judged_rows(3))
    erase_after_reading(monkeypatch, project, ["annotator2"])
    version = create_dataset_version(project=project, format="judgments", options={})
    assert "annotator2" not in everything_in(version)
    assert version.manifest["judgments"] == 6  # of three rows with three judgments each
    # By name, it would be made anew of the rest alone, and its manifest would go on naming them.
    erase_after_reading(monkeypatch, project, ["annotator1"])
    with pytest.raises(ValidationError, match="erased from the project"):
        create_dataset_version(
            project=project, format="judgments", options={"annotators": ["annotator1", "annotator3"]}
        )
    # The first version held annotator1's too, and was made anew; the refused one is not there.
    assert [
        annotator in everything_in(DatasetVersion.objects.get(number=2)) for annotator in ("annotator1", "annotator3")
    ] == [False, True]
    assert DatasetVersion.objects.filter(project=project).count() == 2


def erase_after_reading(monkeypatch: pytest.MonkeyPatch, project: Project, names: list[str]) -> None:
    write = versions._write_files

    def write_then_erase(*given: Any) -> Any:
        tally = write(*given)
        while names:
            erase_from_project(project=project, erased_by=None, annotator=names.pop())
        return tally

    monkeypatch.setattr(versions, "_write_files", write_then_erase)


@pytest.mark.django_db(transaction=True)
def test_a_version_does_not_slip_in_while_an_erasure_marks_those_that_are_there(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    project = make_project()
    run_rows(project, judged_rows(3))
    mark = erasing._mark_versions
    with ThreadPoolExecutor(1) as pool:
        making: list[Future[DatasetVersion]] = []

        def make() -> DatasetVersion:
            try:
                return create_dataset_version(project=project, format="judgments", options={})
            finally:
                connection.close()

        def mark_and_wait(*given: Any) -> Any:
            marked = mark(*given)
            making.append(pool.submit(make))
            # It reads what is not erased yet to others, and waits to be stored; unlocked, it would be by now.
            with pytest.raises(TimeoutError):
                making[0].result(timeout=1)
            return marked

        monkeypatch.setattr(erasing, "_mark_versions", mark_and_wait)
        erase_from_project(project=project, erased_by=None, annotator="annotator2")
        assert "annotator2" not in everything_in(making[0].result(timeout=30))


def test_withdrawn_versions_have_no_files_left() -> None:
    project = make_project()
    run_rows(project, judged_rows(10))
    manager = make_user(project, Member.Role.MANAGER)
    client = Client(headers={"authorization": f"Token {make_token(manager)}"})
    version = create_dataset_version(project=project, format="judgments", options={})
    body = {"annotator": "annotator2", "withdraw": True}
    answer = client.post(f"/api/v1/projects/{project.slug}/erasures/", body, content_type="application/json")
    assert answer.status_code == 201
    assert (answer.json()["withdrawn"], answer.json()["renewed"], answer.json()["judgments"]) == ([1], [2], 10)
    assert not folder_of(version).exists()
    assert client.get(f"/api/v1/datasets/{version.pk}/download/").status_code == 410
    assert client.get(f"/api/v1/datasets/{version.pk}/").json()["withdrawn_at"] is not None
    # A second erasure looks at what still has files.
    assert erase_from_project(project=project, erased_by=None, annotator="annotator3").marked[0].number == 2


def test_policies_that_learned_from_it_are_marked_with_all_that_came_of_them() -> None:
    project = make_project()
    run_rows(project, judged_rows(10))
    version = create_dataset_version(project=project, format="preference", options={})
    base, learned, later, apart = (make_policy(project, number) for number in range(4))
    PolicyVersion.objects.filter(pk=learned.pk).update(parent=base)
    PolicyVersion.objects.filter(pk=later.pk).update(parent=learned)
    PolicyVersion.objects.filter(pk=apart.pk).update(parent=base)
    Round.objects.create(
        project=project, number=1, config={}, dataset=version, policy=learned, state=Round.State.SUCCEEDED
    )
    assert lineage_of(version=version)["policies"] == [learned.name]
    assert lineage_of(version=version)["descendants"] == [later.name]
    outcome = erase_from_project(project=project, erased_by=None, annotator="annotator1")
    assert outcome.policies == [learned, later]
    tainted = PolicyVersion.objects.exclude(tainted_at=None).values_list("name", flat=True)
    assert set(tainted) == {learned.name, later.name}


def test_the_trail_says_that_and_when_but_not_of_whom() -> None:
    project = make_project()
    run_rows(project, judged_rows(2))
    manager = make_user(project, Member.Role.MANAGER)
    erase_from_project(project=project, erased_by=manager, annotator="annotator1")
    entry = AuditEntry.objects.get(action="data.erase_annotator")
    assert (entry.actor, entry.detail["judgments"]) == (manager, 2)
    assert "annotator1" not in json.dumps(entry.detail) + entry.subject


def test_the_command_erases_and_says_what_it_marked(capsys: pytest.CaptureFixture[str]) -> None:
    project = make_project()
    run_rows(project, judged_rows(2))
    call_command("erase", project.slug, "--annotator", "annotator1")
    assert json.loads(capsys.readouterr().out)["judgments"] == 2
    prompt = Prompt.objects.filter(project=project).first()
    assert prompt is not None
    call_command("erase", project.slug, "--prompt", str(prompt.pk))
    assert json.loads(capsys.readouterr().out)["tasks"] == 1
    for arguments in (("--annotator", "nobody"), ("--prompt", str(uuid4()))):
        with pytest.raises(CommandError, match="the project"):
            call_command("erase", project.slug, *arguments)


def test_only_managers_erase_and_a_bad_request_names_its_field() -> None:
    project = make_project()
    run_rows(project, judged_rows(1))
    url = f"/api/v1/projects/{project.slug}/erasures/"

    def post(role: Member.Role, body: Any) -> Any:
        client = Client(headers={"authorization": f"Token {make_token(make_user(project, role))}"})
        return client.post(url, body, content_type="application/json")

    assert post(Member.Role.REVIEWER, {"annotator": "annotator1"}).status_code == 403
    both = {"annotator": "x", "prompt": str(uuid4())}
    for body, name in (({}, "annotator"), (both, "annotator"), ({"who": 1}, "who"), ({"prompt": "x"}, "prompt"),
                       ({"annotator": "nobody"}, "annotator")):  # fmt: skip
        answer = post(Member.Role.MANAGER, body)
        assert (answer.status_code, list(answer.json())) == (400, [name])
    assert Judgment.objects.count() == 3
    with pytest.raises(ValidationError):
        erase_from_project(project=make_project(), erased_by=None, annotator="annotator1")


NAMES = ("ann", "bob", "cid")
VERDICTS = st.lists(st.tuples(*[st.sampled_from([None, 0, 1, 2])] * 3), min_size=1, max_size=8)


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(table=VERDICTS, leaver=st.sampled_from(NAMES), prompt=st.integers(0, 7))
def test_nothing_of_an_erased_person_or_prompt_is_in_any_later_version(
    table: list[tuple[int | None, ...]], leaver: str, prompt: int
) -> None:
    project = make_project()
    rows = [
        judged_row(number, judgments=[
            {"annotator": name, "ranking": RANKINGS[verdict], "rationale": f"says {name}"}
            for name, verdict in zip(NAMES, verdicts, strict=True) if verdict is not None
        ])
        for number, verdicts in enumerate(table)
    ]  # fmt: skip
    run_rows(project, rows)
    said = Counter(name for verdicts in table for name, v in zip(NAMES, verdicts, strict=True) if v is not None)
    if said[leaver]:
        erase_from_project(project=project, erased_by=None, annotator=leaver)
    gone: UUID | None = None
    if found := Prompt.objects.filter(project=project, messages__0__content=f"Question {prompt}?").first():
        gone = found.pk
        erase_from_project(project=project, erased_by=None, prompt=gone)
    run_rows(project, rows)
    left = Judgment.objects.filter(project=project)
    assert not left.filter(annotator__display_name=leaver).exists()
    for format in ("judgments", "preference"):
        try:
            version = create_dataset_version(project=project, format=format, options={})
        except ValidationError:
            continue  # nothing is left to export
        text = everything_in(version)
        assert f"says {leaver}" not in text
        assert f'"{leaver}"' not in text
        assert f"Question {prompt}?" not in text
        assert str(gone) not in text
    check_counters(project)
    assert Task.objects.filter(project=project, counted__gt=F("overlap")).count() == 0
    assert User.objects.filter(display_name=leaver).exists() or not said[leaver]
