"""Simulated annotators over the real HTTP API: they see what a person's browser sees, and nothing else."""

import math
import random
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import httpx

from feedback_app.rounds.simulation.preferences import Preference

TIMEOUT_S = 60.0


class SimulationError(RuntimeError):
    """The API did not answer as it should; the message says what it answered."""


@dataclass
class Budget:
    """How many judgments are still wanted, shared by all annotators."""

    left: int
    lock: threading.Lock = field(default_factory=threading.Lock)

    def take(self) -> bool:
        with self.lock:
            self.left -= 1
            return self.left >= 0


@dataclass(frozen=True)
class Annotator:
    """One annotator with a token, a taste and noise."""

    url: str
    project: str
    token: str
    preference: Preference
    noise: float
    chance: random.Random

    def work(self, budget: Budget) -> int:
        """Judge until the budget or the queue is empty; return how many were judged."""
        done = 0
        headers = {"Authorization": f"Token {self.token}"}
        with httpx.Client(base_url=self.url, headers=headers, timeout=TIMEOUT_S) as client:
            while budget.take():
                answer = client.post(f"/api/v1/projects/{self.project}/tasks/next/", json={})
                if answer.status_code == 204:
                    break
                task = _checked(answer, 200).json()
                answer = client.post(f"/api/v1/tasks/{task['id']}/judgments/", json=self.judge(task))
                _checked(answer, 201)
                done += 1
        return done

    def judge(self, task: dict[str, Any]) -> dict[str, Any]:
        """Return a judgment that fits the task's protocol.

        A ranking is drawn by Plackett-Luce (for two responses Bradley-Terry): the order of score / noise plus Gumbel
        noise. Without noise it is the order of the scores, and equal ones tie.
        """
        protocol, messages = task["protocol"], task["prompt"]["messages"]
        scores = {r["id"]: self.preference(messages, r["text"]) for r in task["responses"]}
        drawn = {key: self._drawn(score) for key, score in scores.items()}
        tiers = _tiers(drawn)
        judgment: dict[str, Any] = {"lead_time": round(self.chance.uniform(2.0, 12.0), 1)}
        if protocol["ranking"] != "off":
            judgment["ranking"] = tiers
        if protocol["strength"] != "off":
            judgment["strength"] = self._strength(tiers, scores, protocol["strength_levels"])
        if protocol["attributes"]:
            judgment["ratings"] = {
                key: {a["key"]: self._rating(drawn, key, a) for a in protocol["attributes"]} for key in drawn
            }
        if protocol["rationale"] == "required":
            judgment["rationale"] = "simulated"
        return judgment

    def _drawn(self, score: float) -> float:
        if self.noise == 0:
            return score
        return score / self.noise - math.log(self.chance.expovariate(1.0))

    def _strength(self, tiers: list[list[str]], scores: dict[str, float], levels: int) -> int:
        """Return how sure the annotator is: the larger the difference, the larger the step; 0 on a tie."""
        if len(tiers) < 2:
            return 0
        difference = abs(scores[tiers[0][0]] - scores[tiers[1][0]]) / (self.noise or 1.0)
        step: int = 1 + int(difference > 1) + int(difference > 3)
        return step if step < levels else levels

    def _rating(self, drawn: dict[str, float], key: str, attribute: dict[str, Any]) -> int:
        """Return a whole step between the attribute's ends, by the response's place among the others."""
        low, high = min(drawn.values()), max(drawn.values())
        share = 0.5 if high == low else (drawn[key] - low) / (high - low)
        low_step, high_step = int(attribute["minimum"]), int(attribute["maximum"])
        return round(low_step + share * (high_step - low_step))


def _tiers(drawn: dict[str, float]) -> list[list[str]]:
    tiers: list[list[str]] = []
    for value in sorted(set(drawn.values()), reverse=True):
        tiers.append([key for key, other in drawn.items() if other == value])
    return tiers


def _checked(answer: httpx.Response, status: int) -> httpx.Response:
    if answer.status_code != status:
        raise SimulationError(
            f"{answer.request.method} {answer.request.url.path}: {answer.status_code} {answer.text[:300]}"
        )
    return answer


def judge_together(annotators: list[Annotator], judgments: int) -> int:
    """Let annotators work side by side; return how many judgments were stored."""
    budget = Budget(judgments)
    with ThreadPoolExecutor(max_workers=max(1, len(annotators))) as pool:
        return sum(pool.map(lambda annotator: annotator.work(budget), annotators))
