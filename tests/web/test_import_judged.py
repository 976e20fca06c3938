"""Judged rows come in once, whole or not at all, and a bad one is named by its line and field."""

from datetime import timedelta
from typing import Any
from unittest.mock import patch
from uuid import uuid4

import pytest
from django.utils import timezone

from feedback_app.accounts.models import User
from feedback_app.annotation.models import Assignment, Judgment, Prompt, Response, Task
from feedback_app.annotation.quality import measure_quality
from feedback_app.datasets.loading import Loader
from feedback_app.datasets.models import ImportJob
from feedback_app.datasets.services import claim_import, run_import, waiting_imports
from feedback_app.projects.models import Member
from tests.factories import make_project
from tests.web.judged import judged_row, judged_rows, refusals, run_rows

pytestmark = pytest.mark.django_db


def test_judged_rows_become_tasks_with_counted_judgments() -> None:
    project = make_project(overlap=2)
    job = run_rows(project, judged_rows(10))
    assert (job.state, job.rows_read, job.rows_new, job.rows_known, job.rows_refused) == ("done", 10, 10, 0, 0)
    assert Judgment.objects.filter(project=project, origin="imported", surplus=False).count() == 30
    task = Task.objects.get(project=project, prompt__messages=[{"role": "user", "content": "Question 3?"}])
    # Three judgments came where the project asks for two: they all count, and the task is full.
    assert (task.overlap, task.counted, task.reserved, task.open) == (3, 3, 0, False)
    answers = [(place.response.text, place.response.model_name) for place in task.task_responses.all()]
    assert answers == [("Yes 3.", "llama"), ("No 3.", "bloom")]
    ranks = {j.annotator.display_name: j.ranks for j in task.judgments.select_related("annotator")}
    assert ranks == {"annotator1": [0, 0], "annotator2": [0, 0], "annotator3": [0, 1]}
    assert set(Assignment.objects.filter(task=task).values_list("state", flat=True)) == {"submitted"}


def test_a_task_that_wants_more_judgments_stays_in_the_queue() -> None:
    project = make_project(overlap=5)
    run_rows(project, [judged_row(0), judged_row(1, judgments=[])])
    assert list(Task.objects.order_by("-counted").values_list("overlap", "counted", "open")) == [
        (5, 3, True),
        (5, 0, True),
    ]


def test_imported_annotators_belong_to_the_project_and_can_be_nobody_elses_account() -> None:
    first, second = make_project(), make_project()
    run_rows(first, judged_rows(2))
    run_rows(second, judged_rows(2))
    people = User.objects.filter(kind="imported")
    assert people.count() == 6  # the same name in two projects is two people
    user = people.get(username=f"imported:{first.pk}:annotator1")
    assert (user.display_name, user.has_usable_password()) == ("annotator1", False)
    assert Member.objects.get(user=user).project == first
    assert Member.objects.get(user=user).role == "annotator"


def test_running_it_again_adds_nothing() -> None:
    project = make_project()
    rows = [*judged_rows(5), judged_row(5, external_id="five")]
    run_rows(project, rows)
    before = [model.objects.count() for model in (Prompt, Response, Task, Assignment, Judgment, User)]
    again = run_rows(project, [*rows, *rows])
    assert (again.rows_new, again.rows_known, again.rows_refused) == (0, 12, 0)
    assert [model.objects.count() for model in (Prompt, Response, Task, Assignment, Judgment, User)] == before


def test_a_row_without_id_is_known_by_its_prompt_and_ordered_responses() -> None:
    project = make_project()
    row = judged_row(0, judgments=[])
    other_model = [{"text": "Yes 0.", "model": "opt"}, row["responses"][1]]
    run_rows(
        project,
        [
            row,
            judged_row(0, judgments=[], prompt=[{"role": "user", "content": "Question  0?"}]),  # the same prompt
            judged_row(0, judgments=[], responses=row["responses"][::-1]),
            judged_row(0, judgments=[], responses=other_model),
            judged_row(0, judgments=[], external_id="zero"),
        ],
    )
    assert Prompt.objects.count() == 1
    assert Task.objects.count() == 4


def test_a_known_row_brings_the_judgments_that_are_new_in_it() -> None:
    project = make_project()
    row = judged_row(0)
    run_rows(project, [judged_row(0, judgments=row["judgments"][:1]), judged_row(0, judgments=row["judgments"][1:2])])
    assert list(Task.objects.values_list("counted", "overlap", "open")) == [(2, 2, False)]
    job = run_rows(project, [row])
    assert (job.rows_new, job.rows_known) == (1, 0)
    assert list(Task.objects.values_list("counted", "overlap", "open")) == [(3, 3, False)]


def test_a_contradiction_of_what_is_stored_is_refused_not_lost() -> None:
    project = make_project()
    run_rows(project, [judged_row(0, external_id="a")])
    changed = judged_row(0, external_id="a")
    changed["judgments"][0]["ranking"] = [[1], [0]]
    job = run_rows(project, [judged_row(1, external_id="a"), changed])
    assert refusals(job) == {
        1: "external_id: 'a' is stored with another prompt or other responses",
        2: "judgments[0].annotator: 'annotator1' has judged this row otherwise already",
    }
    assert Judgment.objects.count() == 3


def test_a_voided_judgment_does_not_come_back() -> None:
    project = make_project()
    run_rows(project, [judged_row(0)])
    Judgment.objects.update(voided_at=timezone.now())
    assert run_rows(project, [judged_row(0)]).rows_known == 1
    assert Judgment.objects.filter(voided_at=None).count() == 0


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"prompt": 7}, "prompt: a text, or a list"),
        ({"prompt": ""}, None),
        ({"prompt": [{"role": "robot", "content": "x"}]}, "prompt[0].role"),
        ({"prompt": "a\x00b"}, "prompt[0].content"),
        ({"responses": [{"text": "one"}]}, "responses: the project's protocol takes exactly 2 responses, not 1"),
        ({"responses": [{"text": "one"}, {"text": False}]}, "responses[1].text: a text is needed, not true or false"),
        ({"responses": [{"text": "one"}, {"text": "\ud800"}]}, "responses[1].text: holds half a surrogate pair"),
        ({"responses": [{"text": "one"}, "two"]}, "responses[1]: an object"),
        ({"responses": [{"text": ""}, {"text": ""}], "judgments": []}, None),  # empty responses import
        ({"judgments": [{"ranking": [[0], [1]]}]}, "judgments[0].annotator: is required"),
        ({"judgments": [{"annotator": "a"}]}, "judgments[0].ranking: is required"),
        ({"judgments": [{"annotator": "a", "ranking": [[0], [2]]}]}, "judgments[0].ranking: 2 is no response"),
        ({"judgments": [{"annotator": "a", "ranking": [[0], ["1"]]}]}, "judgments[0].ranking: an index"),
        ({"judgments": [{"annotator": "a", "ranking": [[0], [True]]}]}, "judgments[0].ranking: an index"),
        ({"judgments": [{"annotator": "a", "ranking": [[0, 1], [1]]}]}, "judgments[0].ranking: 1 stands in it twice"),
        ({"judgments": [{"annotator": "a", "ranking": [[0]]}]}, "judgments[0].ranking: this protocol wants every"),
        (
            {"judgments": [{"annotator": "a", "ranking": [[0, 1]], "strength": 2}]},
            "judgments[0].strength: is 0 on a tie",
        ),
        ({"judgments": [{"annotator": "a", "ranking": [[0], [1]], "vote": 1}]}, "judgments[0].vote: unknown field"),
        ({"judgments": [{"annotator": "a", "ranking": [[0], [1]], "created_at": "soon"}]}, "judgments[0].created_at"),
        ({"external_id": "x" * 201}, "external_id: longer than 200 characters"),
    ],
)
def test_a_bad_row_is_named_and_imports_nothing_of_itself(changes: dict[str, Any], reason: str | None) -> None:
    project = make_project()
    job = run_rows(project, [judged_row(0), judged_row(1, **changes), judged_row(2)])
    if reason is None:
        assert refusals(job) == {}
        return
    assert list(refusals(job)) == [2]
    assert reason in refusals(job)[2]
    assert (job.state, job.rows_new, job.rows_refused) == ("done", 2, 1)
    assert (Prompt.objects.count(), Task.objects.count(), Response.objects.count()) == (2, 2, 4)


def test_what_a_protocol_requires_of_its_annotators_is_not_required_of_a_file() -> None:
    project = make_project(protocol="pairwise-strength")
    assert run_rows(project, [judged_row(0)]).rows_new == 1
    ratings = {"0": {"helpfulness": 4}, "1": {"helpfulness": 1, "verbosity": 2}}
    row = judged_row(0, judgments=[{"annotator": "a", "ratings": ratings}])
    assert "judgments[0].ratings: this protocol asks for no ratings" in refusals(run_rows(project, [row]))[1]


def test_text_is_stored_as_it_came() -> None:
    project = make_project()
    text = 'tab\t line\nfeed \r\\N \\ "quoted" {braces} 中文 \u202e \x01'
    run_rows(project, [judged_row(0, prompt=text, responses=[{"text": text, "model": text}, {"text": ""}])])
    task = Task.objects.get()
    assert task.prompt.messages == [{"role": "user", "content": text}]
    first, second = (place.response for place in task.task_responses.select_related("response"))
    assert (first.text, first.model_name, second.text) == (text, text, "")


def test_kappas_survive_the_import() -> None:
    # The same verdicts put through scikit-learn, annotator by annotator, on first / second / tie.
    from sklearn.metrics import cohen_kappa_score

    from tests.web.judged import VERDICTS

    project = make_project()
    run_rows(project, judged_rows(10))
    measured = {(pair["a"], pair["b"]): pair["kappa"] for pair in measure_quality(project=project)["cohen_kappa"]}
    assert len(measured) == 3
    for (a, b), kappa in measured.items():
        columns = [[row[int(name[-1]) - 1] for row in VERDICTS] for name in (a, b)]
        assert kappa == pytest.approx(cohen_kappa_score(*columns))


def test_one_worker_has_a_job_and_a_dead_ones_job_goes_on_where_it_was() -> None:
    project = make_project()
    job = ImportJob.objects.create(project=project, format="judged", file_name="x", path="imports/x")
    assert claim_import(job_id=job.pk) is not None
    assert claim_import(job_id=job.pk) is None
    assert run_import(job_id=job.pk) is None
    assert waiting_imports() == []
    ImportJob.objects.update(lease_until=timezone.now() - timedelta(seconds=1))
    assert waiting_imports() == [job.pk]
    assert claim_import(job_id=uuid4()) is None


def test_an_import_killed_between_batches_ends_with_the_same_result() -> None:
    import io

    from feedback_app.datasets.services import start_import
    from tests.web.judged import as_lines

    project = make_project()
    rows = [*judged_rows(5), {"prompt": "x", "responses": 3}]
    job = start_import(
        project=project, format="judged", file_name="rows.jsonl", content=io.BytesIO(as_lines(rows)), requested_by=None
    )
    with patch("feedback_app.datasets.services.imports.BATCH", 2):
        loads: list[int] = []
        real = Loader.load

        def dying(self: Loader, batch: Any) -> Any:
            loads.append(len(batch))
            if len(loads) == 2:
                raise KeyboardInterrupt  # as if killed: nothing is written of the end
            return real(self, batch)

        with patch.object(Loader, "load", dying), pytest.raises(KeyboardInterrupt):
            run_import(job_id=job.pk)
        assert Task.objects.count() == 2
        assert run_import(job_id=job.pk) is None  # the lease still holds
        ImportJob.objects.update(lease_until=timezone.now() - timedelta(seconds=1))
        done = run_import(job_id=job.pk)
    assert done is not None
    assert (done.state, done.rows_read, done.rows_new, done.rows_known, done.rows_refused) == ("done", 6, 5, 0, 1)
    assert Task.objects.count() == 5
    assert list(refusals(done)) == [6]
