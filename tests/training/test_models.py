"""Weights kept in float32 while bfloat16 computes, activations computed twice, templates that refuse."""

import json
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from training import models, optimiser
from training.batches import make_batch
from training.config import ConfigError, OptimiserConfig
from training.data import completion_loss, render_completions
from training.models import checkpoint_activations, load_causal, load_tokenizer, render_prompt
from training.optimiser import MasterWeights, schedule_scale
from training.records import CompletionRow, DataError, Message
from training.rollout import Sampling, sample_responses


def test_steps_too_small_for_bfloat16_add_up_in_the_masters() -> None:
    # At 1.0 bfloat16's spacing is 2^-7. A hundred SGD steps of 1e-4 with momentum 0.9 are each lost to it, and together
    # 1e-4 * sum(10 * (1 - 0.9^t)) = 1e-3 * (100 - 9) = 0.091.
    parameter = nn.Parameter(torch.ones(1, dtype=torch.bfloat16))
    weights = MasterWeights([([parameter], 1e-4)], OptimiserConfig(optimiser="sgd", max_grad_norm=1e9))
    for _ in range(100):
        parameter.grad = torch.ones_like(parameter)
        weights.step()
    assert float(parameter.detach()) == pytest.approx(1 - 0.091, abs=2**-8)


@pytest.mark.parametrize(("name", "theirs"), [
    ("adamw", lambda p: torch.optim.AdamW(p, lr=0.01, betas=(0.9, 0.95), weight_decay=0.1, fused=True)),
    ("sgd", lambda p: torch.optim.SGD(p, lr=0.01, momentum=0.9, weight_decay=0.1)),
    ("rmsprop", lambda p: torch.optim.RMSprop(p, lr=0.01, weight_decay=0.1)),
])  # fmt: skip
def test_a_bfloat16_weight_is_to_the_bit_the_float32_one_that_torch_moves(
    name: Any, theirs: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(optimiser, "BLOCK", 64)
    draw = torch.Generator().manual_seed(2)
    begin = torch.randn(10, 20, generator=draw).bfloat16()
    ours, other = nn.Parameter(begin.clone()), nn.Parameter(begin.float())
    config = OptimiserConfig(optimiser=name, weight_decay=0.1, max_grad_norm=1e9, moments="float32")
    weights, plain = MasterWeights([([ours], 0.01)], config), theirs([other])
    for _ in range(30):
        gradient = torch.randn(10, 20, generator=draw).bfloat16()
        ours.grad, other.grad = gradient.clone(), gradient.float()
        weights.step()
        plain.step()
    high, low = weights.weights()
    bits = (high.view(torch.int16).int() << 16) + low
    assert torch.equal(bits.view(torch.float32), other.detach())
    assert torch.equal(high, other.detach().bfloat16())
    assert torch.equal(high, ours.detach())


def test_halves_hold_every_float32_half_way_cases_too() -> None:
    # Exponents, signs, and lower bits around the half-way case, above an even and an odd bfloat16.
    tops = [0x3F80, 0x3F81, 0xBF80, 0xBF81, 0x0001, 0x7F7E, 0x0000, 0x8000]
    bits = torch.tensor([top << 16 | low for top in tops for low in (0, 1, 0x7FFF, 0x8000, 0x8001, 0xFFFF)])
    numbers = bits.to(torch.int32).view(torch.float32)
    high, low = torch.zeros(len(bits), dtype=torch.bfloat16), torch.zeros(len(bits), dtype=torch.int16)
    again = torch.zeros(len(bits))
    optimiser._part(numbers.clone(), high, low, again)
    optimiser._join(high, low, again)
    assert torch.equal(again.view(torch.int32), numbers.view(torch.int32))
    is_half_way = bits & 0xFFFF == 0x8000
    assert torch.equal(high[~is_half_way], numbers.bfloat16()[~is_half_way])


def test_adamws_moments_in_bfloat16_lead_where_those_in_float32_do() -> None:
    # Noisy gradients of a slope that differs from weight to weight by a thousandfold. A moment's rounding is at most
    # 2^-9 of it a step and forgotten at 0.9 and 0.95: of a path it may come to a percent, and of its end to less.
    slopes, ends = torch.logspace(-3, 0, 256), []
    kinds: list[Literal["auto", "float32"]] = ["auto", "float32"]
    for moments in kinds:
        draw = torch.Generator().manual_seed(3)
        parameter = nn.Parameter(torch.zeros(256, dtype=torch.bfloat16))
        config = OptimiserConfig(max_grad_norm=1e9, moments=moments)
        weights = MasterWeights([([parameter], 1e-3)], config)
        assert [each.dtype for each in weights.kept[0].moments] == [
            torch.bfloat16 if moments == "auto" else torch.float32
        ] * 2
        for _ in range(300):
            parameter.grad = (slopes * (1 + torch.randn(256, generator=draw))).bfloat16()
            weights.step()
        high, low = weights.weights()
        ends.append(torch.zeros(256))
        optimiser._join(high, low, ends[-1])
    narrow, wide = ends
    assert float((narrow - wide).norm() / wide.norm()) < 0.01
    assert float(narrow.mean() / wide.mean()) == pytest.approx(1, abs=0.002)


def test_gradients_of_several_passes_add_up_to_that_of_one(tiny: Path) -> None:
    rows = [([5, 6], [7, 8]), ([9], [10, 11]), ([12, 13, 14], [15, 16]), ([20], [21, 22])]

    def step(parts: list[list[tuple[list[int], list[int]]]]) -> list[torch.Tensor]:
        model = load_causal(str(tiny), torch.float64)
        weights = MasterWeights([(list(model.parameters()), 1e-2)], OptimiserConfig(optimiser="sgd"))
        for part in parts:
            batch = make_batch([p for p, _ in part], [c for _, c in part], pad=1)
            (completion_loss(model, batch) * len(part) / len(rows)).backward()  # type: ignore[no-untyped-call]
            weights.collect()
        weights.step()
        return [p.detach() for p in model.parameters()]

    for once, twice in zip(step([rows]), step([rows[:2], rows[2:]]), strict=True):
        assert_close(once, twice, atol=1e-7, rtol=0)


def test_a_long_gradient_is_shortened_to_the_norm_asked_and_reported_as_it_was() -> None:
    parameter = nn.Parameter(torch.zeros(2))
    weights = MasterWeights([([parameter], 1.0)], OptimiserConfig(optimiser="sgd", max_grad_norm=1.0))
    parameter.grad = torch.tensor([3.0, 4.0])
    assert weights.step() == pytest.approx(5.0)
    assert_close(parameter.detach(), torch.tensor([-0.6, -0.8]), atol=1e-5, rtol=0)


@pytest.mark.parametrize(("schedule", "middle", "last"), [
    ("constant", 1.0, 1.0), ("linear", 0.5, 0.02), ("cosine", 0.51, 0.02), ("exponential", 0.02**0.5, 0.02),
    ("inverse_sqrt", (10 / 61) ** 0.5, (10 / 111) ** 0.5),
])  # fmt: skip
def test_schedules_warm_up_then_fall_as_named(schedule: Any, middle: float, last: float) -> None:
    # 110 steps of which 10 warm up: step 4 is the fifth of ten, step 60 half way through the rest, step 110 its end.
    config = OptimiserConfig(schedule=schedule, warmup=10)
    assert schedule_scale(config, 4, 110) == pytest.approx(0.5)
    assert schedule_scale(config, 9, 110) == 1.0
    assert schedule_scale(config, 60, 110) == pytest.approx(middle, abs=1e-6)
    assert schedule_scale(config, 110, 110) == pytest.approx(last, abs=1e-6)


@pytest.mark.parametrize(("name", "theirs"), [
    ("adamw", lambda p: torch.optim.AdamW(p, lr=0.05, betas=(0.9, 0.95), weight_decay=0.1)),
    ("sgd", lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9, weight_decay=0.1)),
    ("rmsprop", lambda p: torch.optim.RMSprop(p, lr=0.05, weight_decay=0.1)),
])  # fmt: skip
def test_every_optimiser_steps_as_torchs_own_under_torchs_own_schedule(name: Any, theirs: Any) -> None:
    # Warm-up of 3 steps, then half a cosine over 9 to a fiftieth, as torch's schedulers write it.
    begin = torch.randn(5, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    ours, other = nn.Parameter(begin.clone()), nn.Parameter(begin.clone())
    config = OptimiserConfig(optimiser=name, lr=0.05, weight_decay=0.1, schedule="cosine", warmup=3)
    weights, plain = MasterWeights([([ours], 0.05)], config), theirs([other])
    warm = torch.optim.lr_scheduler.LinearLR(plain, start_factor=1 / 3, total_iters=2)
    fall = torch.optim.lr_scheduler.CosineAnnealingLR(plain, T_max=9, eta_min=0.02 * 0.05)
    rate = torch.optim.lr_scheduler.SequentialLR(plain, [warm, fall], milestones=[3])
    for step in range(12):
        for parameter in (ours, other):
            parameter.grad = (parameter.detach() - 1.0) ** 3
        nn.utils.clip_grad_norm_([other], config.max_grad_norm)
        plain.step()
        rate.step()
        weights.step(schedule_scale(config, step, 12))
    assert_close(ours, other, atol=1e-9, rtol=0)
    assert not torch.allclose(ours, begin, atol=0.05)


def test_checkpointing_computes_layers_twice_and_gives_the_same_gradients(tiny: Path) -> None:
    batch = make_batch([[5, 6, 7], [8]], [[9, 10], [11]], pad=1)
    calls, gradients = [], []
    for checkpointed in (False, True):
        model = load_causal(str(tiny), torch.float32)
        if checkpointed:
            checkpoint_activations(model)
        seen: list[int] = []
        model.model.layers[0].input_layernorm.register_forward_hook(lambda *_, seen=seen: seen.append(1))
        completion_loss(model, batch).backward()  # type: ignore[no-untyped-call]
        calls.append(len(seen))
        gradients.append([p.grad for p in model.parameters()])
        assert not any(module.training for module in model.modules())
    assert calls == [1, 2]
    for plain, again in zip(*gradients, strict=True):
        assert_close(plain, again)


def test_checkpointing_leaves_rollouts_their_cache(tiny: Path) -> None:
    tokenizer = load_tokenizer(str(tiny))
    answers = []
    for checkpointed in (False, True):
        model = load_causal(str(tiny), torch.float32)
        if checkpointed:
            checkpoint_activations(model)
        answers.append(sample_responses(model, tokenizer, [[5, 6], [7]], Sampling(6), [1, 2]).responses())
    assert answers[0] == answers[1]


def test_a_model_that_changes_its_logits_after_the_head_is_refused(tiny: Path) -> None:
    model = load_causal(str(tiny), torch.float32)
    models.check_plain_head(model)
    forward = model.forward

    def scaled(*args: Any, **kwargs: Any) -> Any:
        output = forward(*args, **kwargs)
        output.logits = output.logits * 2
        return output

    model.forward = scaled
    with pytest.raises(ConfigError, match=r"^policy: .*changes its logits"):
        models.check_plain_head(model)


def test_completions_end_with_the_templates_end_of_turn_and_long_prompts_lose_their_beginning(tiny: Path) -> None:
    tokenizer = load_tokenizer(str(tiny))
    row = CompletionRow([Message(role="user", content="abc")], [Message(role="assistant", content="de")])
    ((prompt, completion),) = render_completions(tokenizer, [row], 512)
    assert tokenizer.decode(prompt) == "<|im_start|>user\nabc<|im_end|>\n<|im_start|>assistant\n"
    assert tokenizer.decode(completion) == "de<|im_end|>\n"
    ((short, same),) = render_completions(tokenizer, [row], 10)
    assert same == completion
    assert short == prompt[-6:]  # 10 less the completion's 4: d, e, the end, the line's end


def test_a_template_that_refuses_a_conversation_is_a_fault_of_the_data(tiny: Path) -> None:
    tokenizer = load_tokenizer(str(tiny))
    tokenizer.chat_template = "{{ raise_exception('roles must alternate') }}"
    with pytest.raises(DataError, match="chat template: roles must alternate"):
        render_prompt(tokenizer, [Message(role="user", content="a")])
    tokenizer.chat_template = None
    with pytest.raises(ConfigError, match="chat template"):
        render_prompt(tokenizer, [Message(role="user", content="a")])


def test_a_tokenizer_without_padding_pads_with_its_end(tiny: Path, tmp_path: Path) -> None:
    tokenizer = load_tokenizer(str(tiny))
    tokenizer.save_pretrained(tmp_path)
    settings = json.loads((tmp_path / "tokenizer_config.json").read_text())
    del settings["pad_token"]
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
    assert load_tokenizer(str(tmp_path)).pad_token_id == tokenizer.eos_token_id
