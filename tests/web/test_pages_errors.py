"""What people and programs are told when there is nothing to show: a page that says what was kept, or JSON."""

import pytest
from django.core.exceptions import SuspiciousOperation
from django.http import HttpRequest, HttpResponse
from django.test import Client, RequestFactory
from django.urls import path

from feedback_app.accounts import error_views
from feedback_app.urls import handler400, handler404, urlpatterns
from tests.factories import make_project, make_user

pytestmark = pytest.mark.django_db


def break_down(request: HttpRequest) -> HttpResponse:
    raise RuntimeError("a mistake of ours")


def refuse(request: HttpRequest) -> HttpResponse:
    raise SuspiciousOperation("an odd request")


urlpatterns = [*urlpatterns, path("break/", break_down), path("refuse/", refuse)]
__all__ = ["handler400", "handler404", "urlpatterns"]  # this module is the tests' ROOT_URLCONF


def test_an_unknown_address_is_a_page_to_people_and_json_to_programs() -> None:
    page = Client().get("/no-such-page/")
    assert page.status_code == 404
    assert b"There is nothing at this address" in page.content
    assert b"/accounts/login/?next=%2Fno-such-page%2F" in page.content

    answer = Client().get("/api/v1/no-such-thing/")
    assert (answer.status_code, answer["content-type"]) == (404, "application/json")
    assert answer.json() == {"detail": ["There is nothing at this address."]}


def test_a_project_of_others_looks_like_one_that_does_not_exist() -> None:
    project = make_project(name="A hidden name")
    client = Client()
    client.force_login(make_user())
    there, nowhere = client.get(f"/p/{project.slug}/judge/"), client.get("/p/no-such-project/judge/")
    assert (there.status_code, nowhere.status_code) == (404, 404)
    assert project.name.encode() not in there.content


def test_a_role_too_low_is_named() -> None:
    project = make_project()
    client = Client()
    client.force_login(make_user(project))
    page = client.get(f"/p/{project.slug}/settings/")
    assert page.status_code == 403
    assert b"This needs the role manager." in page.content


def test_a_form_of_an_old_session_says_that_nothing_was_changed() -> None:
    client = Client(enforce_csrf_checks=True)
    page = client.post("/accounts/theme/", {"theme": "dark"})
    assert page.status_code == 403
    assert b"Nothing was changed" in page.content


@pytest.mark.urls("tests.web.test_pages_errors")
def test_our_own_mistake_is_a_whole_page_that_needs_no_database() -> None:
    page = Client(raise_request_exception=False).get("/break/")
    assert page.status_code == 500
    assert b"Something broke on our side" in page.content
    assert b"a mistake of ours" not in page.content


@pytest.mark.urls("tests.web.test_pages_errors")
def test_a_request_that_is_not_understood_keeps_theme_and_language() -> None:
    client = Client()
    client.cookies["theme"] = "dark"
    page = client.get("/refuse/")
    assert page.status_code == 400
    assert b'data-theme="dark"' in page.content
    assert b"an odd request" not in page.content


def test_a_host_that_is_not_ours_gets_the_page_though_no_middleware_has_run() -> None:
    request = RequestFactory().get("/", headers={"host": "elsewhere.example"})
    assert error_views.bad_request(request, SuspiciousOperation()).status_code == 400
    assert Client().get("/", headers={"host": "elsewhere.example"}).status_code == 400
