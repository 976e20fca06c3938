"""Policies: the tree of versions, one beside its parent, its card and files, push, rollback and the endpoint."""

import io
import json
import zipfile
from collections.abc import Callable, Iterator
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from django.conf import LazySettings
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.utils import timezone
from django.utils.translation import override
from kombu.exceptions import OperationalError

from feedback_app.projects.models import Member, Project
from feedback_app.rounds.model_cards import write_model_card
from feedback_app.rounds.policy_tree import tree_of, versions_with_origin
from feedback_app.rounds.workspace import seal
from feedback_app.serving import tasks
from feedback_app.serving.models import Deployment, PolicyVersion, Push
from feedback_app.serving.selectors import family
from feedback_app.serving.services import ensure_base_policy
from feedback_app.serving.status import ask_endpoint
from tests.factories import make_project, make_user
from tests.web.round_rows import GATE, browser_of, page, policy_of, press, round_at

pytestmark = pytest.mark.django_db


@pytest.fixture
def project() -> Project:
    return make_project("loop")


@pytest.fixture
def manager(project: Project) -> Client:
    return browser_of(project, Member.Role.MANAGER)


@pytest.fixture
def line(project: Project) -> list[PolicyVersion]:
    """Return base, v1 and v2, one from the other; v2 is live and v1 was before it."""
    versions = [ensure_base_policy(project=project)]
    for number in (1, 2):
        held = round_at(project, "succeeded", parent=versions[-1], gate=GATE)
        versions.append(policy_of(held, number))
    Deployment.objects.filter(project=project).update(live=versions[2], previous=versions[1])
    return versions


# The tree


def child_of(parent: PolicyVersion, number: int) -> PolicyVersion:
    return PolicyVersion.objects.create(
        project=parent.project, number=number, name=f"v{number}", source=PolicyVersion.Source.ROUND, parent=parent,
        directory="nowhere",
    )  # fmt: skip


def drawn(project: Project) -> list[tuple[int, int, list[str]]]:
    rows, _width = tree_of(list(versions_with_origin(project=project)))
    return [(row.policy.number, row.lane, row.paths) for row in rows]


def test_a_line_of_versions_is_one_lane(project: Project) -> None:
    base = ensure_base_policy(project=project)
    child_of(child_of(base, 1), 2)
    # Lanes are 18 wide with their line in the middle; a row is 2 high with its dot at 1.
    assert drawn(project) == [(2, 0, ["M9 1V2"]), (1, 0, ["M9 0V1", "M9 1V2"]), (0, 0, ["M9 0V1"])]


def test_a_branch_has_its_own_lane_until_its_parents_row(project: Project) -> None:
    base = ensure_base_policy(project=project)
    first = child_of(base, 1)
    child_of(first, 2)
    child_of(base, 3)
    assert drawn(project) == [
        (3, 0, ["M9 1V2"]),
        (2, 1, ["M9 0V2", "M27 1V2"]),  # the base's line passes by
        (1, 1, ["M9 0V2", "M27 0V1", "M27 1V2"]),
        (0, 0, ["M9 0V1", "M27 0C27 0.8 27 1 9 1"]),  # both end at the base's dot
    ]


def test_a_lane_is_free_again_below_what_ends_in_it(project: Project) -> None:
    base = ensure_base_policy(project=project)
    other = PolicyVersion.objects.create(
        project=project, number=1, name="elsewhere", source=PolicyVersion.Source.REGISTERED, directory="nowhere"
    )
    child_of(other, 2)
    child_of(base, 3)
    lanes = {number: lane for number, lane, _paths in drawn(project)}
    assert lanes == {3: 0, 2: 1, 1: 1, 0: 0}


def test_no_policy_yet_says_where_the_first_comes_from(manager: Client) -> None:
    assert "Version 0 is the base model" in page(manager, "policies/")


def test_the_list_tells_what_made_each_version_and_which_is_live(manager: Client, line: list[PolicyVersion]) -> None:
    text = page(manager, "policies/")
    assert "loop-v2 answers" in text
    assert "Round 2" in text
    assert "61 % to 80 %" in text
    assert "Back to loop-v1" in text


def test_many_versions_cost_no_more_queries_than_few(
    manager: Client, project: Project, django_assert_max_num_queries: Callable[[int], Any]
) -> None:
    parent = ensure_base_policy(project=project)
    for number in range(1, 9):
        parent = policy_of(round_at(project, "succeeded", parent=parent), number)
    with django_assert_max_num_queries(12):
        page(manager, "policies/")


# One version


def test_a_version_stands_beside_its_parent_with_its_gate_and_curves(
    manager: Client, line: list[PolicyVersion]
) -> None:
    text = page(manager, "policies/2/")
    assert "Beside its parent" in text
    assert "5.4 nats a response; at most 60" in text
    assert 'id="chart-kl"' in text
    assert "behind, in grey: round 1" in text
    assert "measured by" in page(manager, "policies/0/")


def test_answers_to_the_same_prompts_are_shown_side_by_side(
    manager: Client, line: list[PolicyVersion], settings: LazySettings, tmp_path: Path
) -> None:
    settings.DATA_DIR = tmp_path
    held = line[2].made_by.get()
    held.steps.filter(name="evaluate").update(directory="evaluate")
    (tmp_path / "evaluate").mkdir()
    row = {
        "prompt": [{"role": "user", "content": "Why?"}], "policy": "Because <b>.", "parent": "I do not know.",
        "base": "", "score_policy": 1.5, "score_parent": 0.5, "score_base": 0.0,
    }  # fmt: skip
    (tmp_path / "evaluate" / "samples.jsonl").write_text(json.dumps(row) + "\n")
    text = page(manager, "policies/2/")
    assert "Because &lt;b&gt;." in text
    assert "I do not know." in text
    assert "an empty answer" in text


def test_the_card_is_written_from_facts(manager: Client, line: list[PolicyVersion]) -> None:
    answer = manager.get("/p/loop/policies/2/card/")
    card = answer.content.decode()
    assert answer["content-disposition"] == 'attachment; filename="loop-v2.md"'
    assert "- Line: loop-v2 ← loop-v1 ← loop-v0" in card
    assert "| Win rate over the parent | 0.710 | 0.610 to 0.800 |" in card
    assert f"updates = {line[2].made_by.get().config['ppo']['updates']}" in card  # the recipe as it was frozen


def test_a_cards_words_are_of_one_language_and_a_long_line_costs_no_more_queries(
    line: list[PolicyVersion],
) -> None:
    version = line[-1]
    with override("zh-hans"):
        assert "training round" in write_model_card(version, None)
    counts = []
    for number in (3, 12):
        while version.number < number:
            version = child_of(version, version.number + 1)
        with CaptureQueriesContext(connection) as asked:
            names = [policy.name for policy in family(policy=PolicyVersion.objects.get(pk=version.pk))]
        counts.append(len(asked))
        assert names[0] == f"v{number}"
        assert names[-1] == "loop-v0"
    assert counts[0] == counts[1]


def test_a_version_is_taken_away_whole_with_its_card(
    manager: Client, project: Project, line: list[PolicyVersion], tmp_path: Path
) -> None:
    assert manager.get("/p/loop/policies/2/download/").status_code == 404  # its weights are nowhere
    (tmp_path / "model").mkdir()
    (tmp_path / "checkpoints").mkdir()
    for name in ("model/model.safetensors", "model/config.json", "checkpoints/000010.pt"):
        (tmp_path / name).write_bytes(name.encode())
    seal(tmp_path, "ppo")
    PolicyVersion.objects.filter(pk=line[2].pk).update(directory=str(tmp_path))
    archive = zipfile.ZipFile(io.BytesIO(b"".join(manager.get("/p/loop/policies/2/download/"))))
    names = ["README.md", "config.json", "model.safetensors", "training/manifest.json"]
    assert sorted(archive.namelist()) == sorted(names)
    assert archive.read("model.safetensors") == b"model/model.safetensors"
    reviewer = browser_of(project, Member.Role.REVIEWER)
    assert reviewer.get("/p/loop/policies/2/download/").status_code == 403
    (tmp_path / "model" / "model.safetensors").write_bytes(b"damaged/model.safetenso")  # as long as it was
    refused = manager.get("/p/loop/policies/2/download/", follow=True).content.decode()
    assert "model.safetensors: differs from the manifest" in refused


# Push and rollback


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    """Catch what is asked of the workers, of whom there are none here."""
    calls: list[tuple[Any, ...]] = []
    for task in (tasks.push, tasks.take_back):
        monkeypatch.setattr(
            task, "delay", lambda *given, name=task.name: calls.append((name.rpartition(".")[2], *given))
        )
    return calls


def test_a_push_is_asked_of_a_worker_by_managers_alone(
    manager: Client, project: Project, line: list[PolicyVersion], asked: list[tuple[Any, ...]]
) -> None:
    path = f"policies/{line[0].pk}/push/"
    assert press(browser_of(project, Member.Role.REVIEWER), path).status_code == 403
    assert press(manager, path)["location"].startswith("/p/loop/policies/?asked=")
    assert [call[:2] for call in asked] == [("push", str(line[0].pk))]


def test_a_rollback_names_what_it_goes_back_from(
    manager: Client, line: list[PolicyVersion], asked: list[tuple[Any, ...]]
) -> None:
    press(manager, "policies/rollback/", **{"from": str(line[1].pk)})
    assert asked == []  # another version is live than the page was of
    press(manager, "policies/rollback/", **{"from": str(line[2].pk)})
    assert [call[0] for call in asked] == ["take_back"]


def test_a_rollback_delivered_twice_goes_back_once(project: Project, line: list[PolicyVersion]) -> None:
    person = make_user(project, Member.Role.MANAGER)
    for _ in range(2):
        tasks.take_back(project.pk, str(line[1].pk), person.pk)
    assert not Push.objects.exists()  # v1 is not live: there is nothing to take back from it


def test_nothing_to_go_back_to_says_so(manager: Client, project: Project, asked: list[tuple[Any, ...]]) -> None:
    base = ensure_base_policy(project=project)
    answer = manager.post("/p/loop/policies/rollback/", {"from": str(base.pk)}, follow=True)
    assert "there is nothing to go back to" in answer.content.decode()
    assert asked == []


def test_a_broker_that_is_away_changes_nothing_and_says_so(
    manager: Client, line: list[PolicyVersion], monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(*given: object) -> None:
        raise OperationalError("connection refused")

    monkeypatch.setattr(tasks.push, "delay", away)
    answer = manager.post(f"/p/loop/policies/{line[0].pk}/push/", follow=True)
    assert "Nothing was changed; try again" in answer.content.decode()


def test_a_push_that_is_refused_leaves_its_reason_on_the_page(
    manager: Client, project: Project, line: list[PolicyVersion]
) -> None:
    person = make_user(project, Member.Role.MANAGER)
    tasks.push(str(line[1].pk), person.pk)  # its weights are nowhere
    push = Push.objects.get()
    assert (push.state, push.requested_by) == (Push.State.FAILED, person)
    text = page(manager, "policies/")
    assert "Not gone live: verify" in text
    assert Deployment.objects.get(project=project).live == line[2]


def test_a_push_under_way_is_watched_until_it_ends(
    manager: Client, project: Project, line: list[PolicyVersion]
) -> None:
    push = Push.objects.create(project=project, policy=line[0], lease_until=timezone.now())
    assert "every 2s" in page(manager, "policies/")
    part = manager.get("/p/loop/policies/", headers={"hx-request": "true"})
    assert b"<html" not in part.content
    Push.objects.filter(pk=push.pk).update(state=Push.State.LIVE)
    assert manager.get("/p/loop/policies/", headers={"hx-request": "true"})["hx-redirect"] == "/p/loop/policies/"


def test_a_page_waits_for_the_push_that_it_asked_for_until_a_worker_begins_it(
    manager: Client, project: Project, line: list[PolicyVersion]
) -> None:
    old = Push.objects.create(project=project, policy=line[2], state=Push.State.LIVE)
    Push.objects.filter(pk=old.pk).update(created_at=timezone.now() - timedelta(minutes=1))
    now = timezone.now().timestamp()
    assert "it begins within seconds" in page(manager, f"policies/?asked={now}")
    part = manager.get(f"/p/loop/policies/?asked={now - 20}", headers={"hx-request": "true"})
    assert b"No worker has taken it yet" in part.content
    Push.objects.create(project=project, policy=line[1], state=Push.State.LIVE)
    part = manager.get(f"/p/loop/policies/?asked={now}", headers={"hx-request": "true"})
    assert part["hx-redirect"] == "/p/loop/policies/"
    # Long after, or of nonsense, nothing is waited for.
    for asked in (now - 600, "nonsense", "inf", "1e99"):
        assert "every 2s" not in page(manager, f"policies/?asked={asked}")


# The endpoint


@pytest.fixture
def server() -> Iterator[Callable[[int, Any], str]]:
    """Serve /health with a status and /info with a body; returns the address."""
    running: list[ThreadingHTTPServer] = []

    def serve(health: int, info: Any) -> str:
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                status, body = (health, b"") if self.path == "/health" else (200, json.dumps(info).encode())
                self.send_response(status)
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: object) -> None:
                """Keep quiet."""

        made = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        running.append(made)
        Thread(target=made.serve_forever, daemon=True).start()
        return f"http://127.0.0.1:{made.server_port}"

    yield serve
    for made in running:
        made.shutdown()
        made.server_close()


def deployed_at(project: Project, url: str) -> Deployment:
    ensure_base_policy(project=project)
    deployment = Deployment.objects.select_related("endpoint", "live").get(project=project)
    deployment.endpoint.url = url
    deployment.endpoint.save(update_fields=["url"])
    return deployment


def test_an_endpoint_says_itself_whether_it_has_the_live_version(
    manager: Client, project: Project, server: Callable[[int, Any], str]
) -> None:
    deployed_at(project, server(200, {"policies": [{"name": "loop-v0", "state": "ready"}]}))
    assert "it has the live version" in page(manager, "policies/endpoint/")
    deployed_at(project, server(200, {"policies": [{"name": "loop-v0", "state": "loading"}]}))
    assert "has lost loop-v0" in page(manager, "policies/endpoint/")


@pytest.mark.parametrize(
    ("health", "info"), [(503, {}), (200, {"model": "x"}), (200, ["no"]), (200, {"policies": ["x"]})]
)
def test_an_endpoint_that_is_ill_or_speaks_otherwise_is_said_to_be(
    project: Project, server: Callable[[int, Any], str], health: int, info: Any
) -> None:
    status = ask_endpoint(deployed_at(project, server(health, info)))
    assert not status.well
    assert status.why


def test_an_endpoint_that_is_away_does_not_hold_the_page(manager: Client, project: Project) -> None:
    deployed_at(project, "http://127.0.0.1:9")
    part = manager.get("/p/loop/policies/endpoint/", headers={"hx-request": "true"})
    assert b"does not answer" in part.content
    assert b"<html" not in part.content


def test_a_project_without_an_endpoint_says_so(manager: Client) -> None:
    assert "no endpoint yet" in page(manager, "policies/endpoint/")
