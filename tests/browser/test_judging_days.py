"""What happens over a working day: work sent back, a second window, a crash, fingers, many or long responses."""

from typing import Any

import pytest
from playwright.sync_api import Error as PlaywrightError
from playwright.sync_api import Page, Route, expect

from feedback_app.annotation.models import Assignment, Judgment, Review
from feedback_app.annotation.services import review_judgment
from feedback_app.annotation.services.judging import tiers_of
from feedback_app.projects.models import Member
from tests.browser.accessibility import assert_accessible
from tests.browser.conftest import OpenPage
from tests.browser.judging import open_judging, press, prompt, shown_ids, wait_for_next, wait_until_ahead
from tests.factories import canonical_ids, make_judgment, make_project, make_task, make_tasks, make_user

pytestmark = pytest.mark.django_db(transaction=True)


def test_what_a_reviewer_sent_back_is_said_opened_with_its_comment_and_waits_for_review_again(
    open_page: OpenPage,
) -> None:
    project = make_project()
    annotator, reviewer = make_user(project), make_user(project, Member.Role.REVIEWER)
    judgment = make_judgment(make_task(project), annotator)
    review_judgment(
        judgment_id=judgment.pk, reviewer=reviewer, outcome=Review.Outcome.SENT_BACK, comment="B is cut off."
    )
    page = open_page(annotator)
    open_judging(page, project)
    expect(page.locator("[data-notice=returned]")).to_contain_text("A reviewer sent 1 verdict of yours back")
    page.get_by_role("link", name="My work").first.click()
    expect(page.locator("table")).to_contain_text("B is cut off.")
    page.get_by_role("link", name="Open again").click()
    expect(page.locator("[data-notice=revision]")).to_contain_text("B is cut off.")
    press(page, "Digit0", "Enter")
    expect(page.locator("#state-empty")).to_be_visible()
    judgment.refresh_from_db()
    assert (judgment.ranks, judgment.revision) == ([0, 0], 2)
    assert judgment.review.outcome == Review.Outcome.REVISED

    desk = open_page(reviewer)
    desk.goto(f"/p/{project.slug}/review/")
    expect(desk.get_by_role("main")).to_contain_text("evised")


def two_windows(open_page: OpenPage, number: int) -> tuple[Any, Page, Page]:
    """Return a project with tasks, and two windows of one annotator that show the same task."""
    project = make_project(protocol="pairwise")
    make_tasks(project, number)
    first = open_page(make_user(project))
    open_judging(first, project)
    wait_until_ahead(first)
    second = first.context.new_page()
    open_judging(second, project)
    assert prompt(second) == prompt(first)
    return project, first, second


def test_two_windows_of_one_person_show_one_verdict_and_go_on_together(open_page: OpenPage) -> None:
    _project, first, second = two_windows(open_page, 3)
    before = prompt(first)
    press(first, "Digit2", "Slash")
    first.keyboard.type("for a reason")
    expect(second.locator("#summary")).to_have_text("B › A")
    expect(second.locator("#rationale")).to_have_value("for a reason")
    second.bring_to_front()
    press(second, "Digit2", "Enter")  # what the other window wrote, turned round: B goes last
    after = wait_for_next(second, before)
    wait_for_next(first, before)
    assert prompt(first) == after
    expect(first.locator("#today")).to_have_text("1 today")
    expect(first.locator("[data-notice=problem]")).to_have_count(0)
    assert Judgment.objects.get().rationale == "for a reason"
    assert Assignment.objects.filter(state="reserved").count() <= 2


def test_a_task_skipped_in_one_window_leaves_the_other(open_page: OpenPage) -> None:
    _project, first, second = two_windows(open_page, 2)
    before = prompt(first)
    press(first, "KeyS", "Digit1")
    after = wait_for_next(first, before)
    wait_for_next(second, before)
    assert prompt(second) == after


def test_the_last_verdict_can_be_opened_again_after_the_last_task_was_skipped(open_page: OpenPage) -> None:
    project = make_project(protocol="pairwise")
    make_tasks(project, 2)
    page = open_page(make_user(project))
    open_judging(page, project)
    before = prompt(page)
    press(page, "Digit2", "Enter")
    wait_for_next(page, before)
    press(page, "Digit1", "KeyS", "Digit1")
    expect(page.locator("#state-empty")).to_be_visible()
    page.locator("#reopen").click()
    expect(page.locator("[data-notice=revision]")).to_be_visible()
    assert prompt(page) == before
    expect(page.locator("#summary")).to_have_text("B › A")


def test_a_verdict_opened_again_while_the_next_task_is_fetched_stays_and_the_task_waits(open_page: OpenPage) -> None:
    project = make_project(protocol="pairwise")
    make_tasks(project, 2)
    page = open_page(make_user(project))
    asked: list[Route] = []

    def hold_all_but_the_first(route: Route) -> None:
        asked.append(route)
        if len(asked) == 1:
            route.continue_()

    page.route("**/judge/next/", hold_all_but_the_first)
    open_judging(page, project)
    before = prompt(page)
    press(page, "Digit2", "Enter")
    expect(page.locator("#main")).to_have_attribute("data-state", "loading")
    press(page, "Control+z")
    expect(page.locator("[data-notice=revision]")).to_be_visible()
    asked[1].continue_()
    wait_until_ahead(page)
    expect(page.locator("[data-notice=revision]")).to_be_visible()
    assert prompt(page) == before
    press(page, "Escape")
    wait_for_next(page, before)


def test_a_draft_written_without_a_network_survives_a_crash(open_page: OpenPage) -> None:
    project = make_project()
    make_tasks(project, 1)
    page = open_page(make_user(project))
    open_judging(page, project)
    page.context.set_offline(True)
    press(page, "Digit2", "Slash")
    page.keyboard.type("written offline")
    expect(page.locator("[data-notice=offline]")).to_be_visible()
    with pytest.raises(PlaywrightError, match="crash"):
        page.goto("chrome://crash")
    context = page.context
    page.close()
    context.set_offline(False)
    again = context.new_page()
    open_judging(again, project)
    expect(again.locator("#summary")).to_have_text("B › A")
    expect(again.locator("#rationale")).to_have_value("written offline")


def test_a_finger_drags_a_response_onto_a_place(open_page: OpenPage) -> None:
    project = make_project(protocol="ranking")
    make_tasks(project, 1, ("One.", "Two.", "Three."))
    page = open_page(make_user(project), phone=True)
    open_judging(page, project)
    page.locator("#sheet").tap()
    touch = page.context.new_cdp_session(page)

    def drag(source: str, target: str) -> None:
        points = [page.locator(part).bounding_box() for part in (source, target)]
        [start, end] = [{"x": box["x"] + box["width"] / 2, "y": box["y"] + box["height"] / 2} for box in points if box]
        touch.send("Input.dispatchTouchEvent", {"type": "touchStart", "touchPoints": [start]})
        for step in (0.3, 0.7, 1):
            at = {axis: start[axis] + step * (end[axis] - start[axis]) for axis in ("x", "y")}
            touch.send("Input.dispatchTouchEvent", {"type": "touchMove", "touchPoints": [at]})
        touch.send("Input.dispatchTouchEvent", {"type": "touchEnd", "touchPoints": []})

    drag(".pool [data-drag] >> nth=2", ".tier >> nth=0")
    expect(page.locator("#summary")).to_have_text("C")
    drag(".pool [data-drag] >> nth=0", ".tier >> nth=0")  # onto the same place: a tie; what is left follows
    expect(page.locator("#summary")).to_have_text("C = A › B")


def test_nine_long_responses_stand_below_each_other_when_asked_and_stay_so(open_page: OpenPage) -> None:
    project = make_project(protocol="ranking")
    make_tasks(project, 1, tuple(f"{number}: " + "A long sentence to be read. " * 60 for number in range(9)))
    page = open_page(make_user(project))
    open_judging(page, project)
    tops = "parts => new Set(parts.map(part => part.offsetTop)).size"
    assert page.locator(".response").evaluate_all(tops) == 1
    press(page, "BracketRight")
    assert page.locator(".response").evaluate_all(tops) == 9
    press(page, *["ArrowRight"] * 7)
    expect(page.locator("#response-H")).to_be_focused()
    expect(page.locator("#response-H header")).to_be_in_viewport(ratio=1)
    assert page.locator("#prompt").is_visible()
    page.reload()
    page.wait_for_selector("#main[data-state='judging']")
    assert page.locator(".response").evaluate_all(tops) == 9
    assert_accessible(page)


def test_enter_after_a_link_was_looked_at_submits_and_asks_no_second_time(open_page: OpenPage) -> None:
    project = make_project()
    make_tasks(project, 1, ("[go](https://elsewhere.example/)", "Fine."))
    page = open_page(make_user(project))
    open_judging(page, project)
    page.get_by_role("link", name="go").click()
    expect(page.locator("#link-dialog")).to_be_visible()
    press(page, "Escape", "Digit1", "Enter")
    expect(page.locator("#state-empty")).to_be_visible()
    assert Judgment.objects.count() == 1


def test_a_scale_from_one_response_to_the_other_says_ranking_and_strength_in_one_press(open_page: OpenPage) -> None:
    project = make_project(protocol="helpsteer")
    make_tasks(project, 3)
    page = open_page(make_user(project))
    open_judging(page, project)
    a, b = shown_ids(page)
    before = prompt(page)
    press(page, "Enter")
    expect(page.locator("#problems")).to_contain_text("Choose a step of the scale")
    assert_accessible(page)
    page.get_by_role("button", name="A: much better").click()
    press(page, "Minus", "Equal", "Slash")  # − goes no further than the end of the scale, = one step back
    page.keyboard.type("A says why.")
    press(page, "Control+Enter")
    before = wait_for_next(page, before)
    verdict = Judgment.objects.get()
    assert (tiers_of(verdict.ranks, canonical_ids(verdict.task)), verdict.strength) == ([[a], [b]], 2)
    a, b = shown_ids(page)
    press(page, "Digit0", "Equal", "Equal")  # equal, then two steps towards B
    page.get_by_role("button", name="B: better").press("Digit7")  # and on the scale itself the seventh
    press(page, "Slash")
    page.keyboard.type("B does.")
    press(page, "Control+Enter")
    wait_for_next(page, before)
    verdict = Judgment.objects.latest("created_at")
    assert (tiers_of(verdict.ranks, canonical_ids(verdict.task)), verdict.strength) == ([[b], [a]], 3)


def test_every_flag_of_the_instructgpt_preset_has_a_key(open_page: OpenPage) -> None:
    project = make_project(protocol="instructgpt")
    make_tasks(project, 1)
    page = open_page(make_user(project))
    open_judging(page, project)
    assert_accessible(page)
    _a, b = shown_ids(page)
    press(page, "KeyQ", "Digit5", "ArrowRight", "Digit3", "Escape", "KeyH", "KeyP")
    press(page, "Digit1", "Enter")
    expect(page.locator("#state-empty")).to_be_visible()
    stored = Judgment.objects.get()
    assert stored.flags == {b: ["hallucination", "denigrates"]}
    assert stored.ratings[b] == {"overall": 3}
