"""A round outlives its processes: killed, orphaned and cancelled in the middle, it ends as an undisturbed one does."""

import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

import httpx
import psutil
import psycopg
import pytest
import redis

from feedback_app.embedded import valkey
from feedback_app.embedded.paths import database_url, postgres_dir, redis_url
from tests.loop.rounds import (
    folder_of,
    import_judged_rows,
    result_of,
    shown_of,
    start,
    trainers_of,
    updates_of,
    wait_for,
)
from tests.loop.stack import ROOT, Stack, run_stack, wait_until
from tests.loop.tiny_policy import make_tiny_policy

# Another worker goes on within lease and tick, 15 and 10 seconds; the rest is for a machine busy with other tests.
GOES_ON_WITHIN_S = 15 + 15 + 15
CANCELS_WITHIN_S = 10
TICK_S = 10
SCHEDULE = """
from feedback_app.projects.models import Project
from feedback_app.rounds.services.scheduling import add_schedule
add_schedule(project=Project.objects.get(slug="letters"), kind="judgments", every=80)
"""
# How many versions came of a round, and how often one of them went live.
MADE_OF = """
SELECT (SELECT count(*) FROM serving_policy_version WHERE round_id = %(round)s), (
    SELECT count(*) FROM serving_push p JOIN serving_policy_version v ON v.id = p.policy_id
    WHERE v.round_id = %(round)s AND p.state = 'live')
"""
# Both rounds begin with the base, so that what they end with can be compared.
RECIPE = """
start_from = "base"
[reward]
epochs = 2
batch = 8
lr = 2e-3
max_length = 96
checkpoint_every = 3
[ppo]
updates = 100
rollout_batch = 32
minibatch = 16
response_length = 20
lr = 1e-3
critic = "head"
checkpoint_every = 5
[evaluate]
response_length = 20
max_prompts = 16
[gate]
max_perplexity_ratio = 0.0
"""


@pytest.fixture(scope="module")
def stack() -> Iterator[Stack]:
    with run_stack(lambda path: make_tiny_policy(path, seed=3)) as running:
        yield running


@pytest.mark.loop
@pytest.mark.timeout(900)
def test_a_round_that_loses_trainer_database_worker_and_broker_and_is_cancelled_ends_as_an_undisturbed_one(
    stack: Stack, tmp_path_factory: pytest.TempPathFactory
) -> None:
    recipe = tmp_path_factory.mktemp("recipe") / "recipe.toml"
    recipe.write_text(RECIPE)
    stack.manage("create_project", "letters")
    token = stack.manage("create_user", "boss", "--project", "letters", "--role", "manager")
    stack.manage("set_recipe", "letters", str(recipe))
    with stack.client(token) as client:
        import_judged_rows(client)
        first = _start_by_two_beats(stack)
        wait_for(client, first, "succeeded")
        # The same weights again would be taken for the old ones still serving: the base answers once more.
        client.post("/projects/letters/rollback/").raise_for_status()
        second = start(client)
        _kill_trainer(stack, client, second)
        _kill_database(stack, client, second)
        _kill_worker_and_broker(stack, client, second)
        _cancel(stack, client, second)
        client.post(f"/rounds/{second}/retry/").raise_for_status()
        redis.Redis.from_url(redis_url(stack.data_dir)).flushall()  # its bell, and whatever else was under way
        wait_for(client, second, "succeeded")
        assert _ask(stack, MADE_OF, second) == (1, 1)
        assert result_of(stack, client, second) == result_of(stack, client, first)
        info = stack.info()
        assert info["policy_version"] == "letters-v2"


def _start_by_two_beats(stack: Stack) -> str:
    """Let a second beat run beside the first while a schedule asks for one round: it is one; returns its id."""
    command = [sys.executable, "-m", "celery", "-A", "feedback_app", "beat", "-s", str(stack.data_dir / "second-beat")]
    with (stack.data_dir / "logs" / "second-beat.log").open("wb") as log:
        second = subprocess.Popen(command, cwd=ROOT, env=stack.environment, stdout=log, stderr=log)
    try:
        stack.manage("shell", "-c", SCHEDULE)
        wait_until(lambda: bool(_rounds(stack)), 60, "the schedule starts a round")
        time.sleep(TICK_S * 1.5)  # each of the two has asked again
        assert second.poll() is None
    finally:
        second.kill()
        second.wait()
    [first] = _rounds(stack)
    return first


def _rounds(stack: Stack) -> list[str]:
    with psycopg.connect(database_url(stack.data_dir)) as connection:
        return [str(row[0]) for row in connection.execute("SELECT id FROM rounds_round")]


def _ask(stack: Stack, query: str, round_id: str) -> tuple[Any, ...] | None:
    with psycopg.connect(database_url(stack.data_dir)) as connection:
        return connection.execute(query, {"round": round_id}).fetchone()


def _kill_trainer(stack: Stack, client: httpx.Client, round_id: str) -> None:
    """SIGKILL the trainer of the reward model: its supervisor goes on from the checkpoint, under the same fence."""
    wait_until(lambda: updates_of(stack, round_id, 1, "reward/model") > 4, 120, "the reward model is being trained")
    [trainer] = trainers_of(stack, round_id)
    trainer.kill()
    wait_until(lambda: updates_of(stack, round_id, 1, "ppo") > 4, 180, "PPO runs")
    shown = shown_of(client, round_id)
    assert (shown["state"], shown["fence"]) == ("running", 1)


def _kill_database(stack: Stack, client: httpx.Client, round_id: str) -> None:
    """SIGKILL PostgreSQL: the trainer works on meanwhile, and the round goes on under the fence it had."""
    [trainer] = trainers_of(stack, round_id)
    psutil.Process(int((postgres_dir(stack.data_dir) / "postmaster.pid").read_text().split()[0])).kill()
    began = time.monotonic()
    wait_until(lambda: _answers(client, round_id), 30, "the database is back")
    print(f"database back after {time.monotonic() - began:.1f} s")
    before = len(_ppo_lines(client, round_id))
    wait_until(lambda: len(_ppo_lines(client, round_id)) > before, 30, "the round reports on")
    assert shown_of(client, round_id)["fence"] == 1
    assert trainer.is_running()


def _answers(client: httpx.Client, round_id: str) -> bool:
    try:
        return client.get(f"/rounds/{round_id}/").status_code == 200
    except httpx.HTTPError:
        return False


def _ppo_lines(client: httpx.Client, round_id: str) -> list[dict[str, Any]]:
    [ppo] = [step for step in shown_of(client, round_id)["steps"] if step["name"] == "ppo"]
    return list(ppo["progress"])


def _kill_worker_and_broker(stack: Stack, client: httpx.Client, round_id: str) -> None:
    """SIGKILL the worker, children and all, and Valkey with every message in it.

    The trainer ends by itself, and another worker goes on with a new fence.
    """
    [trainer] = trainers_of(stack, round_id)
    workers = [process for process in trainer.parents() if "celery" in " ".join(process.cmdline())]
    assert workers
    broker = valkey.server_pid(stack.data_dir)
    assert broker is not None
    redis.Redis.from_url(redis_url(stack.data_dir)).flushall()
    for process in [*workers, psutil.Process(broker)]:
        process.kill()
    began = time.monotonic()
    wait_until(lambda: not trainer.is_running(), 5, "the orphaned trainer has ended")
    wait_until(lambda: shown_of(client, round_id)["fence"] == 2, GOES_ON_WITHIN_S, "another worker has the round")
    print(f"gone on after {time.monotonic() - began:.1f} s")


def _cancel(stack: Stack, client: httpx.Client, round_id: str) -> None:
    """Cancel while PPO runs: all that it started is gone within ten seconds, and the checkpoint stays."""
    wait_until(lambda: updates_of(stack, round_id, 2, "ppo") > 60, 120, "PPO has gone on")
    began = time.monotonic()
    client.post(f"/rounds/{round_id}/cancel/").raise_for_status()
    wait_until(lambda: not trainers_of(stack, round_id), CANCELS_WITHIN_S, "the trainer has ended")
    print(f"cancelled after {time.monotonic() - began:.1f} s")
    wait_for(client, round_id, "cancelled", CANCELS_WITHIN_S)
    assert list((folder_of(stack, round_id) / "f2" / "ppo" / "checkpoints").glob("*.pt"))
