"""A round as it is watched: curves grow while progress comes in, nothing moves that was not moved, buttons do."""

from typing import Any

import pytest
from playwright.sync_api import Page, expect

from feedback_app.projects.models import Member, Project
from feedback_app.rounds.models import Round, RoundStep
from tests.browser.accessibility import assert_accessible
from tests.browser.conftest import OpenPage
from tests.factories import make_project, make_tasks, make_user
from tests.web.judged import judged_rows, run_rows
from tests.web.round_rows import GATE, policy_of, ppo_lines, round_at

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def project(transactional_db: None) -> Project:
    return make_project("loop")


def manager_of(project: Project, open_page: OpenPage, **more: Any) -> Page:
    return open_page(make_user(project, Member.Role.MANAGER), **more)


def report(held: Round, done: int) -> None:
    """Write progress as a worker does."""
    RoundStep.objects.filter(round=held, name="ppo").update(progress=ppo_lines(done))


def test_curves_grow_while_progress_comes_in_and_the_page_stays_where_it_is(
    open_page: OpenPage, project: Project
) -> None:
    before = policy_of(round_at(project, "succeeded"), 1)
    held = round_at(project, "running", "ppo", ppo=2, parent=before)
    page = manager_of(project, open_page)
    page.goto("/p/loop/rounds/2/")
    kl = page.locator("#chart-kl")
    expect(kl.locator("canvas")).to_be_visible()
    expect(kl.locator(".chart__now")).to_have_text("0.400")
    assert "round 1: from 0.200 to 2.00" in (kl.locator(".chart__plot").get_attribute("aria-label") or "")
    # Somebody reads the log and has the focus there; none of it may move when the page renews itself.
    page.get_by_text("Log of the newest step").click()
    log = page.locator("#round-log")
    log.focus()
    page.evaluate("scrollTo(0, 120)")
    scrolled = page.evaluate("scrollY")
    report(held, 7)
    expect(kl.locator(".chart__now")).to_have_text("1.40")
    expect(page.locator("#round-strip")).to_contain_text("7 / 10")
    assert page.evaluate("scrollY") == scrolled
    expect(log).to_be_focused()
    expect(log).to_be_visible()
    # The value under the pointer, and the newest again once it has left.
    box = kl.locator(".u-over").bounding_box()
    assert box is not None
    page.mouse.move(box["x"] + 1, box["y"] + box["height"] / 2)
    expect(kl.locator(".chart__now")).to_have_text("1: round 1 0.200 · this round 0.200")
    page.mouse.move(0, 0)
    expect(kl.locator(".chart__now")).to_have_text("1.40")


def test_a_chart_appears_with_the_first_update_and_the_page_reloads_at_the_end(
    open_page: OpenPage, project: Project
) -> None:
    held = round_at(project, "running", "reward")
    page = manager_of(project, open_page)
    page.goto("/p/loop/rounds/1/")
    expect(page.locator("#chart-reward_loss canvas")).to_be_visible()
    expect(page.locator("#chart-kl")).to_have_count(0)
    report(held, 1)
    expect(page.locator("#chart-kl canvas")).to_be_visible()
    Round.objects.filter(pk=held.pk).update(state="failed", error="ppo ended with exit code 1: no space left")
    expect(page.get_by_role("button", name="Try again from there")).to_be_visible()
    expect(page.locator("#round-poll")).to_have_count(0)


def test_an_axis_is_as_broad_as_its_longest_label(open_page: OpenPage, project: Project) -> None:
    held = round_at(project, "running", "ppo")
    lines = [{**line, "objective/scores": -0.0011 - 2e-5 * line["update"]} for line in ppo_lines(3)]
    RoundStep.objects.filter(round=held, name="ppo").update(progress=lines)
    page = manager_of(project, open_page)
    page.goto("/p/loop/rounds/1/")
    broad, usual = (page.locator(f"#chart-{key} .u-axis").nth(1).bounding_box() for key in ("reward", "kl"))
    assert broad is not None
    assert usual is not None
    # Labels such as -0.00115 beside 0.40.
    assert usual["width"] == 48
    assert broad["width"] > 48


def test_a_round_is_started_and_cancelled_by_buttons_alone(open_page: OpenPage, project: Project) -> None:
    run_rows(project, judged_rows(10))
    page = manager_of(project, open_page)
    page.goto("/p/loop/")
    page.get_by_text("Start a round").click()
    page.get_by_label("Learn from simulated judgments too").check()
    page.get_by_role("button", name="Start it").click()
    expect(page.get_by_role("heading", name="Round 1")).to_be_visible()
    held = Round.objects.get()
    assert (held.state, held.simulated) == ("queued", True)
    page.get_by_text("Cancel", exact=True).click()
    page.get_by_role("button", name="End it").click()
    expect(page.get_by_text("Its checkpoint is kept")).to_be_visible()


def test_without_javascript_curves_are_lines_and_buttons_work(open_page: OpenPage, project: Project) -> None:
    round_at(project, "running", "ppo", ppo=5)
    page = manager_of(project, open_page, java_script_enabled=False)
    page.goto("/p/loop/rounds/1/")
    assert page.locator("#chart-kl polyline").get_attribute("points")
    page.get_by_role("button", name="Pause after this step").click()
    expect(page.get_by_text("It pauses once")).to_be_visible()


def full_project() -> Project:
    """Return a project with something in every room."""
    project = make_project("loop")
    run_rows(project, judged_rows(10))
    make_tasks(project, 3)
    policy = policy_of(round_at(project, "succeeded", gate=GATE), 1)
    policy_of(round_at(project, "succeeded", gate=GATE, parent=policy), 2)
    round_at(project, "waiting_for_approval", "gate", gate=GATE, parent=policy)
    return project


PAGES = (
    "", "rounds/", "rounds/2/", "rounds/3/", "rounds/recipe/", "rounds/recipe/text/", "rounds/recipe/1/",
    "rounds/schedules/", "policies/", "policies/1/", "policies/endpoint/",
)  # fmt: skip


def test_every_page_is_accessible_and_fits_a_phone(open_page: OpenPage, transactional_db: None) -> None:
    project = full_project()
    laptop, phone = manager_of(project, open_page), manager_of(project, open_page, phone=True)
    for path in PAGES:
        laptop.goto(f"/p/loop/{path}", wait_until="networkidle")
        assert_accessible(laptop)
        phone.goto(f"/p/loop/{path}", wait_until="networkidle")
        assert phone.evaluate("document.documentElement.scrollWidth") <= 390, path


def test_the_dark_is_accessible_too(open_page: OpenPage, transactional_db: None) -> None:
    page = manager_of(full_project(), open_page, dark=True)
    for path in ("", "rounds/3/", "policies/"):
        page.goto(f"/p/loop/{path}", wait_until="networkidle")
        assert_accessible(page)
