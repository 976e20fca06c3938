"""Signing in with a name and a password leads to where one was going."""

from playwright.sync_api import expect

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
