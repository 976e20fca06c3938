"""What two dataset versions do not have in common is counted row by row, whatever files they are in."""

import pytest
from django.test import Client

from feedback_app.annotation.models import Judgment
from feedback_app.annotation.services import void_judgments
from feedback_app.datasets import differences
from feedback_app.datasets.differences import diff_versions
from feedback_app.datasets.services import create_dataset_version, erase_from_project
from feedback_app.projects.models import Member
from tests.factories import make_project, make_token, make_user
from tests.web.judged import judged_rows, run_rows

pytestmark = pytest.mark.django_db


def test_equal_versions_differ_in_nothing_whatever_their_files() -> None:
    project = make_project()
    run_rows(project, judged_rows(20))
    lines, again = (create_dataset_version(project=project, format="preference", options={}) for _ in range(2))
    typed = create_dataset_version(project=project, format="preference", options={}, file_type="parquet")
    total = sum(lines.manifest["rows"].values())
    report = diff_versions(version=again, against=lines)
    assert (report["equal"], report["options"], report["counts"]) == (True, {}, {})
    for other in (again, typed):
        rows = diff_versions(version=other, against=lines)["rows"]
        assert (rows["added"], rows["removed"], rows["changed"], rows["same"]) == (0, 0, 0, total)


def test_added_removed_and_changed_rows_are_counted_and_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(differences, "NAMED", 2)
    project = make_project()
    run_rows(project, judged_rows(10))
    before = create_dataset_version(project=project, format="preference", options={})
    # Row 10 has three verdicts for the first; row 1's three for the second are voided.
    run_rows(project, judged_rows(11))
    ids = list(Judgment.objects.filter(task__prompt__messages__0__content="Question 1?").values_list("pk", flat=True))
    void_judgments(project=project, voided_by=None, reason="asleep", judgments=ids)
    after = create_dataset_version(project=project, format="preference", options={"margin": "none"})
    report = diff_versions(version=after, against=before)
    assert report["options"] == {"margin": {"before": "small", "after": "none"}}
    assert report["judgments"] == {"added": 3, "removed": 3}
    rows = report["rows"]
    # No verdict states a strength: a margin of none is the 0 that it was.
    assert (rows["added"], rows["removed"], rows["changed"], rows["same"]) == (3, 3, 0, 21)
    assert len(rows["added_ids"]) == len(rows["removed_ids"]) == 2
    assert {name.rsplit(":", 1)[0] for name in rows["removed_ids"]} <= set(map(str, ids))
    # A pair keeps its id where its weight follows other voices.
    first, second = (
        create_dataset_version(project=project, format="preference", options={"combine": "majority", **more})
        for more in ({}, {"annotators": ["annotator1", "annotator2"]})
    )
    assert diff_versions(version=second, against=first)["rows"]["changed"] > 0


def test_versions_of_other_formats_and_withdrawn_ones_are_compared_by_their_manifests() -> None:
    project = make_project()
    run_rows(project, judged_rows(10))
    pairs = create_dataset_version(project=project, format="preference", options={})
    ranked = create_dataset_version(project=project, format="ranked", options={})
    report = diff_versions(version=ranked, against=pairs)
    assert report["options"]["format"] == {"before": "preference", "after": "ranked"}
    assert report["rows"] is None
    outcome = erase_from_project(project=project, erased_by=None, annotator="annotator1", withdraw=True)
    pairs.refresh_from_db()
    report = diff_versions(version=outcome.renewed[0], against=pairs)
    assert (report["rows"], report["judgments"]) == (None, None)
    assert report["counts"]["annotators"] == {"before": 3, "after": 2}


def test_the_api_compares_versions_of_one_project_only() -> None:
    project, other = make_project(), make_project()
    for each in (project, other):
        run_rows(each, judged_rows(5))
    first, second = (create_dataset_version(project=project, format="preference", options={}) for _ in range(2))
    elsewhere = create_dataset_version(project=other, format="preference", options={})
    client = Client(headers={"authorization": f"Token {make_token(make_user(project, Member.Role.MANAGER))}"})
    url = f"/api/v1/datasets/{second.pk}/diff/"
    assert client.get(url, {"against": str(first.pk)}).json()["rows"]["added"] == 0
    for against in ("", "x", str(elsewhere.pk)):
        answer = client.get(url, {"against": against})
        assert (answer.status_code, list(answer.json())) == (400, ["against"])
