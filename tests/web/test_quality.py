"""Agreement figures, against hand-made tables and an independent implementation."""

import json
import random
from collections import defaultdict
from io import StringIO
from itertools import combinations, permutations

import krippendorff
import numpy as np
import pytest
from django.core.management import CommandError, call_command
from django.utils import timezone
from sklearn.metrics import cohen_kappa_score

from feedback_app.accounts.models import User
from feedback_app.annotation.comparisons import FIRST, TIE, pairs_of
from feedback_app.annotation.models import Assignment, Judgment, Task
from feedback_app.annotation.quality import measure_quality
from feedback_app.annotation.services import next_task, submit_judgment, void_judgments
from feedback_app.projects.models import Project
from feedback_app.projects.services import add_member
from tests.factories import canonical_ids, make_judgment, make_project, make_tasks, make_user

pytestmark = pytest.mark.django_db

RANKS = {"first": (0, 1), "second": (1, 0), "tie": (0, 0)}


def judge_table(project: Project, table: dict[str, list[str]]) -> dict[str, User]:
    """Let each annotator say what the table says of each task in turn."""
    [length] = {len(row) for row in table.values()}
    tasks = make_tasks(project, length)
    people = {name: make_user(project, username=name) for name in table}
    for name, row in table.items():
        for task, verdict in zip(tasks, row, strict=True):
            held = next_task(project=project, annotator=people[name])
            assert held is not None
            assert held.id == task.pk
            ids, ranks = canonical_ids(task), RANKS[verdict]
            ranking = [[i for i, rank in zip(ids, ranks, strict=True) if rank == tier] for tier in sorted(set(ranks))]
            submit_judgment(task_id=task.pk, annotator=people[name], body={"ranking": ranking, "lead_time": 2.0})
    return people


def test_the_figures_of_a_small_table_are_those_computed_by_hand() -> None:
    project = make_project(overlap=2)
    judge_table(
        project,
        {"ann": ["first", "first", "second", "tie"], "bob": ["first", "second", "second", "tie"]},
    )
    quality = measure_quality(project=project)
    # Three of four pairs agree.
    assert quality["pairwise_agreement"] == 3 / 4
    # Expected: ann (2,1,1)/4, bob (1,2,1)/4: (2*1 + 1*2 + 1*1)/16 = 5/16. kappa = (12/16 - 5/16) / (11/16) = 7/11.
    assert quality["cohen_kappa"] == [{"a": "ann", "b": "bob", "kappa": pytest.approx(7 / 11), "n": 4}]
    # Values pooled: first 3, second 3, tie 2 of 8. Observed disagreement 2 of 8 ordered pairs; expected
    # (64 - 9 - 9 - 4) / (8*7) = 42/56. alpha = 1 - (2/8) / (42/56) = 2/3.
    assert quality["krippendorff_alpha"] == pytest.approx(2 / 3)
    assert (quality["judgments"], quality["tasks"], quality["simulated"]) == (8, 4, False)
    ann, bob = quality["annotators"]
    assert (ann["annotator"], ann["judged"], ann["agreement"], ann["agreement_n"]) == ("ann", 4, 3 / 4, 4)
    assert (bob["tie_rate"], bob["median_seconds"], bob["surplus"]) == (1 / 4, 2.0, 0)


def test_kappas_and_alpha_of_a_random_table_are_the_libraries_own() -> None:
    chance = random.Random(7)
    names = ("ann", "bob", "cat")
    truth = [chance.choice(list(RANKS)) for _ in range(25)]
    table = {name: [t if chance.random() < 0.6 else chance.choice(list(RANKS)) for t in truth] for name in names}
    project = make_project(overlap=3)
    judge_table(project, table)
    quality = measure_quality(project=project)
    kappas = {(row["a"], row["b"]): row["kappa"] for row in quality["cohen_kappa"]}
    for a, b in combinations(names, 2):
        assert kappas[a, b] == pytest.approx(cohen_kappa_score(table[a], table[b]))
    codes = np.array([[list(RANKS).index(verdict) for verdict in table[name]] for name in names])
    alpha = krippendorff.alpha(reliability_data=codes, level_of_measurement="nominal")
    assert quality["krippendorff_alpha"] == pytest.approx(alpha)


def test_nothing_to_compare_is_none_and_not_a_number() -> None:
    project = make_project(overlap=2)
    quality = measure_quality(project=project)
    assert (quality["krippendorff_alpha"], quality["pairwise_agreement"], quality["cohen_kappa"]) == (None, None, [])
    judge_table(project, {"ann": ["first", "first"], "bob": ["first", "first"]})
    quality = measure_quality(project=project)
    # Both always say the same one thing: agreement is whole, but chance alone would give it too.
    assert quality["pairwise_agreement"] == 1
    assert (quality["krippendorff_alpha"], quality["cohen_kappa"][0]["kappa"]) == (None, None)


def test_a_ranking_of_three_is_read_as_its_three_pairs_and_unranked_ones_say_nothing() -> None:
    project = make_project(protocol="ranking-partial", overlap=2)
    [task] = make_tasks(project, 1, ("a", "b", "c"))
    make_judgment(task, make_user(project, username="ann"), ranks=(0, 1, 2))  # a>b, a>c, b>c
    make_judgment(task, make_user(project, username="bob"), ranks=(1, 0, None))  # b>a only
    quality = measure_quality(project=project)
    assert (quality["pairwise_agreement"], quality["pairwise_agreement_n"]) == (0, 1)


def test_position_bias_is_the_share_of_preferred_responses_that_were_shown_first() -> None:
    project = make_project(overlap=1)
    tasks = make_tasks(project, 3)
    annotator = make_user(project)
    for task, ranks, shown in zip(tasks, ((0, 1), (0, 1), (1, 0)), ([0, 1], [1, 0], [1, 0]), strict=True):
        judgment = make_judgment(task, annotator, ranks=ranks)
        Assignment.objects.filter(pk=judgment.assignment_id).update(shown_order=shown)
    [row] = measure_quality(project=project)["annotators"]
    # Preferred was shown first, second, first.
    assert (row["first_shown_share"], row["first_shown_n"]) == (2 / 3, 3)


def test_voided_and_surplus_judgments_are_not_measured() -> None:
    project = make_project(overlap=2)
    people = judge_table(project, {"ann": ["first", "second"], "bob": ["second", "second"]})
    void_judgments(project=project, voided_by=None, reason="asleep", annotator=people["bob"])
    assert measure_quality(project=project)["pairwise_agreement"] is None
    Judgment.objects.filter(annotator=people["ann"], ranks=[0, 1]).update(surplus=True)
    [row] = measure_quality(project=project)["annotators"]
    assert (row["judged"], row["surplus"]) == (1, 1)


def test_simulated_judgments_are_measured_alone_and_never_with_real_ones() -> None:
    project = make_project(overlap=3)
    [task] = make_tasks(project, 1)
    robots = [make_user(project, kind=User.Kind.SIMULATED) for _ in range(2)]
    for robot in robots:
        make_judgment(task, robot)
    quality = measure_quality(project=project)
    assert (quality["simulated"], quality["judgments"]) == (True, 2)
    make_judgment(task, make_user(project, username="ann"), ranks=(1, 0))
    quality = measure_quality(project=project)
    assert (quality["simulated"], quality["judgments"], quality["cohen_kappa"]) == (False, 1, [])
    assert measure_quality(project=project, simulated=True)["judgments"] == 2


def test_ratings_have_an_ordinal_alpha_each() -> None:
    attribute = {"key": "clear", "minimum": 0, "maximum": 4}
    project = make_project(protocol={"name": "r", "ranking": "off", "attributes": [attribute]}, overlap=2)
    [task] = make_tasks(project, 1)
    ids = canonical_ids(task)
    for scores in ((4, 0), (3, 1)):
        annotator = make_user(project)
        next_task(project=project, annotator=annotator)
        ratings = {response: {"clear": score} for response, score in zip(ids, scores, strict=True)}
        submit_judgment(task_id=task.pk, annotator=annotator, body={"ratings": ratings})
    found = measure_quality(project=project)["attributes"]["clear"]
    alpha = krippendorff.alpha(reliability_data=np.array([[4, 0], [3, 1]]), level_of_measurement="ordinal")
    assert found == {"krippendorff_alpha": pytest.approx(alpha), "mean": 2.0, "n": 4}


def test_rankings_with_gaps_count_as_pair_by_pair_in_plain_python() -> None:
    chance = random.Random(3)
    project = make_project(protocol="ranking-partial", overlap=3)
    tasks = [*make_tasks(project, 6, ("a", "b", "c")), *make_tasks(project, 6, ("a", "b", "c", "d", "e"))]
    people = [make_user(project, username=f"ann{number}") for number in range(4)]
    said: dict[tuple[object, int, int], dict[int, int]] = defaultdict(dict)
    first_shown: dict[int, list[bool]] = defaultdict(list)
    strengths: dict[tuple[object, int], int] = {}
    for place, task in enumerate(tasks):
        ids = canonical_ids(task)
        for person in chance.sample(people, 3):
            tiers = _tiers(chance, len(ids))
            judgment = _judgment_on(task, person, [tiers.get(index) for index in range(len(ids))], place, chance)
            strengths[task.pk, person.pk] = judgment.strength or 0
            order = judgment.assignment.shown_order
            for i, j, verdict in pairs_of(judgment.ranks):
                said[task.pk, i, j][person.pk] = verdict
                if verdict != TIE:
                    better, worse = (i, j) if verdict == FIRST else (j, i)
                    first_shown[person.pk].append(order.index(better) < order.index(worse))
    quality = measure_quality(project=project)
    met = [(a == b) for verdicts in said.values() for a, b in combinations(verdicts.values(), 2)]
    assert (quality["pairwise_agreement"], quality["pairwise_agreement_n"]) == (sum(met) / len(met), len(met))
    for person, row in zip(people, quality["annotators"], strict=True):
        own = [verdicts[person.pk] for verdicts in said.values() if person.pk in verdicts]
        shown = first_shown[person.pk]
        assert row["tie_rate"] == own.count(TIE) / len(own)
        assert (row["first_shown_share"], row["first_shown_n"]) == (sum(shown) / len(shown), len(shown))
    agreed: dict[int, list[bool]] = defaultdict(list)
    for (task_id, _i, _j), verdicts in said.items():
        for one, other in permutations(verdicts, 2):
            agreed[strengths[task_id, one]].append(verdicts[one] == verdicts[other])
    assert quality["agreement_by_strength"] == [
        {"strength": strength, "agreement": sum(same) / len(same), "n": len(same)}
        for strength, same in sorted(agreed.items())
    ]
    codes = [[verdicts.get(person.pk, np.nan) for verdicts in said.values()] for person in people]
    alpha = krippendorff.alpha(reliability_data=np.array(codes), level_of_measurement="nominal")
    assert quality["krippendorff_alpha"] == pytest.approx(alpha)


def _tiers(chance: random.Random, count: int) -> dict[int, int]:
    """Return the ranks of at least two of so many responses, ties among them."""
    ranked = chance.sample(range(count), chance.randint(2, count))
    drawn = {index: chance.randint(0, 2) for index in ranked}
    dense = {rank: place for place, rank in enumerate(sorted(set(drawn.values())))}
    return {index: dense[rank] for index, rank in drawn.items()}


def _judgment_on(task: Task, person: User, ranks: list[int | None], place: int, chance: random.Random) -> Judgment:
    """Store a judgment as the queue would have it, on a task of this test's choice."""
    order = list(range(len(ranks)))
    chance.shuffle(order)
    protocol = task.project.protocol
    assert protocol is not None
    assignment = Assignment.objects.create(
        task=task, annotator=person, state="submitted", shown_order=order, protocol=protocol
    )
    return Judgment.objects.create(
        assignment=assignment, project=task.project, task=task, annotator=person, ranks=ranks, strength=place % 4
    )


def test_the_command_prints_the_figures_as_json() -> None:
    project = make_project()
    out = StringIO()
    call_command("quality", project.slug, stdout=out)
    assert json.loads(out.getvalue()) == measure_quality(project=project)
    with pytest.raises(CommandError, match="no-such"):
        call_command("quality", "no-such")


def test_imported_annotators_are_called_what_their_file_calls_them() -> None:
    project = make_project()
    imported = User.objects.create(username="imported:1:a1", kind=User.Kind.IMPORTED, display_name="a1")
    add_member(project=project, user=imported)
    [task] = make_tasks(project, 1)
    judgment = make_judgment(task, imported)
    Judgment.objects.filter(pk=judgment.pk).update(origin=Judgment.Origin.IMPORTED, updated_at=timezone.now())
    [row] = measure_quality(project=project)["annotators"]
    assert (row["annotator"], row["first_shown_share"]) == ("a1", None)  # nobody knows what a file showed first
