"""The HTTP contract of judging: what each endpoint answers, to whom, and what it refuses."""

import json
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
from django.core.management import call_command
from django.test import Client

from feedback_app.accounts.models import User
from feedback_app.annotation.models import Assignment, Judgment, Response, Task
from feedback_app.annotation.services.erasing import erase_annotators
from feedback_app.projects.models import Member, Project
from feedback_app.projects.services import publish_protocol, remove_member, set_paused
from tests.factories import canonical_ids, make_policy, make_project, make_task, make_tasks, make_token, make_user

pytestmark = pytest.mark.django_db


class Api:
    """A caller with a token of its own."""

    def __init__(self, user: User, project: Project) -> None:
        self.client = Client(headers={"authorization": f"Token {make_token(user)}"})
        self.slug = project.slug

    def send(self, method: str, path: str, body: Any = None, **headers: str) -> Any:
        data = json.dumps(body).encode() if body is not None and method != "get" else None
        send = getattr(self.client, method)
        more = {} if method == "get" else {"content_type": "application/json"}
        return send(f"/api/v1/{path}", data, headers=headers, **more)

    def next(self, *hold: str) -> Any:
        return self.send("post", f"projects/{self.slug}/tasks/next/", {"hold": list(hold)})

    def submit(self, task: dict[str, Any], body: Any = None, **headers: str) -> Any:
        ranking = [[response["id"]] for response in task["responses"]]
        return self.send("post", f"tasks/{task['id']}/judgments/", body or {"ranking": ranking}, **headers)


@pytest.fixture
def project() -> Project:
    return make_project()


@pytest.fixture
def api(project: Project) -> Api:
    return Api(make_user(project), project)


def test_a_task_is_shown_as_the_contract_says_and_names_no_model(project: Project, api: Api) -> None:
    policy = make_policy(project, 7)
    task = make_task(project, ("Green tea.", "黑茶"), policy=policy)
    answer = api.next()
    assert answer.status_code == 200
    assert answer["Content-Security-Policy"] == "default-src 'none'; frame-ancestors 'none'"
    shown = answer.json()
    assert set(shown) == {"id", "assignment", "prompt", "responses", "protocol", "draft"}
    assert set(shown["assignment"]) == {"id", "expires_at"}
    assert shown["id"] == str(task.pk)
    assert shown["prompt"] == {"messages": task.prompt.messages}
    assert {response["id"]: response["text"] for response in shown["responses"]} == dict(
        zip(canonical_ids(task), ("Green tea.", "黑茶"), strict=True)
    )
    assert all(set(response) == {"id", "text"} for response in shown["responses"])
    assert shown["protocol"]["name"] == "pairwise"
    assert shown["draft"] is None
    assert policy.name not in answer.content.decode()
    assert str(policy.pk) not in answer.content.decode()


def test_the_shown_order_is_the_recorded_one_and_both_orders_come_up(project: Project, api: Api) -> None:
    orders = set()
    for task in make_tasks(project, 24):
        shown = api.next().json()
        assignment = Assignment.objects.get(pk=shown["assignment"]["id"])
        ids = canonical_ids(task)
        assert [response["id"] for response in shown["responses"]] == [ids[place] for place in assignment.shown_order]
        orders.add(tuple(assignment.shown_order))
        api.submit(shown)
    assert orders == {(0, 1), (1, 0)}  # by luck alone one of them is missing once in 2^23 runs


def test_nothing_to_do_is_204(api: Api) -> None:
    assert api.next().status_code == 204


def test_a_submitted_verdict_is_answered_in_full_and_stored_by_canonical_position(project: Project, api: Api) -> None:
    task = make_task(project)
    first, second = canonical_ids(task)
    shown = api.next().json()
    body = {"ranking": [[second], [first]], "strength": 2, "rationale": "shorter", "lead_time": 3.2}
    answer = api.submit(shown, body)
    assert answer.status_code == 201
    stored = answer.json()
    assert {name: stored[name] for name in body} == body
    assert stored["task"] == str(task.pk)
    assert (stored["all_bad"], stored["ratings"], stored["flags"], stored["rewrites"]) == (False, {}, {}, {})
    assert (stored["surplus"], stored["revision"]) == (False, 1)
    judgment = Judgment.objects.get(pk=stored["id"])
    assert (judgment.ranks, judgment.strength, judgment.origin) == ([1, 0], 2, Judgment.Origin.HUMAN)
    task.refresh_from_db()
    assert (task.reserved, task.counted, task.open) == (0, 1, False)


def test_a_simulated_annotators_judgments_are_marked(project: Project) -> None:
    make_task(project)
    api = Api(make_user(project, kind=User.Kind.SIMULATED), project)
    stored = api.submit(api.next().json()).json()
    assert Judgment.objects.get(pk=stored["id"]).origin == Judgment.Origin.SIMULATED


def test_hold_answers_the_other_reservation_or_a_new_one_and_never_a_third(project: Project, api: Api) -> None:
    make_tasks(project, 5)
    first = api.next().json()
    assert api.next().json() == first  # a second tab, or a reload, meets the same task in the same order
    second = api.next(first["assignment"]["id"]).json()
    assert second["id"] != first["id"]
    assert api.next().json() == first  # the oldest
    assert api.next(second["assignment"]["id"]).json() == first
    assert api.next(first["assignment"]["id"]).json() == second
    assert api.next(first["assignment"]["id"], second["assignment"]["id"]).status_code == 204
    assert Assignment.objects.count() == 2
    api.submit(first)
    assert api.next(second["assignment"]["id"]).json()["id"] not in (first["id"], second["id"])


@pytest.mark.parametrize("hold", ["x", ["x"], [1], {"a": 1}])
def test_a_hold_that_is_no_list_of_ids_is_a_400_that_names_it(api: Api, hold: object) -> None:
    answer = api.send("post", f"projects/{api.slug}/tasks/next/", {"hold": hold})
    assert (answer.status_code, list(answer.json())) == (400, ["hold"])


def test_the_same_submit_again_answers_the_first_result_and_another_body_is_409(project: Project, api: Api) -> None:
    make_task(project)
    shown = api.next().json()
    first = api.submit(shown)
    again = api.submit(shown)
    assert (again.status_code, again.json()) == (201, first.json())
    ids = [response["id"] for response in shown["responses"]]
    assert api.submit(shown, {"ranking": [[ids[1]], [ids[0]]]}).status_code == 409
    assert Judgment.objects.count() == 1


def test_an_idempotency_key_answers_its_first_result_and_no_other_request(project: Project, api: Api) -> None:
    make_tasks(project, 2)
    shown = api.next().json()
    key = {"idempotency-key": "k-1"}
    first = api.submit(shown, **key)
    assert first.status_code == 201
    assert api.submit(shown, **key).json() == first.json()
    ids = [response["id"] for response in shown["responses"]]
    assert api.submit(shown, {"ranking": [ids]}, **key).status_code == 409
    other = api.next().json()
    refused = api.submit(other, **key)
    assert (refused.status_code, list(refused.json())) == (409, ["Idempotency-Key"])
    assert Judgment.objects.count() == 1
    assert api.submit(other, **{"idempotency-key": "k-2"}).status_code == 201


def test_a_refused_verdict_leaves_its_key_free(project: Project, api: Api) -> None:
    make_task(project)
    shown = api.next().json()
    assert api.submit(shown, {"ranking": []}, **{"idempotency-key": "k"}).status_code == 400
    assert api.submit(shown, **{"idempotency-key": "k"}).status_code == 201


def test_a_key_too_long_for_its_column_is_a_400(project: Project, api: Api) -> None:
    make_task(project)
    assert api.submit(api.next().json(), **{"idempotency-key": "k" * 201}).status_code == 400


def test_drafts_are_kept_as_they_are_and_come_back_with_the_task(project: Project, api: Api) -> None:
    make_task(project)
    shown = api.next().json()
    draft = {"ranking": [["not even an id"]], "rationale": "so far"}
    assert api.send("put", f"tasks/{shown['id']}/draft/", draft).status_code == 204
    assert api.next().json()["draft"] == draft
    api.submit(shown)
    assert api.send("put", f"tasks/{shown['id']}/draft/", draft).status_code == 409


@pytest.mark.parametrize(
    "draft", [[1], "text", {"nul": "\x00"}, {"\x00": 1}, {"half": "\ud800"}, {"long": "x" * 1_000_001}]
)
def test_a_draft_that_cannot_be_stored_is_a_400(project: Project, api: Api, draft: object) -> None:
    make_task(project)
    shown = api.next().json()
    assert api.send("put", f"tasks/{shown['id']}/draft/", draft).status_code == 400


def test_a_heartbeat_extends_the_reservation(project: Project, api: Api) -> None:
    make_task(project)
    shown = api.next().json()
    [before] = Assignment.objects.values_list("expires_at", flat=True)
    assert api.send("post", f"tasks/{shown['id']}/renew/").status_code == 204
    assert Assignment.objects.filter(expires_at__gt=before).exists()
    api.submit(shown)
    assert api.send("post", f"tasks/{shown['id']}/renew/").status_code == 409


def test_a_skipped_task_goes_to_others_and_never_back(project: Project, api: Api) -> None:
    task = make_task(project)
    assert api.send("post", f"tasks/{api.next().json()['id']}/skip/", {"reason": "too long"}).status_code == 204
    assert Assignment.objects.get().reason == "too long"
    assert api.next().status_code == 204
    other = Api(make_user(project), project)
    assert other.next().json()["id"] == str(task.pk)


def test_a_reported_task_leaves_the_queue(project: Project, api: Api) -> None:
    task = make_task(project)
    api.next()
    assert api.send("post", f"tasks/{task.pk}/report/", {"reason": "no prompt"}).status_code == 204
    task.refresh_from_db()
    assert (task.state, task.open, task.reserved) == (Task.State.REPORTED, False, 0)
    assert Api(make_user(project), project).next().status_code == 204


def test_a_revision_replaces_the_verdict_and_keeps_the_old_one(project: Project, api: Api) -> None:
    make_task(project)
    shown = api.next().json()
    stored = api.submit(shown).json()
    ids = [response["id"] for response in shown["responses"]]
    for _ in range(2):  # the same verdict again is no further revision
        answer = api.send("put", f"judgments/{stored['id']}/", {"ranking": [ids], "rationale": "on second thought"})
        assert answer.status_code == 200
    revised = answer.json()
    assert (len(revised["ranking"]), revised["rationale"], revised["revision"]) == (1, "on second thought", 2)
    judgment = Judgment.objects.get()
    assert judgment.ranks == [0, 0]
    [old] = judgment.revisions.all()
    assert (old.revision, old.verdict["ranking"]) == (1, stored["ranking"])
    assert api.send("put", f"judgments/{stored['id']}/", {"ranking": "no"}).json().keys() == {"ranking"}


def test_a_rewrite_is_a_response_of_its_prompt_that_follows_the_revision_and_its_writer() -> None:
    project = make_project(protocol="rewrite")
    author = make_user(project)
    task = make_task(project)
    api = Api(author, project)
    ids = [response["id"] for response in api.next().json()["responses"]]
    body = {"ranking": [[ids[0]], [ids[1]]], "rewrites": {ids[0]: "好多了。", ids[1]: "Shorter."}}
    stored = api.send("post", f"tasks/{task.pk}/judgments/", body).json()
    rewrites = Response.objects.filter(source="rewrite", prompt=task.prompt, written_by=author)
    assert {(response.text, response.sampling["rewrite_of"]) for response in rewrites} == {
        ("好多了。", ids[0]), ("Shorter.", ids[1]),
    }  # fmt: skip
    page = Client()
    page.force_login(make_user(project, Member.Role.REVIEWER))
    assert "好多了。" in page.get(f"/p/{project.slug}/review/{task.pk}/").content.decode()
    kept = rewrites.get(text="Shorter.")
    assert api.send("put", f"judgments/{stored['id']}/", body | {"rewrites": {ids[1]: "Shorter."}}).status_code == 200
    assert rewrites.get() == kept
    assert len(canonical_ids(task)) == 2  # nobody is shown it unasked
    erase_annotators(project=project, annotators=[author])
    assert not Response.objects.filter(source="rewrite").exists()


def test_a_revisions_draft_is_its_authors_and_lasts_until_the_revision_is_stored_or_left(
    project: Project, api: Api
) -> None:
    task = make_task(project)
    stored = api.submit(api.next().json()).json()
    author = User.objects.get(pk=Judgment.objects.get().annotator_id)
    page = Client()
    page.force_login(author)
    path, revision = f"judgments/{stored['id']}/draft/", f"judgments/{stored['id']}/"

    def kept() -> Any:
        return page.get(f"/p/{project.slug}/judge/judgments/{stored['id']}/").json()["draft"]

    draft = {"rationale": "half a thought", "revision": 1}
    assert api.send("put", path, draft).status_code == 204
    assert kept() == draft
    assert Api(make_user(project), project).send("put", path, draft | {"rationale": "x"}).status_code == 403
    assert api.send("put", path, draft | {"rationale": "x" * 1_000_001}).status_code == 400
    assert kept() == draft
    assert api.send("delete", path).status_code == 204
    assert kept() is None

    assert api.send("put", path, draft).status_code == 204
    assert api.send("put", revision, {"ranking": stored["ranking"], "rationale": "a thought"}).status_code == 200
    assert kept() is None
    assert api.send("put", path, draft).status_code == 409  # begun on revision 1, and 2 stands there now
    assert api.send("put", path, {"rationale": "begun on nothing"}).status_code == 409
    assert kept() is None
    assert api.send("put", path, draft | {"revision": 2}).status_code == 204
    erase_annotators(project=project, annotators=[author])
    assert not task.assignments.exists()  # and the draft with it


def test_only_its_author_edits_a_judgment(project: Project, api: Api) -> None:
    make_task(project)
    stored = api.submit(api.next().json()).json()
    colleague = Api(make_user(project), project)
    stranger = Api(make_user(make_project()), project)
    assert colleague.send("put", f"judgments/{stored['id']}/", {"ranking": []}).status_code == 403
    assert stranger.send("put", f"judgments/{stored['id']}/", {"ranking": []}).status_code == 404
    assert api.send("put", f"judgments/{uuid4()}/", {"ranking": []}).status_code == 404


PATHS = [
    ("post", "projects/{slug}/tasks/next/"),
    ("put", "tasks/{task}/draft/"),
    ("post", "tasks/{task}/renew/"),
    ("post", "tasks/{task}/skip/"),
    ("post", "tasks/{task}/report/"),
    ("post", "tasks/{task}/judgments/"),
    ("put", "judgments/{judgment}/"),
    ("put", "judgments/{judgment}/draft/"),
    ("get", "projects/{slug}/quality/"),
]


@pytest.mark.parametrize(("method", "path"), PATHS)
def test_strangers_learn_nothing_and_the_signed_out_are_asked_to_sign_in(
    project: Project, api: Api, method: str, path: str
) -> None:
    make_tasks(project, 2)
    judged, held = api.next().json(), None
    judgment = api.submit(judged).json()["id"]
    held = api.next().json()
    path = path.format(slug=project.slug, task=held["id"], judgment=judgment)
    stranger = Api(make_user(make_project()), project)
    assert stranger.send(method, path, {}).status_code == 404
    assert getattr(Client(), method)(f"/api/v1/{path}", content_type="application/json").status_code == 401
    gone = User.objects.get(pk=Judgment.objects.get().annotator_id)
    remove_member(project=project, user=gone, removed_by=None)
    assert api.send(method, path, {}).status_code == 404


def test_a_task_that_was_never_given_to_the_caller_is_404(project: Project, api: Api) -> None:
    task = make_task(project)
    for action in ("renew", "skip", "report", "judgments"):
        assert api.send("post", f"tasks/{task.pk}/{action}/", {}).status_code == 404


def test_quality_is_for_reviewers(project: Project, api: Api) -> None:
    assert api.send("get", f"projects/{project.slug}/quality/").status_code == 403
    reviewer = Api(make_user(project, Member.Role.REVIEWER), project)
    assert reviewer.send("get", f"projects/{project.slug}/quality/").json()["judgments"] == 0


def test_a_paused_annotator_gets_no_task_and_the_reason_but_may_finish(project: Project, api: Api) -> None:
    make_tasks(project, 2)
    shown = api.next().json()
    set_paused(member=Member.objects.get(project=project), paused=True, reason="see me")
    answer = api.next()
    assert (answer.status_code, answer.json()) == (403, {"detail": ["see me"]})
    assert api.submit(shown).status_code == 201


def test_an_assignment_keeps_the_protocol_it_was_given_with(project: Project, api: Api) -> None:
    make_tasks(project, 2)
    before = api.next().json()
    publish_protocol(project=project, protocol="pairwise-strength")
    assert api.next().json()["protocol"]["name"] == "pairwise"
    assert api.submit(before).status_code == 201  # strength was optional when it was given
    after = api.next().json()
    assert after["protocol"]["name"] == "pairwise-strength"
    assert list(api.submit(after).json()) == ["strength"]


def test_a_body_that_is_no_object_or_nests_too_deeply_is_a_400(project: Project, api: Api) -> None:
    make_task(project)
    path = f"/api/v1/tasks/{api.next().json()['id']}/judgments/"
    for body in ("[]", '"x"', "{", "[" * 100_000 + "]" * 100_000):
        assert api.client.post(path, body, content_type="application/json").status_code == 400


def test_hostile_text_is_stored_as_it_is(project: Project, api: Api) -> None:
    nasty = "<script>alert(1)</script> '; DROP TABLE annotation_task; -- \u202e \U0001f600 %s {0} \\u0000"
    make_task(project, (nasty, "plain"))
    shown = api.next().json()
    assert nasty in [response["text"] for response in shown["responses"]]
    ids = [response["id"] for response in shown["responses"]]
    stored = api.submit(shown, {"ranking": [ids], "rationale": nasty}).json()
    assert stored["rationale"] == nasty
    assert Judgment.objects.get(pk=UUID(stored["id"])).rationale == nasty


def test_the_openapi_schema_builds_without_a_warning(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    file = tmp_path / "schema.yml"
    call_command("spectacular", file=str(file))
    paths = [
        line.strip().removeprefix("/api/v1/") for line in file.read_text().splitlines() if line.startswith("  /api")
    ]
    mine = [path.split("{")[0] for path in paths if "/tasks/" in path or path.startswith(("tasks/", "judgments/"))]
    assert sorted(mine) == sorted([*["judgments/"] * 3, *["projects/"] * 2, *["tasks/"] * 6])
    noise = "".join(capsys.readouterr())
    assert "annotation/api.py" not in noise, noise
