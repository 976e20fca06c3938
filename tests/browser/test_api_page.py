"""The API's own page works where no other host may be asked, under the content security policy of every page."""

from playwright.sync_api import Page, expect


def test_the_page_of_the_api_names_its_operations_and_asks_nobody_else(page: Page) -> None:
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.goto("/api/v1/docs/")
    expect(page.locator("#operations-projects-quality")).to_be_visible()
    assert {url.split("/")[2] for url in asked if url.startswith("http")} == {page.url.split("/")[2]}
