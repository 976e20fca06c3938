"""Foreign keys hold after an import that has them checked by the batch, and nothing that it names goes meanwhile."""

import hashlib
import json
import threading
from typing import Any
from unittest.mock import patch
from uuid import UUID

import pytest
from django.db import IntegrityError, OperationalError, connection, transaction
from psycopg.errors import CheckViolation

from feedback_app.accounts.models import User
from feedback_app.annotation.models import Assignment, Judgment, Prompt, Task, TaskResponse
from feedback_app.datasets.copying import fresh_ids, hold_rows, keys_by_the_batch
from feedback_app.datasets.loading import Loader
from feedback_app.datasets.rows import Row, imported_protocol, parse_row
from feedback_app.projects.models import Member, Project
from feedback_app.projects.presets import PRESETS
from tests.factories import make_project
from tests.web.judged import judged_row, judged_rows, run_rows

KEYS = """
    SELECT child.relname, mine.attname, parent.relname, theirs.attname
    FROM pg_constraint key
    JOIN pg_class child ON child.oid = key.conrelid
    JOIN pg_class parent ON parent.oid = key.confrelid
    JOIN pg_attribute mine ON mine.attrelid = key.conrelid AND mine.attnum = key.conkey[1]
    JOIN pg_attribute theirs ON theirs.attrelid = key.confrelid AND theirs.attnum = key.confkey[1]
    WHERE key.contype = 'f' AND child.relname LIKE 'annotation_%'
"""


def broken_keys() -> list[tuple[str, str]]:
    """Return the foreign keys of the annotation tables that some row breaks."""
    broken = []
    with connection.cursor() as cursor:
        cursor.execute(KEYS)
        for child, mine, parent, theirs in cursor.fetchall():
            cursor.execute(
                f"SELECT count(*) FROM {child} c WHERE c.{mine} IS NOT NULL"
                f" AND NOT EXISTS (SELECT FROM {parent} p WHERE p.{theirs} = c.{mine})"
            )
            if cursor.fetchone()[0]:
                broken.append((child, mine))
    return broken


def rows_of(*values: dict[str, Any]) -> list[Row]:
    protocol = imported_protocol(PRESETS["pairwise"])
    return [parse_row(line, value, protocol=protocol) for line, value in enumerate(values, start=1)]


def role_now() -> str:
    with connection.cursor() as cursor:
        cursor.execute("SHOW session_replication_role")
        return str(cursor.fetchone()[0])


@pytest.mark.django_db
def test_every_foreign_key_holds_after_imports_of_new_and_known_rows() -> None:
    project = make_project()
    run_rows(project, [judged_row(0, judgments=[]), *judged_rows(10)[1:]])
    # A known task with new judgments, a known prompt with other responses, a prompt alone.
    other = judged_row(1, responses=[{"text": "a"}, {"text": "b"}])
    job = run_rows(project, [judged_row(0), other, {"prompt": "alone"}])
    assert job.rows_new == 3
    assert broken_keys() == []
    with connection.cursor() as cursor:  # and the measure sees a broken one
        cursor.execute("SET LOCAL session_replication_role = replica")
        cursor.execute("DELETE FROM annotation_prompt WHERE messages->0->>'content' = 'alone'")
        assert broken_keys() == []
        cursor.execute("DELETE FROM annotation_prompt WHERE messages->0->>'content' = 'Question 1?'")
        cursor.execute("SET LOCAL session_replication_role = origin")
    assert set(broken_keys()) == {("annotation_task", "prompt_id"), ("annotation_response", "prompt_id")}


@pytest.mark.django_db
def test_a_batch_that_names_a_deleted_annotator_is_refused_whole() -> None:
    project = make_project()
    loader = Loader(project=project)
    loader.load(rows_of(judged_row(0)))
    # The loader still knows the account's id.
    gone = User.objects.get(username=f"imported:{project.pk}:annotator2")
    for model in (Judgment, Assignment, Member):
        model.objects.filter(**{"user" if model is Member else "annotator": gone}).delete()
    gone.delete()
    with pytest.raises(IntegrityError, match="accounts_user"), transaction.atomic():
        loader.load(rows_of(judged_row(1)))
    assert Prompt.objects.filter(project=project).count() == Task.objects.filter(project=project).count() == 1


@pytest.mark.django_db
def test_a_prompt_that_somebody_else_makes_meanwhile_is_taken_as_it_is() -> None:
    project = make_project()
    loader = Loader(project=project)
    loader.load(rows_of({"prompt": "Question 0?"}))
    theirs = Prompt.objects.get(project=project)
    known = loader._known_prompts
    with patch.object(loader, "_known_prompts") as looked:
        # Looked for a moment before it was there, and again once the constraint has spoken.
        looked.side_effect = lambda digests: known(digests) if looked.call_count > 1 else {}
        loaded = loader.load(rows_of(judged_row(0), judged_row(1)))
    assert (loaded.new, looked.call_count) == (2, 2)
    assert Task.objects.filter(prompt=theirs).count() == 1
    assert Prompt.objects.filter(project=project).count() == 2


@pytest.mark.django_db
def test_another_broken_constraint_is_an_error_and_no_endless_try() -> None:
    project = make_project()
    with connection.cursor() as cursor:
        cursor.execute("ALTER TABLE annotation_prompt ADD CONSTRAINT never CHECK (source <> 'x')")
    with pytest.raises(CheckViolation, match="never"), transaction.atomic():
        Loader(project=project).load(rows_of(judged_row(0, source="x")))
    assert role_now() == "origin"


@pytest.mark.django_db(transaction=True)
def test_what_a_batch_names_cannot_be_deleted_until_it_is_stored() -> None:
    project = make_project()
    outcome: list[Exception] = []

    def delete() -> None:
        try:
            with connection.cursor() as cursor:
                cursor.execute("SET lock_timeout = '200ms'")
                cursor.execute("DELETE FROM projects_project WHERE id = %s", [project.pk])
        except OperationalError as error:
            outcome.append(error)
        finally:
            connection.close()

    with transaction.atomic():
        hold_rows(Project._meta.db_table, [project.pk])
        thread = threading.Thread(target=delete)
        thread.start()
        thread.join()
    assert "lock timeout" in str(outcome[0])
    with pytest.raises(IntegrityError, match="projects_project"):
        hold_rows(Project._meta.db_table, [project.pk, -1])


@pytest.mark.django_db
def test_keys_are_by_the_batch_within_alone_and_only_for_who_may() -> None:
    with keys_by_the_batch():
        assert role_now() == "replica"
    assert role_now() == "origin"
    with pytest.raises(ZeroDivisionError), keys_by_the_batch():
        1 / 0  # noqa: B018
    assert role_now() == "origin"
    with connection.cursor() as cursor:
        cursor.execute("CREATE ROLE plain_user")
        cursor.execute("SET LOCAL ROLE plain_user")
        with keys_by_the_batch():
            assert role_now() == "origin"
        cursor.execute("RESET ROLE")


@pytest.mark.parametrize("external_id", ["", 'row\\ "7" \u00e9'])
def test_a_rows_identity_is_sha256_of_its_json_for_ever(external_id: str) -> None:
    answers = [{"text": "Yes \U0001f600\n\x7f", "model": "llama"}, {"text": 'No "\u2028', "model": ""}]
    row = rows_of(judged_row(0, responses=answers, external_id=external_id))[0]
    pairs = [[answer["text"], answer["model"]] for answer in answers]
    known_by = ["external_id", external_id] if external_id else ["content", row.content_sha256, pairs]
    assert row.identity_sha256 == hashlib.sha256(json.dumps(known_by).encode()).hexdigest()


def test_ids_are_version_4_never_twice_and_rise_within_a_draw() -> None:
    ids = fresh_ids(1000)
    made = [next(ids) for _ in range(2500)]  # of three draws
    assert len(set(made)) == 2500
    assert [made[:1000], made[1000:2000], made[2000:]] == [
        sorted(made[:1000]), sorted(made[1000:2000]), sorted(made[2000:])
    ]  # fmt: skip
    assert {(UUID(pk).version, UUID(pk).variant, str(UUID(pk)) == pk) for pk in made} == {
        (4, "specified in RFC 4122", True)
    }


@pytest.mark.django_db
def test_ids_do_not_say_which_response_stands_first() -> None:
    # Of 60 pairs of ids in an order of chance, fewer than 10 or more than 50 rise once in 30 million runs.
    project = make_project()
    run_rows(project, judged_rows(60))
    first, second = ([str(pk) for pk in TaskResponse.objects.filter(task__project=project, position=place)
                      .order_by("task").values_list("response", flat=True)] for place in (0, 1))  # fmt: skip
    assert 10 <= sum(a < b for a, b in zip(first, second, strict=True)) <= 50
