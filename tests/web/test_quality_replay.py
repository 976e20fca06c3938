"""Judged rows replayed through the import: kappas by API and on the page are scikit-learn's on the same rows."""

import re
from itertools import combinations
from random import Random

import pytest
from django.test import Client
from django.utils.html import strip_tags
from sklearn.metrics import cohen_kappa_score

from feedback_app.projects.models import Member
from tests.factories import make_project, make_token, make_user
from tests.web.judged import RANKINGS, judged_row, run_rows

pytestmark = pytest.mark.django_db

NAMES = ("annotator1", "annotator2", "annotator3")


def test_imported_verdicts_have_scikit_learns_kappas_by_api_and_on_the_page() -> None:
    chance = Random(11)
    truth = [chance.choice((1, 2, 0)) for _ in range(90)]
    # Each annotator is right two times of three, and says at random otherwise; the third leaves some rows out.
    said = {name: [right if chance.random() < 0.67 else chance.choice((1, 2, 0)) for right in truth] for name in NAMES}
    left_out = {place for place in range(90) if chance.random() < 0.2}
    rows = [
        judged_row(
            place,
            judgments=[
                {"annotator": name, "ranking": RANKINGS[said[name][place]]}
                for name in NAMES
                if not (name == NAMES[2] and place in left_out)
            ],
        )
        for place in range(90)
    ]
    project = make_project()
    run_rows(project, rows)

    wanted = {}
    for a, b in combinations(NAMES, 2):
        both = [place for place in range(90) if b != NAMES[2] or place not in left_out]
        kappa = cohen_kappa_score([said[a][place] for place in both], [said[b][place] for place in both])
        wanted[a, b] = (pytest.approx(kappa), len(both))

    reviewer = make_user(project, Member.Role.REVIEWER)
    answer = Client().get(
        f"/api/v1/projects/{project.slug}/quality/", headers={"authorization": f"Token {make_token(reviewer)}"}
    )
    found = {(row["a"], row["b"]): (row["kappa"], row["n"]) for row in answer.json()["cohen_kappa"]}
    assert found == wanted

    browser = Client()
    browser.force_login(reviewer)
    page = browser.get(f"/p/{project.slug}/quality/").content.decode()
    square = page[page.index('class="heat"') :]
    shown = [float(cell) for cell in re.findall(r"-?\d\.\d\d", strip_tags(square[: square.index("</table>")]))]
    [(one, _), (two, _), (three, _)] = found[NAMES[0], NAMES[1]], found[NAMES[0], NAMES[2]], found[NAMES[1], NAMES[2]]
    # Row by row, the diagonal empty: each kappa stands twice.
    assert shown == [round(kappa, 2) for kappa in (one, two, one, three, two, three)]
