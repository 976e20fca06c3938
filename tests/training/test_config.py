"""A config says what is run: unknown, mistyped and impossible settings are refused by name."""

import dataclasses

import pytest

from training.config import STAGES, ConfigError, PPOConfig, StageConfig, load_config, to_toml

REQUIRED = {
    "pretrain": {"train": "t"}, "sft": {"model": "m", "train": "t"}, "reward": {"model": "m", "train": "t"},
    "ppo": {"policy": "p", "reward": "r", "prompts": "q"}, "evaluate": {"policy": "p", "prompts": "q"},
    "generate": {"model": "m", "prompts": "q"}, "adopt": {"model": "m"},
}  # fmt: skip


def toml(stage: str, **more: object) -> str:
    return "".join(f"{key} = {str(value).lower() if isinstance(value, bool) else repr(value)}\n"
                   for key, value in {**REQUIRED[stage], **more}.items())  # fmt: skip


@pytest.mark.parametrize("stage", STAGES)
def test_only_what_the_contract_requires_is_required(stage: str) -> None:
    load_config(stage, toml(stage))
    for key in REQUIRED[stage]:
        left = {name: value for name, value in REQUIRED[stage].items() if name != key}
        with pytest.raises(ConfigError, match=f"^{key}: is required"):
            load_config(stage, "".join(f"{name} = {value!r}\n" for name, value in left.items()))


@pytest.mark.parametrize("stage", STAGES)
def test_a_config_written_is_read_back_equal(stage: str) -> None:
    config = load_config(stage, toml(stage, parents=["a/b", 'quo"te \\ and\nnewline \u4f60']))
    assert load_config(stage, to_toml(config)) == config
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.seed = 1  # type: ignore[misc]


@pytest.mark.parametrize(
    "key",
    ["updates", "rollout_batch", "response_length", "ppo_epochs", "minibatch", "lr", "critic", "critic_lr", "lora_rank",
     "kl_coef", "clip", "value_clip", "gamma", "lam", "temperature", "top_p", "seed", "dtype"],
)  # fmt: skip
def test_ppo_has_every_setting_of_the_contract_with_a_default(key: str) -> None:
    assert hasattr(PPOConfig(policy="p", reward="r", prompts="q"), key)


def test_defaults_that_the_contract_names() -> None:
    config = PPOConfig(policy="p", reward="r", prompts="q")
    assert (config.top_p, config.dtype, config.critic, config.missing_eos_penalty) == (1.0, "auto", "auto", 0.0)


@pytest.mark.parametrize(
    ("reward", "kind"),
    [("some/directory", "separate"), ("http://host/score", "head"), ("https://host/score", "head"), ("m:f", "head")],
)
def test_auto_is_a_separate_critic_with_a_reward_directory_and_a_head_with_anything_else(reward: str, kind: str
                                                                                        ) -> None:  # fmt: skip
    assert PPOConfig(policy="p", reward=reward, prompts="q").critic_kind == kind
    assert PPOConfig(policy="p", reward=reward, prompts="q", critic="separate").critic_kind == "separate"


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("epoch = 3", "epoch: unknown key"),
        ("[ppo]\nlr = 1.0", "ppo: unknown key"),
        ("updates = 1.5", "updates: int is needed"),
        ("updates = true", "updates: int is needed"),
        ('lr = "1e-5"', "lr: float is needed"),
        ("lr = nan", "lr: a finite number is needed"),
        ("lr = inf", "lr: a finite number is needed"),
        ("lr = -1.0", "lr: above 0"),
        ("policy = 3", "policy: str is needed"),
        ('critic = "both"', "critic: one of auto, separate, head"),
        ('parents = ["a", 1]', "parents: a list of texts is needed"),
        ("gamma = 1.1", "gamma: from 0 to 1"),
        ("top_p = 0.0", "top_p: above 0, at most 1"),
        ("temperature = 0.0", "temperature: above 0"),
        ("weight_decay = -0.1", "weight_decay: 0 or more"),
        ("critic_warmup = 40", "critic_warmup: from 0 to below updates"),
        ("ptx_coef = 1.0", "ptx: a file"),
    ],
)
def test_what_cannot_be_used_is_named(text: str, named: str) -> None:
    given = text if text.startswith("policy") else toml("ppo").replace("policy", "policy", 1)
    key = text.split(" ")[0]
    lines = [line for line in given.splitlines() if not line.startswith(f"{key} ")]
    with pytest.raises(ConfigError) as caught:
        load_config("ppo", "\n".join([*lines, text]))
    assert str(caught.value).startswith(named)
    assert "\n" not in str(caught.value)


def test_what_is_not_toml_is_said_to_be_so() -> None:
    with pytest.raises(ConfigError, match=r"^config: not TOML"):
        load_config("ppo", "lr = = 3")


def test_a_whole_number_is_a_number() -> None:
    config = load_config("ppo", toml("ppo", lr=1))
    assert isinstance(config, PPOConfig)
    assert isinstance(config.lr, float)


@pytest.mark.parametrize(
    ("override", "key", "value"),
    [("lr=1e-4", "lr", 1e-4), ("policy=1", "policy", "1"), ("reward = m:f", "reward", "m:f"), ("lam=1", "lam", 1.0),
     ("whiten_advantages=false", "whiten_advantages", False), ('parents=["a","b"]', "parents", ("a", "b")),
     ("policy=a=b", "policy", "a=b")],
)  # fmt: skip
def test_an_override_is_read_by_its_fields_type_and_wins(override: str, key: str, value: object) -> None:
    config: StageConfig = load_config("ppo", toml("ppo"), [override])
    assert getattr(config, key) == value


@pytest.mark.parametrize(
    ("override", "named"),
    [("lr", "--set lr: key=value is needed"), ("lrr=1", "lrr: unknown key"), ("lr=fast", "lr: float is needed"),
     ("parents=a", "parents: a list is needed"), ("updates=2.5", "updates: int is needed")],
)  # fmt: skip
def test_an_override_that_cannot_be_used_is_named(override: str, named: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config("ppo", toml("ppo"), [override])
    assert str(caught.value).startswith(named)
