"""On another device than the CPU: every tensor is there that has to be, and the numbers are the CPU's."""

from pathlib import Path
from typing import Any

import pytest
import torch

from tests.training.pretended import DEVICE, OnDevice, pretended_device
from training import devices
from training.batches import make_batch
from training.config import ConfigError, PPOConfig, RewardConfig, SFTConfig
from training.likelihood import text_perplexity
from training.models import load_causal, load_tokenizer
from training.ppo import PPO
from training.reward import RewardTraining
from training.sft import prepare_training

CODES = "tests.training.tiny:sum_codes"


def test_the_pretended_device_refuses_what_a_gpu_refuses(monkeypatch: Any) -> None:
    with pretended_device(monkeypatch):
        there, here = torch.ones(3, device=DEVICE), torch.ones(3)
        assert isinstance(there, OnDevice)
        assert not isinstance(here, OnDevice)
        with pytest.raises(RuntimeError, match="two devices"):
            there + here
        assert (there + here.to(DEVICE)).tolist() == [2.0, 2.0, 2.0]
        assert float((there * torch.tensor(2.0)).sum()) == 6.0  # a number from the CPU is welcome
        with pytest.raises(RuntimeError, match="two devices"):
            there[here > 0] + here


@pytest.mark.parametrize(
    "settings",
    [{}, {"critic": "separate", "top_p": 0.7}, {"lora_rank": 2, "entropy_coef": 0.01, "length_penalty": 0.01}],
    ids=["head", "separate", "lora"],
)
def test_a_ppo_update_is_the_cpus(tiny: Path, prompts: str, monkeypatch: Any, settings: dict[str, Any]) -> None:
    base: dict[str, Any] = {"policy": str(tiny), "reward": CODES, "prompts": prompts, "dtype": "float64", "updates": 4,
                            "rollout_batch": 4, "minibatch": 2, "response_length": 4, "threads": 1}  # fmt: skip

    def update() -> dict[str, float]:
        torch.manual_seed(0)
        ppo = PPO(PPOConfig(**(base | settings)))
        experience, metrics, _ = ppo.roll_out(0)
        return metrics | ppo.learn(experience, 0)

    expected = update()
    with pretended_device(monkeypatch):
        assert update() == pytest.approx(expected, rel=1e-9, abs=1e-12)


def test_reward_and_fine_tuning_steps_are_the_cpus(tiny: Path, preferences: str, write_rows: Any, monkeypatch: Any
                                                  ) -> None:  # fmt: skip
    rows = write_rows("rows.jsonl", [{"prompt": f"Say {i}", "completion": "oh" * (1 + i % 4)} for i in range(4)])
    ranked = write_rows("r.jsonl", [{"prompt": "a", "responses": ["b", "cc", "d"], "ranks": [0, 1, 1]}] * 4)

    def steps() -> list[float]:
        torch.manual_seed(0)
        fine = prepare_training(SFTConfig(model=str(tiny), train=rows, validation=rows, dtype="float64"))
        values = [fine.step(0)["loss/train"], fine.held_loss()]
        for train in (preferences, ranked):
            config = RewardConfig(model=str(tiny), train=train, validation=preferences, dtype="float64", lr=1e-3,
                                  use_margin=True, batch=4)  # fmt: skip
            training = RewardTraining(config)
            values += [*training.step(0).values(), *training.step(1).values(), *training.validate(2).values()]
        return [*values, text_perplexity(fine.model, fine.tokenizer, "a text")]

    expected = steps()
    with pretended_device(monkeypatch):
        assert steps() == pytest.approx(expected, rel=1e-9, abs=1e-12)


def test_models_and_batches_are_put_on_the_device(tiny: Path, monkeypatch: Any) -> None:
    with pretended_device(monkeypatch):
        model, batch = load_causal(str(tiny), torch.float32), make_batch([[1, 2]], [[3]], pad=1)
        assert {each.device for each in model.parameters()} == {DEVICE}
        for tensor in (batch.tokens_BS, batch.prompt_lengths_B, batch.mask_BT, batch.response_positions_BT):
            assert isinstance(tensor, OnDevice)
        assert isinstance(batch.select([0]).tokens_BS, OnDevice)
    assert load_tokenizer(str(tiny)).pad_token_id is not None


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is one")
def test_a_device_that_is_not_there_is_named() -> None:
    with pytest.raises(ConfigError, match="device: cuda"):
        devices.use_device("cuda")
    assert devices.use_device("auto") == torch.device("cpu")
