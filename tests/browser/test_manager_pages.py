"""What managers do in a real browser: a file in, a version out, a protocol previewed; and axe on each page."""

from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page, expect

from feedback_app.accounts.models import User
from feedback_app.datasets.models import ImportJob, VersionJob
from feedback_app.datasets.services import (
    create_dataset_version,
    index_examples,
    measure_duplicates,
    request_version,
    run_import,
    run_version_job,
)
from feedback_app.notifications.models import CHOICES, Notification
from feedback_app.notifications.services import add_webhook, announce, send_test
from feedback_app.projects.invitations import create_invitation, token_of
from feedback_app.projects.models import Member, Project
from feedback_app.projects.services import publish_protocol
from tests.browser.accessibility import RULES
from tests.browser.conftest import OpenPage
from tests.factories import make_judgment, make_project, make_task, make_user
from tests.web.judged import as_lines, judged_rows, run_rows


def test_a_file_comes_in_is_seen_as_tasks_and_leaves_as_a_version(page: Page) -> None:
    project = make_project("tea", name="Tea")
    page.goto("/p/tea/data/import/")
    rows = as_lines([*judged_rows(10), {"responses": []}])
    page.get_by_label("File", exact=True).set_input_files(
        {"name": "rows.jsonl", "mimeType": "application/jsonl", "buffer": rows}
    )
    page.get_by_role("button", name="Look at it first").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("rows.jsonl")
    expect(page.get_by_role("alert")).to_contain_text("prompt: is required")
    page.get_by_role("button", name="Import", exact=True).click()
    expect(page.get_by_text("Waiting for a worker")).to_be_visible()

    run_import(job_id=ImportJob.objects.get().pk)
    # The page has asked by itself and shows what became of it.
    expect(page.get_by_text("Imported.")).to_be_visible()
    expect(page.get_by_text("line 11")).to_be_visible()

    page.get_by_role("link", name="See the tasks").click()
    expect(page.get_by_role("link", name="Question 3?")).to_be_visible()
    page.get_by_role("button", name="Tick this page").click()
    page.get_by_label("Change", exact=True).select_option("archive")
    page.get_by_role("button", name="Change", exact=True).click()
    expect(page.get_by_role("status")).to_contain_text("10 tasks were changed.")

    page.get_by_role("link", name="Data", exact=True).click()
    page.get_by_label("Split").select_option("all")
    page.get_by_role("button", name="Show the first rows").click()
    expect(page.get_by_text("The first rows")).to_be_visible()
    page.get_by_role("button", name="Freeze as a dataset version").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("A dataset version on its way")

    run_version_job(job_id=VersionJob.objects.get().pk)
    # This page has asked by itself too.
    expect(page.get_by_role("heading", level=1)).to_have_text("Dataset version 1")
    with page.expect_download() as download:
        page.get_by_role("link", name="Download as ZIP").click()
    assert download.value.suggested_filename == f"{project.slug}-dataset-1.zip"


def test_the_protocols_preview_follows_the_keys(page: Page) -> None:
    make_project("tea", name="Tea")
    page.goto("/p/tea/settings/protocol/")
    preview = page.locator("#preview")
    expect(preview).not_to_contain_text("Truthfulness")
    page.get_by_role("button", name="Add a score").click()
    page.get_by_label("Key", exact=True).fill("truth")
    page.get_by_label("Label", exact=True).fill("Truthfulness")
    expect(preview).to_contain_text("Truthfulness")
    page.get_by_label("Letter key").fill("x")
    expect(preview).to_contain_text("x belongs to the page")
    page.get_by_label("Letter key").fill("t")
    expect(preview).to_contain_text("Truthfulness")
    page.get_by_role("button", name="Publish as the next version").click()
    expect(page.get_by_role("status")).to_contain_text("Protocol 2 is in force")


@pytest.fixture
def filled(transactional_db: None) -> tuple[Project, User]:
    """A project with something on every page, and its manager."""
    project = make_project("tea", name="Tea", guidelines="# Be fair\n\nA `word`.", overlap=3)
    boss = make_user(project, Member.Role.MANAGER, username="mia")
    first = make_task(project)
    run_rows(project, judged_rows(10), by=boss)
    create_dataset_version(project=project, format="preference", options={"split": "all"})
    create_dataset_version(project=project, format="preference", options={"combine": "majority"})
    request_version(project=project, format="ratings", requested_by=boss)
    index_examples(project=project)
    for name, ranks in (("ann", (0, 1)), ("bob", (1, 0))):
        make_judgment(first, make_user(project, username=name), ranks)
    measure_duplicates(project=project, threshold=0.5)
    publish_protocol(project=project, protocol="instructgpt")
    create_invitation(project=project, role=Member.Role.ANNOTATOR, days=7, uses=3, created_by=boss, note="Autumn")
    kinds = [str(value) for value, _label in CHOICES]
    hook = add_webhook(project=project, url=f"https://example.org/{'long' * 30}", kinds=kinds, created_by=boss)
    send_test(webhook=hook)
    announce(project=project, kind=Notification.Kind.ANNOTATOR_PAUSED, key="1", values={"name": "ann", "why": "Fast."})
    return project, boss


def paths(project: Project) -> list[str]:
    """Return every page of this room, with something on it."""
    base, task = f"/p/{project.slug}/", project.tasks.first()
    assert task is not None
    below = [
        "tasks/", f"tasks/{task.pk}/", "review/", f"review/{task.pk}/", "work/", "history/",
        "quality/", "quality/fitted/", "data/", "data/versions/2/?against=1",
        "data/browse/?unjudged=on", "data/figures/", "data/erase/", "data/import/",
        f"data/import/{ImportJob.objects.get().pk}/",
        f"data/versions/jobs/{VersionJob.objects.get().pk}/", "settings/", "settings/protocol/", "settings/guidelines/",
        "settings/people/", "settings/notifications/",
    ]  # fmt: skip
    return [base + path for path in below] + ["/p/no-such-project/data/"]


def check(page: Page, path: str) -> list[str]:
    """Return what axe finds wrong on a page, and whether it is wider than its window."""
    page.goto(path)
    found: dict[str, Any] = Axe().run(page, options=RULES).response
    problems = [
        f"{path}: {violation['id']}: {node['html'][:200]}"
        for violation in found["violations"]
        for node in violation["nodes"][:3]
    ]
    if page.evaluate("document.documentElement.scrollWidth > innerWidth"):
        problems.append(f"{path}: wider than the window")
    return problems


@pytest.mark.parametrize(("phone", "dark"), [(False, False), (True, True)])
def test_axe_finds_nothing_on_any_page(
    open_page: OpenPage, filled: tuple[Project, User], phone: bool, dark: bool
) -> None:
    project, boss = filled
    page = open_page(boss, phone=phone, dark=dark)
    problems = [problem for path in paths(project) for problem in check(page, path)]
    invitation = project.invitations.get()
    outside = open_page(None, phone=phone, dark=dark)
    for path in ("/accounts/login/", f"/join/{token_of(invitation)}/", "/join/nonsense/"):
        problems += check(outside, path)
    assert not problems, "\n".join(problems)
