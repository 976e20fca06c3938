"""The pages as a Chinese reader meets them: no English is left, labels are Chinese, nothing runs off a phone."""

import pytest
from playwright.sync_api import Page, expect

from feedback_app.projects.models import Member, Project
from feedback_app.projects.services import publish_guidelines
from tests.browser.conftest import OpenPage
from tests.browser.judging import open_judging, press
from tests.factories import make_judgment, make_project, make_tasks, make_user

pytestmark = pytest.mark.django_db(transaction=True)

# Names, which stay as they are.
NAMES = {"RLHF loop", "JSON lines"}
# What a person wrote, code and keys are in whatever language they are in.
ENGLISH = """() => {
  const THEIRS = "script, style, code, pre, kbd, .prose, textarea, noscript";
  const found = [];
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const text = walker.currentNode.textContent.trim();
    const theirs = walker.currentNode.parentElement.closest(THEIRS);
    if (!theirs && /[A-Za-z]{2,}[ ,'-]+[A-Za-z]{2,}/.test(text) && !/[\\u4e00-\\u9fff]/.test(text)) found.push(text);
  }
  for (const name of ["title", "aria-label", "placeholder"]) {
    for (const part of document.querySelectorAll(`[${name}]`)) {
      const text = part.getAttribute(name);
      if (/[A-Za-z]{2,} [A-Za-z]{2,}/.test(text) && !/[\\u4e00-\\u9fff]/.test(text)) found.push(text);
    }
  }
  return found;
}"""
ROOMS = (
    "", "history/", "tasks/", "review/", "quality/", "data/", "data/browse/", "data/figures/", "data/import/",
    "data/erase/", "rounds/", "rounds/recipe/", "rounds/schedules/", "policies/", "policies/endpoint/", "settings/",
    "settings/protocol/", "settings/guidelines/", "settings/people/",
)  # fmt: skip


def english_on(page: Page) -> set[str]:
    return set(page.evaluate(ENGLISH)) - NAMES


def overflow(page: Page) -> int:
    """Return by how many pixels the page is wider than the window."""
    pixels: int = page.evaluate("document.documentElement.scrollWidth - innerWidth")
    return pixels


@pytest.fixture
def project() -> Project:
    made = make_project(slug="wenda", name="日常问答", protocol="ratings")
    publish_guidelines(project=made, text="Read both.", translations={"zh-hans": "两个都读。"})
    make_tasks(made, 2, ("第一个回答。", "第二个回答。"))
    return made


@pytest.mark.parametrize("phone", [False, True])
def test_the_judging_page_is_chinese(open_page: OpenPage, project: Project, phone: bool) -> None:
    page = open_page(make_user(project, username="lin"), phone=phone, locale="zh-CN")
    open_judging(page, project)
    expect(page.locator("#guidelines-text")).to_have_text("两个都读。")
    page.locator("#guidelines-close").click()
    expect(page.locator(".rating__label").first).to_contain_text("有用性")
    page.locator(".rating").first.hover()
    anchors = "有用性: 0 毫无用处 · 1 大部分要求没有满足 · 2 部分有用 · 3 有用，略有欠缺 · 4 完全满足要求"
    expect(page.locator(".ratings__anchor").first).to_have_text(anchors)
    assert page.locator("html").get_attribute("lang") == "zh-hans"
    assert english_on(page) == set()
    assert overflow(page) <= 0
    if not phone:
        press(page, "Shift+Slash")
        expect(page.locator("#keys-list")).to_contain_text("评分：有用性")
        assert english_on(page) == set()


def test_steps_of_strength_are_chinese(open_page: OpenPage) -> None:
    project = make_project(protocol="pairwise")
    make_tasks(project, 1)
    page = open_page(make_user(project), locale="zh-CN")
    open_judging(page, project)
    press(page, "Digit1", "Digit2")
    expect(page.locator("#strength .steps button").nth(3)).to_have_text("3好得多")


def test_no_room_of_a_manager_is_left_in_english(open_page: OpenPage) -> None:
    project = make_project(slug="wenda", name="日常问答")
    task = make_tasks(project, 2)[0]
    make_judgment(task, make_user(project, username="lin"), strength=2)
    page = open_page(make_user(project, Member.Role.MANAGER, username="boss"), phone=True, locale="zh-CN")
    left, wide = {}, {}
    for room in ROOMS:
        answer = page.goto(f"/p/{project.slug}/{room}")
        assert answer is not None
        assert answer.ok, room
        if words := english_on(page):
            left[room] = words
        if overflow(page) > 0:
            wide[room] = overflow(page)
    assert (left, wide) == ({}, {})
