"""What people are told of without looking: written with what happened, brought at least once, signed, never inwards."""

import hashlib
import hmac
import json
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from ipaddress import ip_network
from typing import Any

import pytest
from django.core import mail
from django.core.exceptions import ValidationError
from django.test import Client
from django.utils import timezone

from feedback_app.accounts.models import AuditEntry, User
from feedback_app.annotation.sampling import refill_queues
from feedback_app.annotation.services import checks
from feedback_app.datasets.services import erase_from_project
from feedback_app.notifications.models import CHOICES, Delivery, Notification, Webhook
from feedback_app.notifications.sending import EVERYWHERE, Message, NotSent, is_public, post_signed
from feedback_app.notifications.services import (
    add_webhook,
    announce,
    choose_kinds,
    deliver_due,
    forget_notifications,
    secret_of,
    send_test,
)
from feedback_app.notifications.services.delivering import PAUSES
from feedback_app.notifications.words import say
from feedback_app.projects.models import Member, Project
from feedback_app.projects.services import remove_member
from feedback_app.rounds.services import cancel_round, reject_round
from tests.factories import make_project, make_prompt, make_user
from tests.web.judged import judged_rows, run_rows
from tests.web.round_rows import browser_of, page, press, round_at

pytestmark = pytest.mark.django_db
Kind = Notification.Kind
KINDS = [value for value, _label in CHOICES]


class Receiver:
    """A server that takes webhooks and answers as a test says."""

    def __init__(self) -> None:
        self.got: list[tuple[dict[str, str], bytes]] = []
        self.answers: list[int] = []
        self.hold = threading.Event()
        self.drips = False
        self.url = ""


@contextmanager
def run_receiver() -> Iterator[Receiver]:
    receiver = Receiver()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            receiver.got.append(({name.lower(): value for name, value in self.headers.items()}, body))
            if receiver.drips:  # a byte now and then keeps every read of the client's within its own timeout
                while not receiver.hold.wait(0.05):
                    try:
                        self.wfile.write(b"H")
                    except OSError:
                        return
                return
            status = receiver.answers.pop(0) if receiver.answers else 204
            self.send_response(status)
            if status in (301, 307):
                self.send_header("location", f"{receiver.url}/elsewhere")
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    receiver.url = f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield receiver
    finally:
        receiver.hold.set()
        server.shutdown()
        server.server_close()


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with run_receiver() as running:
        yield running


@pytest.fixture(autouse=True)
def site(settings: Any) -> None:
    settings.EMAIL_HOST = "mail.example.org"
    settings.PUBLIC_URL = "https://rlhf.example.org"
    settings.WEBHOOK_NETWORKS = [ip_network("127.0.0.0/8")]


@pytest.fixture
def project() -> Project:
    return make_project("loop", name="Loop")


@pytest.fixture
def manager(project: Project) -> User:
    return make_user(project, Member.Role.MANAGER)


@pytest.fixture
def webhook(project: Project, manager: User, receiver: Receiver) -> Webhook:
    return add_webhook(project=project, url=f"{receiver.url}/hook?to=me", kinds=KINDS, created_by=manager)


def fail_a_round(project: Project, **more: Any) -> Notification | None:
    return announce(
        project=project, kind=Kind.ROUND_FAILED, key=more.pop("key", "1:1"), path="rounds/1/",
        values={"number": 1, "why": "ppo ended with exit code 1", "policy": "", "round": "x"} | more,
    )  # fmt: skip


# The message


def test_a_webhook_gets_a_signed_event_that_its_receiver_can_check(
    project: Project, webhook: Webhook, receiver: Receiver
) -> None:
    event = fail_a_round(project)
    assert event is not None
    assert deliver_due() == 1
    ((headers, body),) = receiver.got
    # As a receiver would: with the secret, over the timestamp, a point and the raw body.
    expected = hmac.new(
        secret_of(webhook).encode(), headers["x-rlhf-timestamp"].encode() + b"." + body, hashlib.sha256
    ).hexdigest()  # fmt: skip
    assert headers["x-rlhf-signature"] == f"sha256={expected}"
    assert abs(int(headers["x-rlhf-timestamp"]) - timezone.now().timestamp()) < 60
    assert (headers["x-rlhf-event"], headers["x-rlhf-kind"]) == (str(event.pk), "round_failed")
    assert json.loads(body) == {
        "id": str(event.pk), "kind": "round_failed", "at": event.created_at.isoformat(), "project": "loop",
        "text": "Round 1 failed: ppo ended with exit code 1", "url": "https://rlhf.example.org/p/loop/rounds/1/",
        "data": {"number": 1, "why": "ppo ended with exit code 1", "policy": "", "round": "x"},
    }  # fmt: skip
    delivery = Delivery.objects.get()
    assert (delivery.state, delivery.status, delivery.attempts) == ("delivered", 204, 1)
    assert deliver_due() == 0


def test_each_webhook_has_a_secret_of_its_own(project: Project, manager: User) -> None:
    first, second = (
        add_webhook(project=project, url="https://example.org/", kinds=KINDS, created_by=manager) for _ in range(2)
    )
    assert secret_of(first) != secret_of(second)
    assert len(secret_of(first)) == 64


def test_a_person_gets_a_mail_in_their_language_with_a_link(project: Project, manager: User) -> None:
    User.objects.filter(pk=manager.pk).update(language="zh-hans")
    choose_kinds(project=project, user=manager, kinds=["round_failed"], email="m@example.org")
    fail_a_round(project, why="no\nspace left")
    announce(project=project, kind=Kind.PROMPTS_OUT, key="x", values={})
    assert deliver_due() == 1
    (sent,) = mail.outbox
    # A line feed in what failed must not begin another header.
    assert "\n" not in sent.subject
    assert sent.subject.startswith("[Loop] ")
    assert sent.to == ["m@example.org"]
    assert "https://rlhf.example.org/p/loop/rounds/1/" in sent.body
    assert "https://rlhf.example.org/p/loop/settings/notifications/" in sent.body
    assert sent.extra_headers["X-RLHF-Event"] == str(Notification.objects.get(kind="round_failed").pk)


def test_nobody_is_written_to_who_may_not_read_it_any_more(project: Project, settings: Any) -> None:
    gone, annotator, stays = (
        make_user(project, role) for role in (Member.Role.MANAGER, Member.Role.ANNOTATOR, Member.Role.MANAGER)
    )
    for user in (gone, annotator, stays):
        choose_kinds(project=project, user=user, kinds=KINDS, email=f"{user.username}@example.org")
    remove_member(project=project, user=gone, removed_by=None)
    fail_a_round(project)
    assert [delivery.recipient for delivery in Delivery.objects.all()] == [stays]
    settings.EMAIL_HOST = ""
    fail_a_round(project, key="2:1")
    assert Delivery.objects.count() == 1


def test_what_happened_once_is_told_once(project: Project, webhook: Webhook) -> None:
    assert fail_a_round(project) is not None
    assert fail_a_round(project) is None
    assert Delivery.objects.count() == 1


def test_every_kind_has_its_sentence() -> None:
    values = {"number": 1, "policy": "p", "why": "w", "name": "n", "previous": "q", "count": 1, "requests": 2}
    for kind in KINDS:
        for cause in ("errors", "empty", "latency"):
            assert "%(" not in say(kind, values | {"cause": cause})


# Bringing it


def test_what_is_not_taken_is_sent_again_later_and_later_with_the_same_event(
    project: Project, webhook: Webhook, receiver: Receiver
) -> None:
    receiver.answers = [500, 429]
    fail_a_round(project)
    waits = []
    for attempt in (1, 2, 3):
        Delivery.objects.update(next_at=timezone.now())
        assert deliver_due() == 1
        delivery = Delivery.objects.get()
        assert delivery.attempts == attempt
        waits.append((delivery.next_at - timezone.now()).total_seconds())
    assert delivery.state == Delivery.State.DELIVERED
    assert 9 < waits[0] <= 12 < 29 < waits[1] <= 36
    assert len({headers["x-rlhf-event"] for headers, _body in receiver.got}) == 1


def test_after_a_day_it_is_given_up(project: Project, webhook: Webhook, receiver: Receiver) -> None:
    receiver.answers = [503]
    fail_a_round(project)
    assert timedelta(hours=15) < sum(PAUSES, timedelta()) < timedelta(days=2)
    Delivery.objects.update(attempts=len(PAUSES))
    deliver_due()
    delivery = Delivery.objects.get()
    assert (delivery.state, delivery.status, delivery.said) == ("given_up", 503, "answered 503")
    Delivery.objects.update(next_at=timezone.now())
    assert deliver_due() == 0


def test_an_attempt_whose_process_died_is_made_again(
    project: Project, webhook: Webhook, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    from feedback_app.notifications.services import delivering

    fail_a_round(project)
    with monkeypatch.context() as patched:
        patched.setattr(delivering, "_write", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            deliver_due()
    assert deliver_due() == 0  # the attempt still has its time
    Delivery.objects.update(next_at=timezone.now())
    assert deliver_due() == 1
    assert len(receiver.got) == 2
    assert Delivery.objects.get().state == Delivery.State.DELIVERED


def test_a_mail_server_that_is_away_is_tried_again(project: Project, manager: User, settings: Any) -> None:
    settings.EMAIL_BACKEND = "django.core.mail.backends.smtp.EmailBackend"
    settings.EMAIL_HOST, settings.EMAIL_PORT = "127.0.0.1", 9
    choose_kinds(project=project, user=manager, kinds=KINDS, email="m@example.org")
    fail_a_round(project)
    deliver_due()
    delivery = Delivery.objects.get()
    assert (delivery.state, delivery.attempts) == ("waiting", 1)
    assert delivery.said.startswith("ConnectionRefusedError: ")


# Where it goes


def message(url: str) -> Message:
    return Message(url=url, secret="s", body=b"{}", event="e", kind="test")


def test_no_redirect_is_followed(receiver: Receiver) -> None:
    receiver.answers = [307]
    with pytest.raises(NotSent, match="answered 307") as caught:
        post_signed(message(receiver.url), allowed=EVERYWHERE)
    assert caught.value.status == 307
    assert len(receiver.got) == 1


def test_an_answer_that_drips_is_cut_off_at_the_deadline(receiver: Receiver) -> None:
    receiver.drips = True
    with pytest.raises(NotSent, match="no answer within"):
        post_signed(message(receiver.url), allowed=EVERYWHERE, deadline_s=0.4)


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1", "10.0.0.8", "192.168.1.1", "172.16.0.1", "169.254.169.254", "100.64.0.1", "0.0.0.0", "224.0.0.1",
        "::1", "fe80::1", "fd00::1", "::ffff:127.0.0.1", "::ffff:10.0.0.1", "64:ff9b::a00:1", "2002:a00:1::",
    ],
)  # fmt: skip
def test_private_addresses_are_none_of_the_internet(address: str) -> None:
    assert not is_public(address)


def test_a_private_address_is_reached_only_where_the_operator_allows_it(
    receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(NotSent, match="private address"):
        post_signed(message(receiver.url))
    with pytest.raises(NotSent, match="private address"):
        post_signed(message(receiver.url), allowed=[ip_network("10.0.0.0/8")])
    # A name of the internet's that leads inwards: the address that was looked at is the one connected to.
    places = [("93.184.216.34", 443), ("127.0.0.1", 443)]
    asked: list[str] = []

    def resolve(host: str, port: int, **_: Any) -> list[Any]:
        asked.append(host)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", places[min(len(asked), 2) - 1])]

    reached: list[Any] = []

    def connect(place: Any, timeout: float) -> Any:
        reached.append(place)
        raise ConnectionRefusedError("not here")

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    monkeypatch.setattr(socket, "create_connection", connect)
    with pytest.raises(NotSent, match="ConnectionRefusedError"):
        post_signed(message("https://rebinding.example/"))
    assert reached == [("93.184.216.34", 443)]
    with pytest.raises(NotSent, match="private address"):
        post_signed(message("https://rebinding.example/"))
    assert len(reached) == 1
    asked.clear()
    with pytest.raises(NotSent, match="plain http"):
        post_signed(message("http://rebinding.example/"))


@pytest.mark.parametrize(
    "url", ["ftp://example.org/", "https://", "example.org", "https://a:b@example.org/", "https://e:x/"]
)
def test_an_address_that_is_none_is_not_taken(project: Project, manager: User, url: str) -> None:
    with pytest.raises(ValidationError) as caught:
        add_webhook(project=project, url=url, kinds=KINDS, created_by=manager)
    assert "url" in caught.value.message_dict


# What is told of


def test_a_round_that_ends_or_waits_is_told_of_in_its_own_transaction(project: Project) -> None:
    waiting = round_at(project, "waiting_for_approval", "gate")
    reject_round(round_id=waiting.pk, rejected_by=None, reason="Too short.")
    queued = round_at(project, "queued")
    cancel_round(round_id=queued.pk, cancelled_by=None)
    told = [(event.kind, say(event.kind, event.values)) for event in Notification.objects.order_by("created_at")]
    assert told == [
        ("round_rejected", "Round 1 was rejected: Too short."), ("round_cancelled", "Round 2 was cancelled.")
    ]  # fmt: skip


def test_prompts_that_have_run_out_are_told_of_once(project: Project) -> None:
    Project.objects.update(refill_per_annotator=1)
    refill_queues()  # the project has none at all
    refill_queues()
    assert Notification.objects.filter(kind=Kind.PROMPTS_OUT).count() == 1
    make_prompt(project)
    refill_queues()
    assert Notification.objects.filter(kind=Kind.PROMPTS_OUT).count() == 1


def test_an_annotator_paused_by_a_rule_is_told_of(project: Project) -> None:
    member = Member.objects.get(user=make_user(project, username="hasty"))
    checks._pause(member, "Too fast.")
    event = Notification.objects.get()
    assert say(event.kind, event.values) == "hasty was paused by a rule: Too fast."


def test_what_was_told_of_an_erased_annotator_is_erased(project: Project) -> None:
    run_rows(project, judged_rows(2))
    for user in User.objects.filter(kind="imported"):
        member, _ = Member.objects.get_or_create(project=project, user=user)
        checks._pause(member, "Too fast.")
    named = sorted(event.values["name"] for event in Notification.objects.all())
    erase_from_project(project=project, erased_by=None, annotator=named[0])
    assert sorted(event.values["name"] for event in Notification.objects.all()) == named[1:]


def test_old_events_are_forgotten(project: Project, webhook: Webhook) -> None:
    fail_a_round(project)
    fail_a_round(project, key="2:1")
    Notification.objects.filter(key__endswith="2:1").update(created_at=timezone.now() - timedelta(days=61))
    assert forget_notifications() == 1
    assert Delivery.objects.count() == 1


# The page


def test_a_manager_adds_a_webhook_sees_its_secret_once_tests_it_and_removes_it(
    project: Project, receiver: Receiver
) -> None:
    client = browser_of(project, Member.Role.MANAGER)
    given = {"webhook-url": f"{receiver.url}/hook", "webhook-kinds": ["round_failed", "rolled_back"]}
    answer = press(client, "settings/notifications/webhooks/", **given)
    webhook = Webhook.objects.get()
    assert secret_of(webhook) in answer.content.decode()
    shown = page(client, "settings/notifications/")
    assert secret_of(webhook) not in shown
    assert "a round failed, a policy was rolled back by itself" in shown
    path = f"settings/notifications/webhooks/{webhook.pk}/"
    assert press(client, path, do="test").status_code == 302
    assert "waiting" in page(client, "settings/notifications/")
    deliver_due()
    assert "delivered" in page(client, "settings/notifications/", headers={"HX-Request": "true"})
    assert json.loads(receiver.got[0][1])["kind"] == "test"
    press(client, path, do="remove")
    assert not Webhook.objects.exists()
    assert list(AuditEntry.objects.filter(action__startswith="webhook").values_list("action", flat=True)) == [
        "webhook.remove", "webhook.add"
    ]  # fmt: skip


def test_refusals_stand_at_their_fields(project: Project) -> None:
    client = browser_of(project, Member.Role.MANAGER)
    answer = press(client, "settings/notifications/webhooks/", **{"webhook-url": "http//x", "webhook-kinds": ["test"]})
    assert answer.status_code == 422
    assert set(answer.context["webhook_form"].errors) == {"kinds"}
    answer = press(client, "settings/notifications/mine/", **{"mine-kinds": ["round_failed"]})
    assert (answer.status_code, set(answer.context["choices_form"].errors)) == (422, {"email"})


def test_a_reviewer_chooses_and_sees_no_webhook(project: Project, webhook: Webhook) -> None:
    reviewer = make_user(project, Member.Role.REVIEWER)
    client = Client()
    client.force_login(reviewer)
    given = {"mine-email": "r@example.org", "mine-kinds": ["prompts_out"]}
    assert press(client, "settings/notifications/mine/", **given).status_code == 302
    shown = page(client, "settings/notifications/")
    assert webhook.url not in shown
    assert "r@example.org" in shown
    fail_a_round(project)
    announce(project=project, kind=Kind.PROMPTS_OUT, key="x", values={})
    assert [delivery.notification.kind for delivery in Delivery.objects.filter(recipient=reviewer)] == ["prompts_out"]


def test_a_test_goes_to_its_webhook_alone(project: Project, webhook: Webhook, manager: User) -> None:
    add_webhook(project=project, url="https://example.org/", kinds=KINDS, created_by=manager)
    send_test(webhook=webhook)
    assert [delivery.webhook for delivery in Delivery.objects.all()] == [webhook]
