"""Attention of our own is the formula: outputs and gradients are those of PyTorch's fused kernel, in float64."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch.nn import functional as nnf
from transformers import AutoModelForCausalLM

from tests.training.test_shared_prefix import FAMILIES
from training import attention
from training.attention import NAME, PLAIN_FAMILIES, choose_attention, lean_attention

CPU = torch.device("cpu")


def draw(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(sum(shape)))


@pytest.mark.parametrize(("block", "causal"), [(64, True), (2, True), (1, True), (2, False)])
def test_outputs_and_gradients_are_those_of_the_fused_kernel(
    monkeypatch: pytest.MonkeyPatch, block: int, causal: bool
) -> None:
    # Six query heads over two key heads; the last rows may look at nothing but themselves. In blocks of queries the
    # last of which is not full; a layer that reads both ways is left whole.
    monkeypatch.setattr(attention, "BLOCK", block)
    inputs = [draw(3, 6, 5, 8), draw(3, 2, 5, 8), draw(3, 2, 5, 8)]
    visible = torch.ones(5, 5, dtype=torch.bool)
    visible = visible.tril() if causal else visible
    visible[3:, :3] = False
    mask = (~visible).double()[None, None].expand(3, 1, 5, 5) * torch.finfo(torch.float64).min
    query, key, value = leaves = [tensor.clone().requires_grad_() for tensor in inputs]
    ours, _ = lean_attention(SimpleNamespace(is_causal=causal), query, key, value, mask, scaling=0.3)
    query, key, value = fused = [tensor.clone().requires_grad_() for tensor in inputs]
    theirs = nnf.scaled_dot_product_attention(query, key, value, attn_mask=visible, scale=0.3, enable_gqa=True)
    torch.testing.assert_close(ours.transpose(1, 2), theirs, rtol=1e-12, atol=1e-12)
    weight = draw(3, 6, 5, 8)
    torch.autograd.backward((ours.transpose(1, 2) * weight).sum())
    torch.autograd.backward((theirs * weight).sum())
    for mine, other in zip(leaves, fused, strict=True):
        torch.testing.assert_close(mine.grad, other.grad, rtol=1e-12, atol=1e-12)


def test_a_block_of_queries_is_worked_out_against_the_keys_before_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    # What no query may see is not looked at: NaN in the last key and value reach the last block alone.
    monkeypatch.setattr(attention, "BLOCK", 2)
    query, key, value = draw(1, 1, 5, 4), draw(1, 1, 5, 4), draw(1, 1, 5, 4)
    key[:, :, 4], value[:, :, 4] = torch.nan, torch.nan
    mask = (~torch.ones(5, 5, dtype=torch.bool).tril()).double()[None, None] * torch.finfo(torch.float64).min
    output, _ = lean_attention(SimpleNamespace(is_causal=True), query, key, value, mask, scaling=1.0)
    assert output.isnan().any(-1).flatten().tolist() == [False, False, False, False, True]


@pytest.mark.parametrize("family", FAMILIES)
def test_a_family_reads_padded_rows_and_its_cache_as_with_the_fused_kernel(
    monkeypatch: pytest.MonkeyPatch, family: str
) -> None:
    monkeypatch.setattr(attention, "BLOCK", 2)
    torch.manual_seed(0)
    make: Any = AutoModelForCausalLM.from_config
    model = make(FAMILIES[family]).double().eval()
    tokens = torch.randint(1, 50, (2, 7))
    padding = torch.tensor([[0, 0, 1, 1, 1, 1, 1], [1, 1, 1, 1, 1, 1, 1]])

    def logits() -> torch.Tensor:
        first = model(input_ids=tokens[:, :5], attention_mask=padding[:, :5], use_cache=True)
        rest = model(input_ids=tokens[:, 5:], attention_mask=padding, past_key_values=first.past_key_values)
        return torch.cat([first.logits[:, 2:], rest.logits], dim=1)

    model.set_attn_implementation("sdpa")
    theirs = logits()
    model.set_attn_implementation(NAME)
    torch.testing.assert_close(logits(), theirs, rtol=1e-9, atol=1e-9)


def test_a_family_that_was_not_tried_keeps_eager_attention_and_float64_the_fused_one() -> None:
    assert set(FAMILIES) == PLAIN_FAMILIES
    assert choose_attention("llama", torch.bfloat16, CPU) == NAME
    assert choose_attention("gemma2", torch.bfloat16, CPU) == "eager"
    assert choose_attention("llama", torch.float64, CPU) == "sdpa"
    assert choose_attention("llama", torch.bfloat16, torch.device("cuda")) == "sdpa"


def test_dropout_is_refused() -> None:
    with pytest.raises(ValueError, match="no dropout"):
        lean_attention(None, draw(1, 2, 3, 4), draw(1, 2, 3, 4), draw(1, 2, 3, 4), None, 1.0, dropout=0.1)
