"""A person's own account: password, tokens and preferences; and how often a password may be guessed at the door."""

import re

import pytest
from django.core.cache import cache
from django.test import Client
from pytest_django import Settings

from feedback_app.accounts.attempts import MOST_FOR_ADDRESS, MOST_FOR_NAME, address_of
from feedback_app.accounts.models import AuditEntry, User
from feedback_app.accounts.services import create_user, issue_token
from feedback_app.embedded.first_start import make_administrator
from tests.factories import make_project, make_user

pytestmark = pytest.mark.django_db

PASSWORD = "correct horse battery"
OTHER = "a staple of my own"
ME = "/accounts/me/"


@pytest.fixture(autouse=True)
def no_attempts() -> None:
    """The count of guesses outlives a test's transaction."""
    cache.clear()


@pytest.fixture
def person() -> User:
    return create_user(username="ada", password=PASSWORD)


def sign_in(name: str, password: str, address: str = "192.0.2.1") -> tuple[Client, int, str]:
    """Try to sign in by the page; returns the browser, the status and the page."""
    client = Client(REMOTE_ADDR=address)
    answer = client.post("/accounts/login/", {"username": name, "password": password})
    return client, answer.status_code, answer.content.decode()


def change(client: Client, old: str = PASSWORD, new: str = OTHER, again: str = OTHER) -> int:
    fields = {"old_password": old, "new_password1": new, "new_password2": again}
    return client.post(f"{ME}password/", fields).status_code


def test_a_new_password_signs_out_every_other_device_but_this_one(person: User) -> None:
    here, elsewhere = sign_in("ada", PASSWORD)[0], sign_in("ada", PASSWORD)[0]
    assert elsewhere.get(ME).status_code == 200
    assert change(here) == 302
    assert here.get(ME).status_code == 200
    assert elsewhere.get(ME).status_code == 302  # to the door
    assert sign_in("ada", PASSWORD)[1] == 200  # the form again
    assert sign_in("ada", OTHER)[1] == 302
    assert AuditEntry.objects.filter(action="password.change", subject="ada").count() == 1


@pytest.mark.parametrize(
    ("old", "new", "again", "field"),
    [
        ("wrong", OTHER, OTHER, "old_password"),
        (PASSWORD, OTHER, "another staple", "new_password2"),
        (PASSWORD, "short", "short", "new_password2"),
    ],
)
def test_a_password_that_will_not_do_changes_nothing(person: User, old: str, new: str, again: str, field: str) -> None:
    client = sign_in("ada", PASSWORD)[0]
    answer = client.post(f"{ME}password/", {"old_password": old, "new_password1": new, "new_password2": again})
    assert answer.status_code == 422
    assert answer.context["password_form"].errors.keys() == {field}
    assert sign_in("ada", PASSWORD)[1] == 302
    assert client.get(ME).status_code == 200


def test_who_was_given_a_password_is_asked_for_another_until_there_is_one() -> None:
    made = make_administrator()
    assert made is not None
    name, password = made
    client = sign_in(name, password)[0]
    assert b"Somebody else has seen your password" in client.get("/").content  # wherever the sign-in led
    assert b"made by somebody else" in client.get(ME).content
    assert change(client, old=password) == 302
    assert b"made by somebody else" not in client.get(ME).content
    assert b"Somebody else has seen" not in sign_in(name, OTHER)[0].get("/").content


def test_who_chose_the_password_is_not_asked(person: User) -> None:
    assert b"Somebody else has seen" not in sign_in("ada", PASSWORD)[0].get("/").content


def test_a_token_is_shown_once_opens_the_api_and_is_revoked(person: User) -> None:
    client = sign_in("ada", PASSWORD)[0]
    answer = client.post(f"{ME}tokens/", {"name": "nightly export"})
    assert answer.status_code == 200
    assert "no-store" in answer["Cache-Control"]
    shown = re.search(r'<code class="secret">([0-9a-f]{40})</code>', answer.content.decode())
    assert shown is not None
    key = shown[1]
    assert key not in client.get(ME).content.decode()
    program, url = Client(headers={"Authorization": f"Token {key}"}), "/api/v1/projects/none/policies/"
    assert program.get(url).status_code == 404  # known, and no such project
    token = person.api_tokens.get()
    assert client.post(f"{ME}tokens/{token.pk}/revoke/").status_code == 302
    assert program.get(url).status_code == 401
    assert b"nightly export" not in client.get(ME).content
    acts = AuditEntry.objects.filter(actor=person).order_by("pk").values_list("action", flat=True)
    assert list(acts) == ["token.issue", "token.revoke"]


def test_a_token_needs_a_name_and_only_its_owner_sees_or_revokes_it(person: User) -> None:
    client = sign_in("ada", PASSWORD)[0]
    assert client.post(f"{ME}tokens/", {"name": ""}).status_code == 422
    other = make_user(make_project())
    issue_token(user=other, name="theirs")
    assert b"theirs" not in client.get(ME).content
    assert client.post(f"{ME}tokens/{other.api_tokens.get().pk}/revoke/").status_code == 404
    assert other.api_tokens.get().revoked_at is None


def test_theme_and_language_follow_to_another_device_signed_in_or_not_yet(person: User) -> None:
    here, there = sign_in("ada", PASSWORD)[0], sign_in("ada", PASSWORD)[0]
    here.post("/accounts/theme/", {"theme": "dark"})
    here.post("/accounts/language/", {"language": "zh-hans"})
    page = there.get(ME).content.decode()  # was signed in before
    assert 'data-theme="dark"' in page
    assert '<html lang="zh-hans"' in page
    third = sign_in("ada", PASSWORD)[0]
    third.post("/accounts/logout/")
    page = third.get("/accounts/login/").content.decode()  # the cookies stay for the signed-out pages
    assert 'data-theme="dark"' in page
    assert '<html lang="zh-hans"' in page
    there.post("/accounts/theme/", {"theme": "system"})
    assert "data-theme=" not in here.get(ME).content.decode()  # though this browser's cookie says dark


@pytest.mark.parametrize("name", ["ada", "nobody-of-this-name"])
def test_guesses_are_limited_and_the_page_says_how_long_whether_the_name_exists_or_not(person: User, name: str) -> None:
    pages = [sign_in(name, f"guess {number}", "192.0.2.2") for number in range(MOST_FOR_NAME)]
    assert {status for _client, status, _page in pages} == {200}
    client = Client(REMOTE_ADDR="192.0.2.2")
    answer = client.post("/accounts/login/", {"username": name.upper(), "password": PASSWORD})  # the name as folded
    assert answer.status_code == 429
    assert 0 < int(answer["Retry-After"]) <= 300
    assert "wait 5 minutes" in answer.content.decode()
    assert sign_in(name, PASSWORD, "192.0.2.2")[1] == 429  # the right one too: nothing was looked at
    assert sign_in("ada", PASSWORD, "192.0.2.3")[1] == 302  # from elsewhere nobody is locked out


def test_a_right_password_takes_back_what_was_counted(person: User) -> None:
    for _round in range(3):
        for number in range(MOST_FOR_NAME - 1):
            assert sign_in("ada", f"guess {number}", "192.0.2.4")[1] == 200
        assert sign_in("ada", PASSWORD, "192.0.2.4")[1] == 302


def test_many_names_from_one_address_are_limited_too(person: User) -> None:
    for number in range(MOST_FOR_ADDRESS):
        assert sign_in(f"name-{number}", "guess", "192.0.2.5")[1] == 200
    assert sign_in("ada", PASSWORD, "192.0.2.5")[1] == 429


def test_the_door_of_the_administration_counts_with_the_other() -> None:
    create_user(username="root", password=PASSWORD, is_superuser=True)
    for number in range(MOST_FOR_NAME):
        sign_in("root", f"guess {number}", "192.0.2.6")
    client = Client(REMOTE_ADDR="192.0.2.6")
    page = client.post("/admin/login/?next=/admin/", {"username": "root", "password": PASSWORD})
    assert b"Too many attempts" in page.content


def test_guesses_at_the_old_password_are_limited(person: User) -> None:
    client = sign_in("ada", PASSWORD, "192.0.2.7")[0]
    for _number in range(MOST_FOR_NAME):
        assert change(client, old="guess") == 422
    assert change(client) == 422
    assert sign_in("ada", PASSWORD, "192.0.2.8")[1] == 302


def test_behind_a_proxy_the_address_is_the_one_that_the_proxy_adds(settings: Settings) -> None:
    request = Client().get(
        "/accounts/login/", REMOTE_ADDR="10.0.0.1", headers={"X-Forwarded-For": "6.6.6.6, 192.0.2.9"}
    )
    asked = request.wsgi_request
    assert address_of(asked) == "10.0.0.1"  # without a proxy of ours anybody could write the header
    settings.PRODUCTION = True
    assert address_of(asked) == "192.0.2.9"
    asked.META["HTTP_X_FORWARDED_FOR"] = "2001:db8:1:2:3:4:5:6"
    assert address_of(asked) == "2001:db8:1:2::/64"
