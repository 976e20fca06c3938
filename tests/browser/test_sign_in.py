"""Signing in with a name and a password leads to where one was going; one's account is a click away."""

import re

from playwright.sync_api import Page, expect

from feedback_app.accounts.models import User
from tests.browser.accessibility import assert_accessible
from tests.browser.conftest import PASSWORD, OpenPage


def test_a_wrong_password_is_said_and_the_right_one_signs_in(open_page: OpenPage, administrator: User) -> None:
    page = open_page(None)
    page.goto("/accounts/login/?next=/admin/")
    assert_accessible(page)
    page.get_by_label("User name").fill(administrator.username)
    page.get_by_label("Password").fill("wrong")
    page.get_by_role("button", name="Sign in").click()
    expect(page.get_by_role("alert")).to_be_visible()
    page.get_by_label("Password").fill(PASSWORD)
    page.get_by_role("button", name="Sign in").click()
    page.wait_for_url("**/admin/")


def test_the_menu_leads_to_the_account_where_a_token_is_made_and_a_theme_is_kept(page: Page) -> None:
    page.goto("/")
    page.get_by_label("You and your preferences").click()
    page.get_by_role("link", name="Your account").click()
    page.get_by_label("What it is for").fill("nightly export")
    page.get_by_role("button", name="Make a token").click()
    expect(page.locator("code.secret")).to_have_text(re.compile("^[0-9a-f]{40}$"))
    assert_accessible(page)
    page.locator("main").get_by_role("button", name="Dark").click()
    expect(page.locator("html")).to_have_attribute("data-theme", "dark")
    page.goto("/accounts/me/")
    expect(page.locator("html")).to_have_attribute("data-theme", "dark")
    assert_accessible(page)
