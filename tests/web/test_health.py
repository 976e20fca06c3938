"""The probes: a process that is up says so whatever else is down; one that cannot work says what it lacks."""

import pytest
from django.db import OperationalError, connection
from django.test import Client
from pytest_django import Settings

NOBODY_LISTENS = "redis://127.0.0.1:1/0"


@pytest.mark.django_db
def test_ready_says_ok_of_each_service_that_answers(client: Client) -> None:
    answer = client.get("/readyz")
    assert answer.status_code == 200
    assert answer.json() == {"database": "ok", "broker": "ok", "migrations": "ok"}


@pytest.mark.django_db
def test_ready_names_the_broker_that_does_not_answer(client: Client, settings: Settings) -> None:
    settings.REDIS_URL = NOBODY_LISTENS
    answer = client.get("/readyz")
    assert answer.status_code == 503
    assert answer.json() == {"database": "ok", "broker": "does not answer", "migrations": "ok"}


@pytest.mark.django_db
def test_ready_names_the_database_that_does_not_answer(client: Client) -> None:
    def refuse(*args: object) -> None:
        raise OperationalError("the server closed the connection unexpectedly")

    with connection.execute_wrapper(refuse):
        answer = client.get("/readyz")
    assert answer.status_code == 503
    assert answer.json() == {"database": "does not answer", "broker": "ok", "migrations": "not known"}


@pytest.mark.django_db
def test_ready_names_the_migrations_that_this_code_waits_for(client: Client) -> None:
    with connection.cursor() as cursor:
        cursor.execute("DELETE FROM django_migrations WHERE app = 'serving' AND name = '0003_soak'")
    answer = client.get("/readyz")
    assert answer.status_code == 503
    assert answer.json()["migrations"] == "to be applied: serving.0003_soak"


def test_live_asks_neither_database_nor_broker(client: Client, settings: Settings) -> None:
    # No django_db mark: a query would be an error of this test.
    settings.REDIS_URL = NOBODY_LISTENS
    answer = client.get("/livez")
    assert (answer.status_code, answer.content) == (200, b"ok\n")


@pytest.mark.django_db
def test_probes_come_by_address_whatever_hosts_are_allowed(client: Client, settings: Settings) -> None:
    settings.ALLOWED_HOSTS = ["annotate.example.org"]
    assert client.get("/accounts/login/", headers={"host": "10.1.2.3"}).status_code == 400
    assert client.get("/livez", headers={"host": "10.1.2.3"}).status_code == 200
    assert client.get("/readyz", headers={"host": "10.1.2.3"}).status_code == 200
