"""Rounds of a tiny policy through the real stack, from outside: started, looked at, and what they made compared."""

import contextlib
import json
import random
import string
from pathlib import Path
from typing import Any

import httpx
import psutil

from tests.loop.stack import Stack, wait_until
from tests.loop.taste import small_letters
from tests.loop.tiny_policy import make_prompts

ENDS_WITHIN_S = 240


def import_judged_rows(client: httpx.Client) -> None:
    """Judge eighty pairs of the project "letters" by how many of their letters are small."""
    chance = random.Random("rows")
    letters = string.ascii_letters + string.digits
    rows = []
    for prompt in make_prompts(80):
        texts = ["".join(chance.choices(letters, k=20)) for _ in range(2)]
        better = int(small_letters([], texts[1]) > small_letters([], texts[0]))
        rows.append({
            "prompt": prompt, "responses": [{"text": text, "model": "dice"} for text in texts],
            "judgments": [{"annotator": "a1", "ranking": [[better], [1 - better]]}],
        })  # fmt: skip
    job = client.post("/projects/letters/imports/", params={"format": "judged"}, json=rows).raise_for_status().json()
    wait_until(lambda: client.get(f"/imports/{job['id']}/").json()["state"] == "done", 60, "the rows are imported")


def start(client: httpx.Client) -> str:
    """Start a round; return its id."""
    return str(client.post("/projects/letters/rounds/").raise_for_status().json()["id"])


def shown_of(client: httpx.Client, round_id: str) -> dict[str, Any]:
    """Return what the API says of a round."""
    return dict(client.get(f"/rounds/{round_id}/").raise_for_status().json())


def wait_for(client: httpx.Client, round_id: str, state: str, seconds: float = ENDS_WITHIN_S) -> None:
    """Wait until a round is in a state; one that is over in another fails at once."""

    def reached() -> bool:
        shown = shown_of(client, round_id)
        over = shown["state"] in ("failed", "rejected", "succeeded", "cancelled")
        assert shown["state"] == state or not over, (shown["state"], shown["error"])
        return bool(shown["state"] == state)

    wait_until(reached, seconds, f"the round is {state}")


def folder_of(stack: Stack, round_id: str) -> Path:
    """Return the folder of all that a round wrote."""
    return stack.data_dir / "rounds" / round_id


def updates_of(stack: Stack, round_id: str, fence: int, step: str) -> int:
    """Return how many lines of progress a fence's trainer has written."""
    try:
        return len((folder_of(stack, round_id) / f"f{fence}" / step / "progress.jsonl").read_text().splitlines())
    except FileNotFoundError:
        return 0


def trainers_of(stack: Stack, round_id: str) -> list[psutil.Process]:
    """Return the trainers of a round that run now."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if str(folder_of(stack, round_id)) in " ".join(process.cmdline()):
                found.append(process)
    return found


def result_of(stack: Stack, client: httpx.Client, round_id: str) -> dict[str, Any]:
    """Return what the steps have made: the hash of every weight, and every metric but the times."""
    made: dict[str, Any] = {}
    folder = folder_of(stack, round_id)
    for step in ("reward/model", "reward/judge", "ppo"):
        # One fence alone has finished each: what is whole is never made twice, though others may link to it.
        found = list(folder.glob(f"f*/{step}/manifest.json"))
        manifest = found[0]
        assert all(manifest.samefile(other) for other in found), found
        files = json.loads(manifest.read_text())["files"]
        made[step] = {name: file["sha256"] for name, file in files.items() if name.endswith(".safetensors")}
        assert made[step]
    for step in shown_of(client, round_id)["steps"]:
        if step["name"] in ("reward", "ppo", "evaluate"):
            made[f"{step['name']} metrics"] = {
                name: value for name, value in step["metrics"].items() if not name.startswith(("time/", "throughput/"))
            }
    return made
