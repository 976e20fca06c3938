"""Rounds as rows, at any point of their way, without a trainer: what pages show of them."""

from datetime import timedelta
from typing import Any

from django.test import Client
from django.utils import timezone

from feedback_app.projects.models import Member, Project
from feedback_app.rounds.models import Round, RoundStep
from feedback_app.rounds.services import recipe_of
from feedback_app.serving.models import PolicyVersion
from feedback_app.serving.services import ensure_base_policy
from tests.factories import make_user

STEPS = ("export", "reward", "ppo", "evaluate", "gate", "push")
EVALUATION: dict[str, Any] = {
    "n/prompts": 64, "win_rate/parent": 0.71, "win_rate/parent_low": 0.61, "win_rate/parent_high": 0.8,
    "kl/parent": 5.4, "response/length": 24.0, "response/length_parent": 38.0, "perplexity/policy": 19.4,
    "perplexity/base": 18.1, "reward_under_test/accuracy": 0.73, "reward_under_test/accuracy_low": 0.66,
    "reward_under_test/accuracy_high": 0.8, "reward/length_rule": 0.67, "n/pairs": 164.0, "independent_judge": True,
    "reward_under_test/longer_preferred": 0.81, "reward_under_test/longer_chosen": 0.62,
    "reward_under_test/length_spearman": 0.43, "reward_under_test/accuracy_shorter_chosen": 0.55,
    "reward_under_test/n_shorter_chosen": 62.0,
}  # fmt: skip
GATE = {
    "passed": True,
    "needs_approval": True,
    "checks": [{"name": "KL to the parent", "passed": True, "said": "5.4 nats a response; at most 60"}],
}


def ppo_lines(done: int, updates: int = 10, seconds: float = 6.0) -> list[dict[str, Any]]:
    """Return the progress of so many updates, each of so many seconds."""
    return [
        {
            "update": update, "updates": updates, "objective/scores": update / 10, "objective/kl": update / 5,
            "response/length": 40.0 - update, "objective/entropy": 3.0 - update / 20, "loss/policy_avg": -0.01,
            "loss/value_avg": 0.1, "time/rollout_s": seconds / 3, "time/update_s": 2 * seconds / 3,
        }
        for update in range(1, done + 1)
    ]  # fmt: skip


def reward_lines(part: str, done: int, updates: int = 8) -> list[dict[str, Any]]:
    """Return the progress of a reward model, measured on pairs kept apart at every fourth update."""
    return [
        {"part": part, "update": update, "updates": updates, "loss/reward": 0.7 - update / 50}
        | ({"reward/accuracy": 0.5 + update / 40} if update % 4 == 0 else {})
        for update in range(1, done + 1)
    ]


def round_at(project: Project, state: str, at: str = "", *, ppo: int = 10, **more: Any) -> Round:
    """Return a round in a state, with every step before `at` done and `at` as the state makes it.

    ppo: how many of ten updates are done where PPO is the step.
    """
    now = timezone.now()
    base = ensure_base_policy(project=project)
    recipe = recipe_of(project=project)
    newest = Round.objects.filter(project=project).order_by("-number").first()
    held = Round.objects.create(
        project=project, number=newest.number + 1 if newest else 1, recipe=recipe, config=recipe.config,
        parent=more.pop("parent", base), state=state, started_at=now - timedelta(minutes=10), fence=1,
        lease_until=now + timedelta(hours=1) if state == "running" else None,
        finished_at=None if state in Round.ACTIVE else now, **more,
    )  # fmt: skip
    reached = STEPS.index(at) if at else (len(STEPS) if state == "succeeded" else 0)
    ended = {"running": "running", "failed": "failed", "waiting_for_approval": "done", "rejected": "done"}
    for place, name in enumerate(STEPS):
        stands = "done" if place < reached else ended.get(state, "pending") if place == reached and at else "pending"
        begun = stands != "pending"
        RoundStep.objects.create(
            round=held, name=name, position=place, state=stands,
            started_at=now - timedelta(minutes=9) if begun else None,
            finished_at=now - timedelta(minutes=8) if stands == "done" else None,
            progress=_progress(name, stands, ppo), metrics=_metrics(name) if stands == "done" else {},
        )  # fmt: skip
    return held


def _progress(name: str, state: str, ppo: int) -> list[dict[str, Any]]:
    if state == "pending":
        return []
    if name == "ppo":
        return ppo_lines(10 if state == "done" else ppo)
    return [*reward_lines("reward", 8), *reward_lines("judge", 8)] if name == "reward" else []


def _metrics(name: str) -> dict[str, Any]:
    if name == "export":
        return {"pairs/reward": 120, "pairs/judge": 50, "pairs/held_out": 20, "notes": []}
    return EVALUATION if name == "evaluate" else {}


def policy_of(held: Round, number: int) -> PolicyVersion:
    """Return the version that a round made, its weights nowhere."""
    policy = PolicyVersion.objects.create(
        project=held.project, number=number, name=f"{held.project.slug}-v{number}", source=PolicyVersion.Source.ROUND,
        parent=held.parent, directory="nowhere", round_id=held.pk, evaluation=EVALUATION, manifest_sha256="ab" * 32,
    )  # fmt: skip
    held.policy = policy
    held.save(update_fields=["policy"])
    return policy


def browser_of(project: Project, role: Member.Role) -> Client:
    """Return a browser signed in as a member of the role."""
    client = Client()
    client.force_login(make_user(project, role))
    return client


def page(client: Client, path: str = "", status: int = 200, **more: Any) -> str:
    """Return the text of a page of the project "loop"."""
    answer = client.get(f"/p/loop/{path}", **more)
    assert answer.status_code == status
    return str(answer.content.decode())


def press(client: Client, path: str, **given: Any) -> Any:
    """Return what a form of the project "loop" is answered."""
    return client.post(f"/p/loop/{path}", given)
