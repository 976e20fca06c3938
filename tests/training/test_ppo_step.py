"""One update of PPO, looked at closely: ratios, rewards and where they stand, what moves and what does not."""

import copy
import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

import training.ppo as ppo_module
from tests.training.tiny import sum_codes
from training.advantages import RunningMoments, masked_mean
from training.batches import make_batch
from training.config import PPOConfig
from training.data import completion_loss
from training.experience import Scored, explained_variance, shape_rewards, token_kl
from training.head import state_logprobs
from training.models import output_weight, response_states
from training.ppo import PPO
from training.rollout import Rollout

CODES = "tests.training.tiny:sum_codes"


@pytest.fixture
def make_ppo(tiny: Path, prompts: str) -> Any:
    def make(**settings: Any) -> PPO:
        torch.manual_seed(0)
        base: dict[str, Any] = {
            "policy": str(tiny), "reward": CODES, "prompts": prompts, "dtype": "float64", "updates": 4,
            "rollout_batch": 6, "minibatch": 3, "response_length": 5, "samples_every": 1, "threads": 1, "lr": 1e-3,
        }  # fmt: skip
        return PPO(PPOConfig(**(base | settings)))

    return make


def weights(model: Any) -> list[Tensor]:
    return [parameter.detach().clone() for parameter in model.parameters()]


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"critic": "separate"},
        {"lora_rank": 2},
        {"temperature": 0.6},
        {"top_p": 0.6, "temperature": 1.2},
        {"top_p": 0.6, "temperature": 1.2, "repetition_penalty": 1.3},
    ],
    ids=["plain", "separate", "lora", "temperature", "nucleus", "repetition"],
)
def test_the_first_minibatch_is_on_policy(make_ppo: Any, settings: dict[str, Any]) -> None:
    ppo = make_ppo(minibatch=6, ppo_epochs=1, **settings)
    experience, _, _ = ppo.roll_out(0)
    watched = ppo.learn(experience, 0)
    assert watched["val/ratio"] == pytest.approx(1.0, abs=1e-12)
    assert watched["policy/approxkl_avg"] == pytest.approx(0.0, abs=1e-20)
    assert watched["policy/clipfrac_avg"] == 0.0
    # A ratio of 1 leaves minus the mean advantage: whitened advantages have none.
    assert watched["loss/policy_avg"] == pytest.approx(0.0, abs=1e-9)
    assert watched["policy/grad_norm"] > 0


def test_the_first_gradient_is_reinforce_with_the_same_advantages(make_ppo: Any) -> None:
    ppo = make_ppo(minibatch=6, ppo_epochs=1, critic="separate", max_grad_norm=1e9)
    experience, _, _ = ppo.roll_out(0)
    batch = experience.batch
    states = response_states(ppo.policy, batch)
    logprobs = state_logprobs(states, output_weight(ppo.policy), batch.response_tokens_BT, experience.mask_BT)
    (-masked_mean(logprobs * experience.advantages_BT, experience.mask_BT)).backward()  # type: ignore[no-untyped-call]
    expected = torch.cat([p.grad.flatten() for p in ppo.policy.parameters() if p.grad is not None])
    ppo.policy.zero_grad()
    assert ppo.learn(experience, 0)["policy/grad_norm"] == pytest.approx(float(expected.norm()), rel=1e-9)


@pytest.mark.parametrize("settings", [
    {"micro_batch": 3}, {"micro_batch": 3, "critic": "separate", "top_p": 0.7}, {"micro_batch": 3, "lora_rank": 2},
    {"micro_tokens": 30, "critic": "separate", "top_p": 0.7},
], ids=["head", "separate", "lora", "tokens"])  # fmt: skip
def test_pieces_of_a_minibatch_give_the_step_of_the_whole(make_ppo: Any, write_rows: Any, settings: dict[str, Any]
                                                          ) -> None:  # fmt: skip
    # Minibatches of 4 and 2 in pieces of 3 and 1, or 2, or by tokens; pretraining rows in pieces too.
    rows = write_rows("ptx.jsonl", [{"prompt": f"Say {i}", "completion": "oh" * (1 + i % 4)} for i in range(5)])
    base = {"minibatch": 4, "ptx": rows, "ptx_coef": 0.5, "ptx_batch": 4, "entropy_coef": 0.01} | settings
    pieces, whole = make_ppo(**base), make_ppo(**base | {"micro_batch": 0, "micro_tokens": 0})
    experience, _, _ = whole.roll_out(0)
    again, _, _ = pieces.roll_out(0)
    assert torch.equal(experience.batch.tokens_BS, again.batch.tokens_BS)
    expected, got = whole.learn(experience, 0), pieces.learn(again, 0)
    assert got == pytest.approx(expected, rel=1e-9, abs=1e-12)
    for ours, theirs in zip(pieces.policy.parameters(), whole.policy.parameters(), strict=True):
        assert_close(ours, theirs, atol=1e-8, rtol=0)


def test_before_the_first_step_the_reference_is_the_policy(make_ppo: Any) -> None:
    for settings in ({}, {"lora_rank": 2}):
        _, metrics, _ = make_ppo(**settings).roll_out(0)
        assert metrics["objective/kl"] == pytest.approx(0.0, abs=1e-9)


def test_switched_off_adapters_are_the_reference_and_stay_it(make_ppo: Any) -> None:
    ppo = make_ppo(lora_rank=2, kl_estimator="k3")
    for update in range(3):
        experience, metrics, _ = ppo.roll_out(update)
        ppo.learn(experience, update)
    assert metrics["objective/kl"] > 0
    fresh = make_ppo()
    batch = experience.batch
    with ppo.reference.active() as reference, torch.no_grad():
        assert_close(response_states(reference, batch), response_states(fresh.policy, batch), atol=1e-12, rtol=0)


def make_rollout(lengths: list[int], ended: list[bool]) -> Rollout:
    batch = make_batch([[5]] * len(lengths), [[1] * length for length in lengths], pad=1)
    return Rollout(batch, torch.zeros(len(lengths), max(lengths)), torch.tensor(ended), None)


def shaped(scores: list[float], kl: Tensor, rollout: Rollout, moments: RunningMoments, **settings: Any) -> Tensor:
    config = PPOConfig(policy="p", reward="m:f", prompts="q", **settings)
    return shape_rewards(torch.tensor(scores).double(), rollout, kl, config.kl_coef, moments, config)


def test_a_score_stands_on_the_last_real_token_though_that_token_is_the_padding_one() -> None:
    # TRL #3750 and DS-Chat PR #672 put it one past the end. Every token here is pad = eos, lengths alone tell.
    plain: dict[str, Any] = {"reward_scaling": False, "reward_centring": False, "reward_clip": 0.0, "kl_coef": 0.5}
    kl = torch.tensor([[0.2, 0.4, 9.0], [0.0, 0.0, 1.0]], dtype=torch.float64)
    rewards = shaped([3.0, -1.0], kl, make_rollout([2, 3], [True, False]), RunningMoments(), **plain)
    assert_close(rewards, torch.tensor([[-0.1, 3.0 - 0.2, 0.0], [0.0, 0.0, -1.0 - 0.5]]).double(), atol=1e-7, rtol=0)


def test_scores_are_centred_scaled_and_clipped_by_all_seen_so_far() -> None:
    # Seen 0 and 2: mean 1, deviation sqrt(2). Then 1 and 5: all of 0, 2, 1, 5: mean 2, variance 14/3.
    moments = RunningMoments()
    moments.update(torch.tensor([0.0, 2.0]))
    kl = torch.zeros(2, 1, dtype=torch.float64)
    rewards = shaped([1.0, 5.0], kl, make_rollout([1, 1], [True, True]), moments, reward_clip=1.0)
    assert_close(rewards[:, 0], torch.tensor([-1.0 / (14 / 3) ** 0.5, 1.0]).double(), atol=1e-7, rtol=0)


def test_penalties_for_no_end_and_for_length_are_off_by_default_and_taken_off_when_asked() -> None:
    assert PPOConfig(policy="p", reward="m:f", prompts="q").missing_eos_penalty == 0
    plain: dict[str, Any] = {"reward_scaling": False, "reward_centring": False, "reward_clip": 0.0}
    kl = torch.zeros(2, 3, dtype=torch.float64)
    rollout = make_rollout([2, 3], [True, False])
    rewards = shaped([1.0, 1.0], kl, rollout, RunningMoments(), missing_eos_penalty=2.0, length_penalty=0.1, **plain)
    # 1 - 0.1 * 2 for the one that ended; 1 - 2 - 0.1 * 3 for the one that did not.
    assert_close(rewards.sum(1), torch.tensor([0.8, -1.3]).double(), atol=1e-7, rtol=0)


def test_kl_is_measured_on_the_whole_distribution_though_a_nucleus_was_sampled() -> None:
    config = PPOConfig(policy="p", reward="m:f", prompts="q", top_p=0.5)
    inside, full, reference = torch.tensor([[-0.1]]), torch.tensor([[-0.7]]), torch.tensor([[-0.9]])
    scored = Scored(inside, full, full, torch.zeros(1, 1))
    assert float(token_kl(scored, reference, config)) == pytest.approx(0.2)


def test_while_only_the_critic_learns_the_policy_keeps_every_bit(make_ppo: Any) -> None:
    for kind in ("head", "separate"):
        ppo = make_ppo(critic_warmup=1, critic=kind)
        policy, critic = weights(ppo.policy), [p.detach().clone() for p in ppo.critic.parameters()]
        experience, _, _ = ppo.roll_out(0)
        ppo.learn(experience, 0)
        assert all(map(torch.equal, policy, weights(ppo.policy)))
        assert not all(map(torch.equal, critic, ppo.critic.parameters()))
        experience, _, _ = ppo.roll_out(1)
        ppo.learn(experience, 1)
        assert not all(map(torch.equal, policy, weights(ppo.policy)))


def test_pretraining_loss_of_weight_0_changes_no_bit_and_of_weight_1_does(make_ppo: Any, write_rows: Any) -> None:
    rows = write_rows("ptx.jsonl", [{"prompt": f"Say {i}", "completion": "aaa"} for i in range(5)])
    after = []
    for settings in ({}, {"ptx": rows, "ptx_coef": 0.0}, {"ptx": rows, "ptx_coef": 1.0}):
        ppo = make_ppo(**settings)
        experience, _, _ = ppo.roll_out(0)
        ppo.learn(experience, 0)
        after.append(weights(ppo.policy))
    assert all(map(torch.equal, after[0], after[1]))
    assert not all(map(torch.equal, after[0], after[2]))


def test_each_step_of_an_update_sees_other_pretraining_rows(make_ppo: Any, write_rows: Any, monkeypatch: Any) -> None:
    rows = write_rows("ptx.jsonl", [{"prompt": f"{i}", "completion": f"{i:03}"} for i in range(50)])
    seen: list[list[list[int]]] = []
    real = completion_loss

    def spy(model: Any, batch: Any) -> Tensor:
        seen.append(batch.tokens_BS.tolist())
        return real(model, batch)

    monkeypatch.setattr(ppo_module, "completion_loss", spy)
    ppo = make_ppo(ptx=rows, ptx_coef=0.1, ptx_batch=2, ppo_epochs=2)
    experience, _, _ = ppo.roll_out(0)
    ppo.learn(experience, 0)
    assert len(seen) == 4  # 6 rows in minibatches of 3, twice over
    assert len({str(tokens) for tokens in seen}) == 4


def test_an_entropy_bonus_raises_entropy(make_ppo: Any) -> None:
    entropies = []
    for coefficient in (0.0, 1.0):
        ppo = make_ppo(entropy_coef=coefficient, kl_coef=0.0, lr=3e-3, ppo_epochs=4)
        for update in range(3):
            experience, metrics, _ = ppo.roll_out(update)
            ppo.learn(experience, update)
        entropies.append(metrics["objective/entropy"])
    assert entropies[1] > entropies[0] + 0.002  # of at most ln 258 = 5.553


def test_the_coefficient_rises_above_the_target_and_falls_below_it(make_ppo: Any) -> None:
    ppo = make_ppo(kl_target=2.0, kl_coef=0.1)
    ppo.adapt_kl(2.2)  # 10 % too far: 0.1 * (1 + 0.1 * 0.1)
    assert ppo.kl_coef == pytest.approx(0.101)
    ppo.adapt_kl(0.0)  # bounded at 20 %: 0.101 * (1 - 0.1 * 0.2)
    assert ppo.kl_coef == pytest.approx(0.101 * 0.98)
    fixed = make_ppo(kl_coef=0.1)
    fixed.adapt_kl(100.0)
    assert fixed.kl_coef == 0.1


def test_an_update_ends_early_when_the_policy_has_gone_too_far(make_ppo: Any, monkeypatch: Any) -> None:
    ppo = make_ppo(ppo_epochs=8, kl_stop=1e-12, lr=1e-2)
    experience, _, _ = ppo.roll_out(0)
    steps: list[int] = []
    real = ppo.step

    def counted(*given: Any) -> Any:
        steps.append(1)
        return real(*given)

    monkeypatch.setattr(ppo, "step", counted)
    ppo.learn(experience, 0)
    assert len(steps) == 2  # one epoch of two minibatches, not eight


def test_every_pass_over_the_prompts_takes_each_of_them_once(make_ppo: Any) -> None:
    ppo = make_ppo(rollout_batch=5)
    first = [row.id for update in (0, 1) for row, _ in ppo.choose_prompts(update)]
    second = [row.id for update in (2, 3) for row, _ in ppo.choose_prompts(update)]
    assert sorted(first) == sorted(second) == sorted(str(i) for i in range(1, 11))
    assert first != second


def test_a_resumed_state_is_the_whole_state(make_ppo: Any) -> None:
    ppo, other = make_ppo(kl_target=1.0), make_ppo(kl_target=1.0)
    for update in range(2):
        experience, metrics, _ = ppo.roll_out(update)
        ppo.learn(experience, update)
        ppo.adapt_kl(metrics["objective/kl"])
    other.load(copy.deepcopy(ppo.state()))
    results = []
    for each in (ppo, other):
        experience, metrics, samples = each.roll_out(2)
        results.append((metrics, samples, each.learn(experience, 2), each.moments.state(), weights(each.policy)))
    assert results[0][:4] == results[1][:4]
    assert all(map(torch.equal, results[0][4], results[1][4]))


def test_explained_variance_by_hand() -> None:
    returns, mask = torch.tensor([[1.0, 3.0, 99.0]]), torch.tensor([[True, True, False]])
    assert explained_variance(returns, returns, mask) == 1.0
    assert explained_variance(torch.full_like(returns, 7.0), returns, mask) == 0.0
    # Errors 0.5 and -0.5, returns 1 away from their mean: 1 - 0.25 / 1.
    assert explained_variance(torch.tensor([[0.5, 3.5, 0.0]]), returns, mask) == pytest.approx(0.75)


def test_a_gradient_that_is_not_finite_changes_nothing(make_ppo: Any) -> None:
    ppo = make_ppo()
    before = weights(ppo.policy)
    experience, _, _ = ppo.roll_out(0)
    ppo.learn(dataclasses.replace(experience, advantages_BT=experience.advantages_BT * torch.inf), 0)
    assert all(map(torch.equal, before, weights(ppo.policy)))


def sum_codes_less_length(prompts: Any, responses: Any) -> list[float]:
    return [score - 2 * len(text) for score, text in zip(sum_codes(prompts, responses), responses, strict=True)]


def test_what_an_ensemble_disagrees_by_is_taken_off_the_score_and_not_off_what_is_reported(make_ppo: Any) -> None:
    # Members a and a - 2n: mean a - n, deviation n (of two, half their difference).
    plain: dict[str, Any] = {"reward_scaling": False, "reward_centring": False, "reward_clip": 0.0, "kl_coef": 0.0,
                             "ensemble": ("tests.training.test_ppo_step:sum_codes_less_length",)}  # fmt: skip
    for penalty in (0.0, 0.5):
        _, metrics, samples = make_ppo(ensemble_penalty=penalty, **plain).roll_out(0)
        lengths = [len(sample["response"]) for sample in samples]
        assert metrics["objective/ensemble_std"] == pytest.approx(sum(lengths) / 6)
        codes = sum_codes([], [sample["response"] for sample in samples])
        mean = sum(code - length for code, length in zip(codes, lengths, strict=True)) / 6
        assert metrics["objective/scores"] == pytest.approx(mean)
        assert metrics["objective/rlhf_reward"] == pytest.approx(mean - penalty * sum(lengths) / 6)
