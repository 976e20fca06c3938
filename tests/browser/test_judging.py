"""Judging by keyboard, by pointer and by finger; what is on the screen is what lands in the table."""

from typing import Any

import pytest
from django.utils import timezone
from playwright.sync_api import Page, Route, expect

from feedback_app.accounts.models import User
from feedback_app.annotation.models import Assignment, Judgment, JudgmentRevision, Task
from feedback_app.annotation.services import expire_reservations, submit_judgment
from feedback_app.annotation.services.judging import tiers_of
from feedback_app.projects.models import GuidelinesReading, Project
from feedback_app.projects.services import publish_guidelines
from tests.browser.accessibility import assert_accessible
from tests.browser.conftest import OpenPage
from tests.browser.judging import open_judging, press, prompt, shown_ids, wait_for_next, wait_until_ahead
from tests.factories import canonical_ids, make_judgment, make_project, make_task, make_tasks, make_user

pytestmark = pytest.mark.django_db(transaction=True)


def verdict_of(judgment: Judgment) -> list[list[str]]:
    """Return the stored ranking as tiers of response ids."""
    return tiers_of(judgment.ranks, canonical_ids(judgment.task))


def start(
    open_page: OpenPage, number: int = 3, texts: tuple[str, ...] = ("First.", "Second."), **project: Any
) -> tuple[Project, Page]:
    """Return a project with tasks, and an annotator's laptop."""
    made = make_project(**project)
    make_tasks(made, number, texts)
    return made, open_page(make_user(made))


def test_judging_by_keyboard_alone_stores_what_was_pressed(open_page: OpenPage) -> None:
    project, page = start(open_page, protocol="pairwise")
    open_judging(page, project)
    first = shown_ids(page)
    before = prompt(page)
    wait_until_ahead(page)
    # B is better than A, by two steps of strength ("=" once from nothing is 1, again 2), for a reason.
    press(page, "Digit2", "Equal", "Equal", "Slash")
    page.keyboard.type("B says where it comes from. /s 1")
    press(page, "Control+Enter")
    before = wait_for_next(page, before)
    press(page, "Digit1", "Shift+Digit2", "Enter")  # a tie
    before = wait_for_next(page, before)
    third = shown_ids(page)
    press(page, "Digit1", "Digit2", "KeyX", "Enter")
    expect(page.locator("#state-empty")).to_be_visible()

    stored = list(Judgment.objects.order_by("created_at"))
    assert [verdict_of(judgment) for judgment in stored] == [
        [[first[1]], [first[0]]],
        [canonical_ids(stored[1].task)],
        [[third[0]], [third[1]]],
    ]
    assert [judgment.strength for judgment in stored] == [2, 0, None]
    assert [judgment.all_bad for judgment in stored] == [False, False, True]
    assert stored[0].rationale == "B says where it comes from. /s 1"
    assert all(judgment.lead_time is not None and judgment.lead_time < 60 for judgment in stored)
    expect(page.locator("#today")).to_have_text("3 today")


def test_taking_back_all_equal_and_undo_leave_what_the_screen_says(open_page: OpenPage) -> None:
    project, page = start(open_page, 1, ("One.", "Two.", "Three.", "Four."), protocol="ranking")
    open_judging(page, project)
    a, b, c, d = shown_ids(page)
    summary = page.locator("#summary")
    press(page, "Digit0")
    expect(summary).to_have_text("A = B = C = D")
    press(page, "Control+z", "Digit3", "Digit1", "Backspace", "Digit4", "Shift+Digit1")
    # What is left over, B, follows by itself.
    expect(summary).to_have_text("C › D = A › B")
    press(page, "Control+z")
    expect(summary).to_have_text("C › D")
    press(page, "Enter")
    expect(page.locator("#problems")).to_contain_text("Place every response")
    assert not Judgment.objects.exists()
    press(page, "Digit2", "Enter")
    expect(page.locator("#state-empty")).to_be_visible()
    assert verdict_of(Judgment.objects.get()) == [[c], [d], [b], [a]]


def test_a_partial_ranking_is_stored_as_it_stands_and_what_was_left_out_has_no_place(open_page: OpenPage) -> None:
    project, page = start(open_page, 1, ("One.", "Two.", "Three.", "Four."), protocol="ranking-partial")
    open_judging(page, project)
    a, b, c, d = shown_ids(page)
    press(page, "Digit4", "Digit2", "Enter")
    expect(page.locator("#state-empty")).to_be_visible()
    stored = Judgment.objects.get()
    assert verdict_of(stored) == [[d], [b]]
    assert {canonical_ids(stored.task)[place] for place, rank in enumerate(stored.ranks) if rank is None} == {a, c}


def test_ratings_and_flags_by_the_protocols_letters(open_page: OpenPage) -> None:
    protocol = {
        "name": "two", "ranking": "off", "all_bad": False, "max_responses": 2,
        "attributes": [
            {"key": "help", "label": "Help", "letter": "h"},
            {"key": "truth", "label": "Truth", "letter": "t"},
        ],
        "flags": [{"name": "unsafe", "label": "Unsafe", "letter": "u"}],
    }  # fmt: skip
    project, page = start(open_page, 1, protocol=protocol)
    open_judging(page, project)
    a, b = shown_ids(page)
    press(page, "KeyH", "Digit4", "ArrowDown", "Digit0", "ArrowRight")  # on the same row of the next response
    press(page, "Digit3", "KeyU", "Enter")
    expect(page.locator("#problems")).to_contain_text("Help of B is missing")
    press(page, "Digit2", "Enter")
    expect(page.locator("#state-empty")).to_be_visible()
    stored = Judgment.objects.get()
    assert stored.ratings == {a: {"help": 4, "truth": 0}, b: {"help": 2, "truth": 3}}
    assert stored.flags == {b: ["unsafe"]}


def test_enter_that_confirms_chinese_input_does_not_submit(open_page: OpenPage) -> None:
    project, page = start(open_page, 1, protocol="pairwise")
    open_judging(page, project)
    press(page, "Digit1", "Slash")
    devtools = page.context.new_cdp_session(page)
    devtools.send("Input.imeSetComposition", {"text": "hao", "selectionStart": 3, "selectionEnd": 3})
    # What an input method sends while it composes: the key that confirms is code 229.
    for control in (0, 2):
        key = {"key": "Process", "code": "Enter", "windowsVirtualKeyCode": 229, "modifiers": control}
        devtools.send("Input.dispatchKeyEvent", {"type": "rawKeyDown", **key})
        devtools.send("Input.dispatchKeyEvent", {"type": "keyUp", **key})
    devtools.send("Input.insertText", {"text": "好"})
    expect(page.locator("#rationale")).to_have_value("好")
    assert not Judgment.objects.exists()
    press(page, "Control+Enter")
    expect(page.locator("#state-empty")).to_be_visible()
    assert Judgment.objects.get().rationale == "好"


def test_a_held_key_counts_once(open_page: OpenPage) -> None:
    project, page = start(open_page, 3)
    open_judging(page, project)
    before = prompt(page)
    page.keyboard.press("Digit1")
    for _ in range(4):
        page.keyboard.down("Enter")  # Playwright marks all but the first as repeats
    wait_for_next(page, before)
    page.keyboard.up("Enter")
    assert Judgment.objects.count() == 1


def test_a_draft_survives_a_reload_and_another_device(open_page: OpenPage) -> None:
    project, page = start(open_page, 1)
    open_judging(page, project)
    press(page, "Digit2", "Slash")
    page.keyboard.type("half a thought")
    page.reload()
    expect(page.locator("#summary")).to_have_text("B › A")
    expect(page.locator("#rationale")).to_have_value("half a thought")
    press(page, "Slash", "End")
    page.keyboard.type(", and the rest")
    expect(page.locator("#saved")).to_contain_text("Draft saved")
    other = open_page(project.members.get().user, phone=True)
    open_judging(other, project)
    expect(other.locator("#rationale")).to_have_value("half a thought, and the rest")


def test_a_verdict_that_cannot_be_stored_is_kept_and_stored_once(open_page: OpenPage) -> None:
    project, page = start(open_page, 2)
    open_judging(page, project)
    before = prompt(page)
    wait_until_ahead(page)
    keys = []

    def lose(route: Route) -> None:
        """Let the server store the verdict and lose its answer; then be away; then be back."""
        keys.append(route.request.headers["idempotency-key"])
        if len(keys) == 1:
            route.fetch()
        route.abort() if len(keys) < 3 else route.continue_()

    page.route("**/judgments/", lose)
    press(page, "Digit1", "Enter")
    expect(page.locator("[data-notice=pending]")).to_contain_text("kept on this device")
    assert prompt(page) == before
    page.get_by_role("button", name="Try now").click()
    wait_for_next(page, before)
    expect(page.locator("[data-notice=pending]")).to_have_count(0)
    assert len(set(keys)) == 1
    assert len(keys) == 3
    assert Judgment.objects.count() == 1


def test_a_task_judged_in_another_window_is_said_and_left(open_page: OpenPage) -> None:
    project, page = start(open_page, 2)
    open_judging(page, project)
    before = prompt(page)
    task = Task.objects.get(assignments__isnull=False, prompt__messages__0__content=before)
    submit_judgment(
        task_id=task.pk, annotator=project.members.get().user, body={"ranking": [[pk] for pk in shown_ids(page)]}
    )
    press(page, "Digit0", "Enter")
    expect(page.locator("[data-notice=problem]")).to_contain_text("Another verdict of yours is stored")
    wait_for_next(page, before)
    assert Judgment.objects.count() == 1


def test_a_verdict_that_waited_when_the_page_was_closed_is_stored_by_the_next(open_page: OpenPage) -> None:
    project, page = start(open_page, 1)
    open_judging(page, project)
    page.route("**/judgments/", lambda route: route.abort())
    press(page, "Digit2", "Enter")
    expect(page.locator("[data-notice=pending]")).to_be_visible()
    page.goto("about:blank")
    open_judging(page, project)  # the server still does not answer: its task is on the table again, with the draft
    expect(page.locator("[data-notice=pending]")).to_be_visible()
    page.unroute("**/judgments/")
    page.get_by_role("button", name="Try now").click()
    expect(page.locator("#said")).to_contain_text("stored now")
    expect(page.locator("#state-empty")).to_be_visible()
    assert Judgment.objects.count() == 1


def test_an_ended_session_is_renewed_in_place(open_page: OpenPage) -> None:
    project = make_project()
    annotator = make_user(project, password="correct horse battery")
    make_tasks(project, 2)
    page = open_page(annotator)
    open_judging(page, project)
    before = prompt(page)
    press(page, "Digit1", "Slash")
    page.keyboard.type("worth keeping")
    page.context.clear_cookies(name="sessionid")
    press(page, "Control+Enter")
    dialog = page.locator("#sign-in-dialog")
    expect(dialog).to_be_visible()
    dialog.get_by_label("Password").fill("not this one")
    press(page, "Enter")
    expect(dialog.get_by_role("alert")).not_to_be_empty()
    dialog.get_by_label("Password").fill("correct horse battery")
    press(page, "Enter")
    wait_for_next(page, before)
    assert Judgment.objects.get().rationale == "worth keeping"


def test_undo_after_a_submit_opens_it_as_a_revision_and_comes_back(open_page: OpenPage) -> None:
    project, page = start(open_page, 2)
    open_judging(page, project)
    before = prompt(page)
    press(page, "Digit1", "Enter")
    second = wait_for_next(page, before)
    press(page, "Digit2", "Control+z", "Control+z")  # the first takes the 2 back, the second opens the submit
    expect(page.locator("[data-notice=revision]")).to_be_visible()
    assert prompt(page) == before
    expect(page.locator("#summary")).to_have_text("A › B")
    press(page, "Digit1", "Enter")  # A goes last
    wait_for_next(page, before)
    assert prompt(page) == second
    judgment = Judgment.objects.get()
    assert judgment.revision == 2
    assert JudgmentRevision.objects.get().verdict["ranking"] == list(reversed(verdict_of(judgment)))


def test_an_ended_session_tears_nobody_out_of_a_sentence(open_page: OpenPage) -> None:
    project, page = start(open_page, 1)
    open_judging(page, project)
    press(page, "Slash")
    page.context.clear_cookies(name="sessionid")
    page.keyboard.type("one")
    expect(page.locator("[data-notice=session]")).to_be_visible()
    page.keyboard.type(" two")
    expect(page.locator("#rationale")).to_have_value("one two")
    expect(page.locator("#sign-in-dialog")).to_be_hidden()


def test_the_last_submit_of_all_can_be_opened_again(open_page: OpenPage) -> None:
    project, page = start(open_page, 1)
    open_judging(page, project)
    press(page, "Digit1", "Enter")
    expect(page.locator("#state-empty")).to_be_visible()
    press(page, "Control+z", "Digit0", "Enter")
    expect(page.locator("#state-empty")).to_be_visible()
    judgment = Judgment.objects.get()
    assert (judgment.ranks, judgment.revision) == ([0, 0], 2)


def test_time_away_is_no_time_on_the_task_and_an_ended_reservation_is_said(open_page: OpenPage) -> None:
    project, page = start(open_page, 1)
    page.clock.install()
    open_judging(page, project)
    press(page, "Digit1")
    page.clock.fast_forward(3600_000)  # an hour away: a minute after the last key, the clock stands
    expect(page.locator("#clock")).to_have_text("1:00")
    page.wait_for_load_state("networkidle")  # a heartbeat that is under way would extend what is ended here
    Assignment.objects.update(expires_at=timezone.now())
    assert expire_reservations() == 1
    press(page, "Slash")
    page.keyboard.type("I am back")
    page.clock.run_for(31_000)  # the next heartbeat
    expect(page.locator("[data-notice=ended]")).to_be_visible()
    press(page, "Control+Enter")
    expect(page.locator("#state-empty")).to_be_visible()
    stored = Judgment.objects.get()
    assert stored.surplus is False  # its place was free still
    assert stored.lead_time is not None
    assert 60 <= stored.lead_time < 120


def test_the_next_task_is_there_with_the_stored_answer(open_page: OpenPage) -> None:
    project, page = start(open_page, 3)
    open_judging(page, project)
    before = prompt(page)
    wait_until_ahead(page)
    page.route("**/judge/next/", lambda route: route.abort())  # whatever stands there next was fetched before
    press(page, "Digit1", "Enter")
    wait_for_next(page, before)
    assert Judgment.objects.count() == 1
    assert Assignment.objects.filter(state=Assignment.State.RESERVED).count() == 1


def test_hostile_markdown_does_nothing_and_links_ask_first(open_page: OpenPage) -> None:
    hostile = (
        "<script>document.title='owned'</script><img src=x onerror=\"document.title='owned'\">\n\n"
        "![p](https://elsewhere.example/p) [go](https://elsewhere.example/) [run](javascript:document.title='x')\n\n"
        "<iframe src=https://elsewhere.example></iframe><style>body{display:none}</style>"
    )
    project, page = start(open_page, 1, (hostile, "Fine."))
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    open_judging(page, project)
    assert page.locator(".response :is(script, img, iframe, style, object, embed)").count() == 0
    assert page.locator(".response a[href^='javascript']").count() == 0
    page.get_by_role("link", name="go").click()
    expect(page.locator("#link-address")).to_have_text("https://elsewhere.example/")
    press(page, "Escape")
    assert page.title() != "owned"
    assert [url for url in asked if "elsewhere" in url] == []
    assert len(page.context.pages) == 1


def test_skip_with_a_reason_and_report(open_page: OpenPage) -> None:
    project, page = start(open_page, 2)
    open_judging(page, project)
    before = prompt(page)
    press(page, "KeyS", "Digit1")
    wait_for_next(page, before)
    press(page, "Shift+KeyS")
    page.keyboard.type("cut off")
    press(page, "Enter")
    expect(page.locator("#state-empty")).to_be_visible()
    given_up = Assignment.objects.order_by("created_at").values_list("state", "reason")
    assert list(given_up) == [("skipped", "I cannot judge this topic"), ("reported", "cut off")]
    assert Task.objects.filter(state=Task.State.REPORTED).count() == 1


def test_dragging_a_response_onto_a_place(open_page: OpenPage) -> None:
    project, page = start(open_page, 1, ("One.", "Two.", "Three."), protocol="ranking")
    open_judging(page, project)
    page.drag_and_drop(".pool [data-drag] >> nth=2", ".tier >> nth=0")
    expect(page.locator("#summary")).to_have_text("C")
    page.drag_and_drop(".pool [data-drag] >> nth=0", ".tier >> nth=0")  # onto the same place: a tie
    expect(page.locator("#summary")).to_have_text("C = A › B")
    page.locator("#response-B .chip--place").click()
    page.get_by_role("button", name="Take A back").click()
    expect(page.locator("#summary")).to_have_text("C › B › A")


def test_a_phone_judges_by_touch(open_page: OpenPage) -> None:
    project = make_project()
    annotator = make_user(project)
    make_tasks(project, 1)
    page = open_page(annotator, phone=True)
    open_judging(page, project)
    a, b = shown_ids(page)
    page.locator("#response-B .chip--place").tap()
    page.locator("#sheet").tap()
    page.get_by_role("button", name="slightly better").tap()
    page.locator("#submit").tap()
    expect(page.locator("#state-empty")).to_be_visible()
    stored = Judgment.objects.get()
    assert (verdict_of(stored), stored.strength) == ([[b], [a]], 1)


def test_guidelines_are_shown_until_read_and_again_when_they_change(open_page: OpenPage) -> None:
    project, page = start(open_page, 3, guidelines="Judge **fairly**.")
    open_judging(page, project)
    dialog = page.locator("#guidelines-dialog")
    expect(dialog).to_contain_text("Judge fairly.")
    press(page, "Escape")
    expect(dialog).to_be_visible()
    page.get_by_role("button", name="I have read them").click()
    expect(dialog).to_be_hidden()
    wait_until_ahead(page)
    publish_guidelines(project=project, text="Judge more fairly.")
    before = prompt(page)
    press(page, "Digit1", "Enter")
    before = wait_for_next(page, before)
    wait_until_ahead(page)
    press(page, "Digit1", "Enter")  # the task fetched since the change brings it
    expect(dialog).to_contain_text("Judge more fairly.")
    page.get_by_role("button", name="I have read them").click()
    page.wait_for_timeout(300)
    assert GuidelinesReading.objects.count() == 2


def test_a_paused_annotator_reads_why(open_page: OpenPage) -> None:
    project, page = start(open_page, 1)
    project.members.update(paused_at="2026-01-01T00:00Z", pause_reason="Please talk to Kim.")
    open_judging(page, project)
    expect(page.locator("#paused-reason")).to_have_text("Please talk to Kim.")


def test_a_judgment_opens_from_the_history_and_is_edited(open_page: OpenPage) -> None:
    project = make_project()
    annotator = make_user(project)
    judgment = make_judgment(make_task(project), annotator)
    page = open_page(annotator)
    page.goto(f"/p/{project.slug}/history/")
    assert_accessible(page)
    page.get_by_role("link", name="Open again").click()
    expect(page.locator("[data-notice=revision]")).to_be_visible()
    press(page, "Digit0", "Enter")
    expect(page.locator("#state-empty")).to_be_visible()
    judgment.refresh_from_db()
    assert (judgment.ranks, judgment.revision) == ([0, 0], 2)


def test_a_revisions_draft_follows_to_another_device_and_not_past_a_newer_revision(open_page: OpenPage) -> None:
    project = make_project()
    annotator = make_user(project)
    judgment = make_judgment(make_task(project), annotator)
    page = open_page(annotator)
    address = f"/p/{project.slug}/judge/?judgment={judgment.pk}"
    page.goto(address)
    expect(page.locator("[data-notice=revision]")).to_be_visible()
    expect(page.locator("[data-notice=revision]")).not_to_contain_text("unfinished")
    press(page, "Slash")
    page.keyboard.type("half a thought")
    expect(page.locator("#saved")).to_contain_text("Draft saved")

    other = open_page(annotator)
    other.goto(f"/p/{project.slug}/history/")
    expect(other.locator("table")).to_contain_text("unfinished changes")
    other.get_by_role("link", name="Open again").click()
    expect(other.locator("[data-notice=revision]")).to_contain_text("Your unfinished changes are in place.")
    expect(other.locator("#rationale")).to_have_value("half a thought")
    other.locator("#rationale").fill("a whole thought")
    other.locator("#submit").click()
    expect(other.locator("#state-empty")).to_be_visible()

    page.keyboard.type(", late")  # this window was left open on the verdict before
    expect(page.locator("[data-notice=ended]")).to_contain_text("begun on an earlier verdict")
    page.goto(address)
    expect(page.locator("#rationale")).to_have_value("a whole thought")
    page.locator("[data-notice=earlier] button").click()
    expect(page.locator("#rationale")).to_have_value("half a thought, late")
    expect(page.locator("#saved")).to_contain_text("Draft saved")
    with page.expect_response(lambda answer: answer.request.method == "DELETE"):
        page.locator("[data-notice=revision] button").click()
    other.goto(address)
    expect(other.locator("#rationale")).to_have_value("a whole thought")
    judgment.refresh_from_db()
    assert (judgment.rationale, judgment.revision) == ("a whole thought", 2)


def test_differences_are_marked_by_words_and_in_chinese_by_characters(open_page: OpenPage) -> None:
    project, page = start(open_page, 1, ("Use cold water. 我喜欢苹果", "Use warm water. 我喜欢梨子"))
    open_judging(page, project)
    press(page, "KeyD")
    marked = page.evaluate("[...CSS.highlights.get('difference')].map(range => range.toString()).sort()")
    assert marked == sorted(["cold", "warm", "苹果", "梨子"])
    press(page, "KeyD")
    assert page.evaluate("CSS.highlights.has('difference')") is False


def test_ones_own_keys_are_kept(open_page: OpenPage) -> None:
    project, page = start(open_page, 1)
    open_judging(page, project)
    press(page, "Shift+Slash")
    dialog = page.locator("#keys-dialog")
    dialog.get_by_role("button", name="Change: all bad").click()
    press(page, "KeyD")
    expect(dialog.get_by_role("alert")).to_contain_text("taken")
    dialog.get_by_role("button", name="Change: all bad").click()
    with page.expect_response("**/judge/keys/"):
        press(page, "KeyB")
    page.reload()
    page.wait_for_selector("#main[data-state='judging']")
    press(page, "KeyB")
    expect(page.locator("#all-bad")).to_have_attribute("aria-pressed", "true")
    assert User.objects.get().keymap == {"bad": "KeyB"}


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("phone", [False, True], ids=["laptop", "phone"])
def test_the_page_is_accessible(open_page: OpenPage, phone: bool, dark: bool) -> None:
    protocol = {
        "name": "all", "max_responses": 2, "strength": "optional", "rewrites": True, "rationale": "required",
        "attributes": [{"key": "help", "label": "Help", "letter": "h", "anchors": {"0": "none", "4": "all"}}],
        "flags": [{"name": "unsafe", "label": "Unsafe", "letter": "u", "description": "Could hurt somebody"}],
    }  # fmt: skip
    project = make_project(protocol=protocol, guidelines="# One\n\nJudge.", name="A project whose name is long")
    annotator = make_user(project, username="somebody-whose-name-is-long")
    make_tasks(project, 1, ("# Title\n\n```python\nx = 1  # one\n```\n\n[go](https://elsewhere.example/)", "两个苹果"))
    page = open_page(annotator, phone=phone, dark=dark)
    open_judging(page, project)
    assert_accessible(page)  # the guidelines
    page.locator("#guidelines-close").click()
    page.locator("#response-B .chip--place").click()
    page.locator("#response-B .response__rewrite").click()
    page.locator("#response-B textarea").fill("两个梨")
    page.locator("#response-B textarea").press("Escape")
    if phone:
        page.set_viewport_size({"width": 320, "height": 640})  # what WCAG's reflow asks for
        assert page.evaluate("document.documentElement.scrollWidth") == 320
        page.locator("#sheet").click()
    page.locator("#submit").click()
    expect(page.locator("#problems")).to_contain_text("missing")
    expect(page.locator("#problems")).to_be_in_viewport(ratio=1)
    assert_accessible(page)
    press(page, "Shift+Slash")
    assert_accessible(page)
    press(page, "Escape", "KeyS")
    assert_accessible(page)
