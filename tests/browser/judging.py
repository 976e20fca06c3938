"""The judging page as a person sees it: what stands where, and waiting until it has settled."""

from playwright.sync_api import Page, expect

from feedback_app.projects.models import Project


def open_judging(page: Page, project: Project, query: str = "") -> None:
    """Open the page and wait for a task, or for what stands there instead."""
    page.goto(f"/p/{project.slug}/judge/{query}")
    page.wait_for_selector("#main:not([data-state='loading'])")


def wait_for_next(page: Page, before: str) -> str:
    """Wait until another prompt than before stands there; returns it."""
    expect(page.locator("#prompt")).not_to_have_text(before)
    return prompt(page)


def prompt(page: Page) -> str:
    """Return the prompt that stands there."""
    return page.locator("#prompt").inner_text()


def press(page: Page, *keys: str) -> None:
    """Press keys one after the other, by their place on the keyboard."""
    for key in keys:
        page.keyboard.press(key)


def wait_until_ahead(page: Page) -> None:
    """Wait until the next task has been fetched ahead."""
    page.wait_for_selector("#main[data-ahead='1']")


def shown_ids(page: Page) -> list[str]:
    """Return the ids of the responses as they stand, A first."""
    ids: list[str] = page.locator("[data-response]").evaluate_all("parts => parts.map(part => part.dataset.response)")
    return ids
