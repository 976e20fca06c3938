"""Log lines: for people, as key=value or as JSON, with round, fence, step, request and task bound by themselves."""

import json
import logging
import sys
from collections.abc import Callable
from typing import Any
from uuid import UUID

import pytest
from django.test import Client

from feedback_app import settings as plain_settings
from feedback_app.celery import app
from feedback_app.logs import JsonFormatter, KeyValueFormatter, LineFormatter, bound
from feedback_app.rounds import runner
from feedback_app.rounds.leases import LeaseLost
from feedback_app.rounds.models import Round
from tests.factories import make_project
from tests.web.round_rows import round_at

LINE: Callable[[], logging.Formatter] = lambda: LineFormatter("{levelname} {message}", style="{")  # noqa: E731


class Kept(logging.Handler):
    """Keeps what is said, in the form of a formatter."""

    def __init__(self, formatter: logging.Formatter) -> None:
        super().__init__()
        self.setFormatter(formatter)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(self.format(record))


@pytest.fixture
def keep(request: pytest.FixtureRequest) -> Callable[[logging.Formatter], list[str]]:
    def kept(formatter: logging.Formatter) -> list[str]:
        handler = Kept(formatter)
        root = logging.getLogger("feedback_app")
        level = root.level
        root.addHandler(handler)
        root.setLevel(logging.INFO)

        def undo() -> None:
            root.removeHandler(handler)
            root.setLevel(level)

        request.addfinalizer(undo)
        return handler.lines

    return kept


def say(message: str, *values: Any, **more: Any) -> None:
    logging.getLogger("feedback_app.test").info(message, *values, **more)


def test_json_lines_hold_what_is_bound_and_an_exception_in_one_line(keep: Any) -> None:
    lines = keep(JsonFormatter())
    with bound(round=7, fence=2), bound(step="ppo"):
        try:
            raise ValueError("two\nlines")
        except ValueError:
            say("it %s", "failed", exc_info=sys.exc_info())
    say("after")
    first, second = (json.loads(line) for line in lines)
    assert (first["round"], first["fence"], first["step"], first["message"]) == (7, 2, "ppo", "it failed")
    assert first["exception"].endswith("ValueError: two\nlines")
    assert set(second) == {"at", "level", "logger", "message"}


def test_key_values_are_one_line_that_can_be_read_back(keep: Any) -> None:
    lines = keep(KeyValueFormatter())
    with bound(step="ppo", why='a "b"\nc=d'):
        say("a message")
    (line,) = lines
    assert line.endswith(' step=ppo why="a \\"b\\"\\nc=d" message="a message"')


def test_lines_for_people_say_nothing_twice(keep: Any) -> None:
    lines = keep(LINE())
    with bound(round=7, step="ppo"):
        say("round=7 begins")
    assert lines == ["INFO round=7 begins [step=ppo]"]


def test_a_request_has_an_id_that_its_lines_and_its_answer_carry(
    keep: Any, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    from feedback_app.accounts import error_views

    lines = keep(JsonFormatter())
    honest = error_views.not_found

    def spoken(*args: Any, **kwargs: Any) -> Any:
        say("not found")
        return honest(*args, **kwargs)

    monkeypatch.setattr("django.urls.resolvers.URLResolver.resolve_error_handler", lambda *_: spoken)
    answer = client.get("/no/such/page", headers={"X-Request-ID": "from-the-proxy.1"})
    assert answer["X-Request-ID"] == json.loads(lines[0])["request"] == "from-the-proxy.1"
    # What could forge a line, or is no id, is replaced.
    forged = client.get("/no/such/page", headers={"X-Request-ID": "a b=c"})["X-Request-ID"]
    assert UUID(forged).version == 4
    assert json.loads(lines[1])["request"] == forged


@pytest.mark.django_db
def test_what_a_worker_says_of_a_round_carries_round_fence_and_step(keep: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    held = round_at(make_project(), "queued")
    Round.objects.update(fence=4)

    def step(run: Any) -> None:
        say("inside")
        raise LeaseLost

    monkeypatch.setattr(runner, "_run_step", step)
    lines = keep(JsonFormatter())
    runner.work_on_round(round_id=held.pk)
    (inside,) = [entry for line in lines if (entry := json.loads(line))["message"] == "inside"]
    assert (inside["round"], inside["fence"], inside["step"]) == (str(held.pk), 5, "export")


def test_what_a_task_says_carries_its_name(keep: Any) -> None:
    lines = keep(JsonFormatter())

    @app.task(name="tests.speak")  # type: ignore[untyped-decorator]  # Celery is untyped
    def speak() -> None:
        say("a task")

    speak.apply()
    entry = json.loads(lines[0])
    assert entry["task"] == "speak"
    assert UUID(entry["task_id"]).version == 4


def test_the_setting_names_one_of_three_forms() -> None:
    logging_settings: Any = plain_settings.LOGGING
    assert set(logging_settings["formatters"]) == {"line", "keyvalue", "json"}
    assert logging_settings["handlers"]["stderr"]["formatter"] == plain_settings.LOG_FORMAT == "line"
