"""The over-optimisation alarm rings near the gold peak, keeps quiet elsewhere, and can take the policy back."""

import json
import math
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from training.__main__ import main
from training.alarm import Alarm
from training.config import PPOConfig
from training.models import load_causal
from training.ppo import PPO
from training.records import Messages


def make_alarm(**settings: Any) -> Alarm:
    return Alarm(PPOConfig(policy="p", reward="m:f", prompts="q", **settings))


def rollout(**metrics: float) -> dict[str, float]:
    return {"response/length": 10.0, "objective/kl": 1.0, "objective/scores": 0.0, "watch/scores": 0.0} | {
        name.replace("_", "/", 1): value for name, value in metrics.items()
    }


def first_ring(gold: Sequence[float], proxy: Sequence[float]) -> int | None:
    alarm = make_alarm(watch_reward="m:g")
    for update, (watched, own) in enumerate(zip(gold, proxy, strict=True)):
        if alarm.see(rollout(watch_scores=watched, objective_scores=own))["watch"]:
            return update
    return None


def gold_curve(updates: int, noise: float, seed: int, beta: float = 0.5) -> list[float]:
    """Return d (1 - beta log d) with d from 0 to 10, Gao et al.'s form for RL (arXiv:2210.10760, eq. 2), and noise.

    Its peak is at d = exp(1 / beta - 1): 2.7 for beta 0.5, and beyond the end for 0.2.
    """
    generator = random.Random(seed)
    places = [10 * (i + 1) / updates for i in range(updates)]
    return [d * (1 - beta * math.log(d)) + generator.gauss(0, noise) for d in places]


def test_it_rings_after_the_gold_peak_and_soon_after_it() -> None:
    # 100 updates: the peak, of height 1.36, is at update 27; at update 60 the gold is down to 0.6.
    for seed in range(20):
        ring = first_ring(gold_curve(100, 0.1, seed), [i / 100 for i in range(100)])
        assert ring is not None
        assert 27 < ring < 60


def test_it_keeps_quiet_while_gold_rises_or_stays_level() -> None:
    proxy = [i / 100 for i in range(100)]
    false_alarms = 0
    for seed in range(100):
        assert first_ring(gold_curve(100, 0.1, seed, beta=0.2), proxy) is None
        level = random.Random(seed)
        false_alarms += first_ring([level.gauss(0, 1) for _ in range(100)], proxy) is not None
    assert false_alarms <= 2  # 1 in 200 was measured over 400 seeds


def test_it_rings_where_an_ensembles_lower_bound_turns_while_its_mean_rises_on() -> None:
    # As above with the watched reward's curve as the lower bound of an ensemble that PPO learns from.
    proxy = [i / 100 for i in range(100)]
    for beta, rings in ((0.5, True), (0.2, False)):
        alarm, ring = make_alarm(ensemble=("m:g",)), None
        for update, lower in enumerate(gold_curve(100, 0.1, 1, beta)):
            seen = alarm.see(rollout(objective_scores=proxy[update]) | {"objective/scores_lower": lower})
            assert seen.keys() == {"ensemble"}
            ring = update if ring is None and seen["ensemble"] else ring
        assert (ring is not None) == rings
        assert ring is None or 27 < ring < 60


def test_it_keeps_quiet_where_both_rewards_fall_for_that_is_another_ill() -> None:
    gold = gold_curve(100, 0.1, 0)
    assert first_ring(gold, gold) is None


def test_kl_and_length_ring_beyond_their_bounds_and_only_when_asked() -> None:
    assert make_alarm().see(rollout(objective_kl=1e9)) == {}
    alarm = make_alarm(alarm_kl=5.0, alarm_length_ratio=1.5, alarm_window=2)
    assert alarm.see(rollout(objective_kl=4.9)) == {"kl": False, "length": False}
    assert alarm.see(rollout(objective_kl=5.1))["kl"]
    # Windows of two: 10, 10 at the beginning; 14, 15 is 1.45 times that, 15, 16 is 1.55.
    rings = [alarm.see(rollout(response_length=length))["length"] for length in (14.0, 15.0, 16.0)]
    assert rings == [False, False, True]
    shorter = make_alarm(alarm_length_ratio=2.0, alarm_window=2)
    assert [shorter.see(rollout(response_length=n))["length"] for n in (10, 10, 4, 4)] == [False, False, False, True]


def test_what_it_remembers_survives_being_stored() -> None:
    gold, proxy = gold_curve(100, 0.1, 3), [i / 100 for i in range(100)]
    expected = first_ring(gold, proxy)
    alarm = make_alarm(watch_reward="m:g")
    for update in range(100):
        if update == 30:
            stored = json.loads(json.dumps(alarm.state()))
            alarm = make_alarm(watch_reward="m:g")
            alarm.load(stored)
        if alarm.see(rollout(watch_scores=gold[update], objective_scores=proxy[update]))["watch"]:
            break
    assert update == expected


def sum_of_codes_and_its_opposite(prompts: Sequence[Messages], responses: Sequence[str]) -> list[float]:
    return [-sum(ord(letter) % 7 for letter in text) / 10 for text in responses]


@pytest.mark.parametrize("alarm", ["note", "stop", "best"])
def test_a_ring_is_noted_or_stops_the_run_or_takes_the_policy_back(
    alarm: str, tiny: Path, prompts: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rings_at = 4  # the fifth rollout: the fourth's weights, after three updates, are the last good ones
    kept: list[list[torch.Tensor]] = []
    monkeypatch.setattr(Alarm, "see", lambda self, metrics: {"kl": len(kept) - 1 == rings_at})
    roll_out = PPO.roll_out

    def remembered(ppo: PPO, update: int) -> Any:
        kept.append([p.detach().clone() for p in ppo.policy.parameters()])
        return roll_out(ppo, update)

    monkeypatch.setattr(PPO, "roll_out", remembered)
    settings = {"policy": tiny, "prompts": prompts, "reward": "tests.training.tiny:sum_codes", "updates": 6,
                "rollout_batch": 4, "minibatch": 4, "response_length": 4, "lr": 1e-2, "alarm": alarm, "threads": 1,
                "dtype": "float32", "watch_reward": "tests.training.test_alarm:sum_of_codes_and_its_opposite",
                "alarm_window": 2}  # fmt: skip
    monkeypatch.setattr(Alarm, "at_best", True)
    assert main(["ppo", "--output", str(tmp_path / "out"), *(f"--set={k}={v}" for k, v in settings.items())]) == 0
    lines = [json.loads(line) for line in (tmp_path / "out" / "progress.jsonl").read_text().splitlines()]
    metrics = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert len(lines) == (6 if alarm == "note" else 5)
    assert lines[4]["alarm/kl"] == 1.0
    assert lines[0]["watch/scores"] == pytest.approx(-lines[0]["objective/scores"])
    final = list(load_causal(str(tmp_path / "out"), torch.float32).parameters())
    assert metrics.get("alarm/back_to_update") == (3 if alarm == "best" else None)
    assert all(map(torch.equal, final, kept[3])) == (alarm == "best")
