"""The quality page: figures with their uncertainty, two kinds of judgments apart, voiding by person and time."""

from datetime import date, timedelta
from typing import Any

import pytest
from django.test import Client
from django.utils import timezone

from feedback_app.annotation.figures import kappa_square, pace_of, share_with_interval, spark_bars, weeks_drawn
from feedback_app.annotation.models import Judgment
from feedback_app.annotation.quality import measure_quality
from feedback_app.intervals import wilson_interval
from feedback_app.projects.models import Member, Project
from tests.factories import make_judgment, make_project, make_task, make_tasks, make_user
from tests.web.judged import judged_rows, run_rows

pytestmark = pytest.mark.django_db


@pytest.fixture
def project() -> Project:
    return make_project(overlap=3)


@pytest.fixture
def manager(project: Project) -> Client:
    client = Client()
    client.force_login(make_user(project, Member.Role.MANAGER))
    return client


def test_wilson_intervals_match_a_hand_computation() -> None:
    # p = 0.5, n = 100, z = 1.96: centre (0.5 + 1.9207 / 100) / 1.038415 = 0.5; half = 1.96 * sqrt(0.0025 + 0.000096)
    # / 1.038415 = 0.0962.
    low, high = wilson_interval(0.5, 100) or (0, 0)
    assert (round(low, 4), round(high, 4)) == (0.4038, 0.5962)
    assert wilson_interval(1.0, 1) == pytest.approx((0.2065, 1.0), abs=1e-4)  # 1 / (1 + 3.8415)
    assert wilson_interval(None, 0) is None


def test_a_bias_is_called_one_only_when_chance_explains_it_poorly() -> None:
    few, many = share_with_interval(0.6, 20), share_with_interval(0.6, 400)
    assert few is not None
    assert many is not None
    # 0.6 of 20 is 0.39 to 0.78; 0.6 of 400 is 0.55 to 0.65.
    assert (few["beside_half"], many["beside_half"]) == (False, True)


def test_a_square_of_kappas_is_the_same_across_its_diagonal() -> None:
    square = kappa_square([{"a": "x", "b": "y", "kappa": 0.5, "n": 4}, {"a": "x", "b": "z", "kappa": None, "n": 1}])
    assert [line["name"] for line in square] == ["x", "y", "z"]
    assert square[0]["cells"][1] == square[1]["cells"][0] == {"self": False, "kappa": 0.5, "n": 4, "step": 5}
    assert square[1]["cells"][2] == {"self": False}  # never compared
    steps = {
        kappa: kappa_square([{"a": "x", "b": "y", "kappa": kappa, "n": 4}])[0]["cells"][1]["step"]
        for kappa in (-1.0, 0.0, 1.0)
    }
    assert steps == {-1.0: 1, 0.0: 1, 1.0: 9}


def test_the_pace_is_counted_by_day_and_ends_today(project: Project) -> None:
    judgment = make_judgment(make_task(project), make_user(project, username="ann"))
    Judgment.objects.filter(pk=judgment.pk).update(created_at=timezone.now() - timedelta(days=2))
    pace = pace_of(project=project, simulated=False, today=timezone.now().date())
    assert {name: counts[-3:] for name, counts in pace.items()} == {"ann": [1, 0, 0]}
    assert pace_of(project=project, simulated=True) == {}
    assert pace_of(project=project, simulated=False, today=date(2020, 1, 1)) == {"ann": [0] * 28}


def test_the_busiest_day_is_as_high_as_the_drawing() -> None:
    assert spark_bars([0, 4, 2]) == [
        {"x": 4, "y": 0, "height": 28, "count": 4},
        {"x": 8, "y": 14, "height": 14, "count": 2},
    ]
    assert spark_bars([0, 0]) == []


def test_the_page_shows_what_the_figures_say(manager: Client, project: Project) -> None:
    run_rows(project, judged_rows(10))
    page = manager.get(f"/p/{project.slug}/quality/")
    measured = page.context["measured"]
    content = page.content.decode()
    assert f"{measured['krippendorff_alpha']:.3f}" in content
    assert all(name in content for name in ("annotator1", "annotator2", "annotator3"))
    assert content.count("data-step=") == 6  # three pairs of annotators, each cell twice
    assert b"biased" not in page.content  # nobody knows in which order imported answers were shown


def test_the_figures_that_take_a_second_come_by_themselves(manager: Client, project: Project) -> None:
    run_rows(project, judged_rows(10))
    part = manager.get(f"/p/{project.slug}/quality/fitted/", headers={"hx-request": "true"})
    assert b"llama" in part.content
    assert b"annotator1" in part.content
    assert b"<html" not in part.content
    assert b"<html" in manager.get(f"/p/{project.slug}/quality/fitted/").content


def test_without_judgments_the_page_says_what_to_do(manager: Client, project: Project) -> None:
    page = manager.get(f"/p/{project.slug}/quality/").content.decode()
    assert "No judgment counts yet" in page
    assert manager.get(f"/p/{project.slug}/quality/fitted/").status_code == 200
    assert "No simulated judgment counts" in manager.get(f"/p/{project.slug}/quality/?simulated=1").content.decode()


def test_real_and_simulated_judgments_are_never_shown_together(manager: Client, project: Project) -> None:
    task = make_task(project)
    for kind in ("person", "simulated"):
        make_judgment(task, make_user(project, username=kind, kind=kind))
        Judgment.objects.filter(annotator__username=kind).update(origin="human" if kind == "person" else "simulated")
    names = {
        asked: [row["annotator"] for row in manager.get(f"/p/{project.slug}/quality/{asked}").context["annotators"]]
        for asked in ("", "?simulated=0", "?simulated=1")
    }
    assert names == {"": ["person"], "?simulated=0": ["person"], "?simulated=1": ["simulated"]}


def test_a_persons_judgments_of_a_time_are_voided(manager: Client, project: Project) -> None:
    ann, bob = (make_user(project, username=name) for name in ("ann", "bob"))
    old, new = (make_judgment(make_task(project), ann) for _ in range(2))
    Judgment.objects.filter(pk=old.pk).update(created_at="2026-01-01T00:00Z")
    other = make_judgment(old.task, bob)
    sent = {"annotator": str(ann.pk), "since": "", "until": "2026-02-01T00:00", "reason": "Trained since."}
    answer = manager.post(f"/p/{project.slug}/quality/void/", sent)
    assert answer.status_code == 302
    assert set(Judgment.objects.filter(voided_at=None)) == {new, other}
    sent = {"guidelines": "1", "protocol": "1", "reason": "Both were wrong."}
    assert manager.post(f"/p/{project.slug}/quality/void/", sent).status_code == 302
    assert not Judgment.objects.filter(voided_at=None).exists()


def test_voiding_needs_a_reason_and_says_which(manager: Client, project: Project) -> None:
    judgment = make_judgment(make_task(project), make_user(project))
    for sent in ({"annotator": str(judgment.annotator_id)}, {"reason": "All of them."}):
        assert manager.post(f"/p/{project.slug}/quality/void/", sent).status_code == 422
    assert not Judgment.objects.exclude(voided_at=None).exists()


def test_reviewers_read_and_void_nothing(project: Project) -> None:
    make_judgment(make_task(project), make_user(project))
    client = Client()
    client.force_login(make_user(project, Member.Role.REVIEWER))
    assert b"Void judgments" not in client.get(f"/p/{project.slug}/quality/").content
    assert client.post(f"/p/{project.slug}/quality/void/", {"reason": "x"}).status_code == 403


def test_many_annotators_cost_no_more_queries(
    manager: Client, project: Project, django_assert_max_num_queries: Any
) -> None:
    run_rows(project, judged_rows(10))
    with django_assert_max_num_queries(14):
        manager.get(f"/p/{project.slug}/quality/")


def test_agreement_stands_by_the_week_of_the_later_verdict() -> None:
    project = make_project(overlap=2)
    ann, bob = (make_user(project, username=name) for name in ("ann", "bob"))
    first, second, third = make_tasks(project, 3)
    for task, ranks in ((first, (0, 1)), (second, (0, 1)), (third, (1, 0))):
        make_judgment(task, ann)
        later = make_judgment(task, bob, ranks)
        # 2026-03-02 is a Monday: the Sunday before belongs to the week of 2026-02-23.
        day = {first: "2026-03-01T23:59Z", second: "2026-03-02T00:00Z", third: "2026-03-08T12:00Z"}[task]
        Judgment.objects.filter(pk=later.pk).update(created_at=day)
    Judgment.objects.filter(annotator=ann).update(created_at="2026-02-25T12:00Z")
    quality = measure_quality(project=project)
    weeks = [("2026-02-23", 1.0, 1), ("2026-03-02", 0.5, 2)]
    for rows in (quality, *quality["annotators"]):
        assert [tuple(row.values()) for row in rows["agreement_by_week"]] == weeks
    # Two of at least eight weeks; the second week's half stands half way down.
    drawn = weeks_drawn(quality["agreement_by_week"])
    assert [(week["x"], week["step"], week["y"]) for week in drawn] == [(0, 12.5, 0), (12.5, 12.5, 50)]
    assert weeks_drawn([]) == []


def test_work_by_day_is_ones_own_for_an_annotator_and_everybodys_above(project: Project) -> None:
    ann, bob = (make_user(project, username=name) for name in ("ann", "bob"))
    task, other = make_tasks(project, 2)
    make_judgment(task, ann)
    make_judgment(other, ann)
    make_judgment(task, bob)
    old = make_judgment(other, bob)
    Judgment.objects.filter(pk=old.pk).update(created_at="2026-01-05T12:00Z")
    pages = {}
    for user in (ann, make_user(project, Member.Role.REVIEWER)):
        client = Client()
        client.force_login(user)
        pages[user.username] = client.get(f"/p/{project.slug}/work/", {"since": "2026-01-01", "until": ""})
    own, all_of_them = pages.values()
    assert [(row["annotator"], row["judged"]) for row in own.context["rows"]] == [("ann", 2)]
    assert [(row["annotator"], row["days"], row["judged"]) for row in all_of_them.context["totals"]] == [
        ("ann", 1, 2), ("bob", 2, 2),
    ]  # fmt: skip
    assert f"/api/v1/projects/{project.slug}/work/?file=csv&amp;since=2026-01-01" in own.content.decode()
    assert client.get(f"/p/{project.slug}/work/", {"since": "tomorrow"}).status_code == 422
