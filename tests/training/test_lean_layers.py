"""Norms and gates with backward passes written out give what automatic differentiation of the formula gives."""

import copy
from typing import Any

import pytest
import torch
from torch.nn import functional as nnf
from transformers import AutoModelForCausalLM

from tests.training.test_shared_prefix import FAMILIES
from training.lean_layers import _Gate, _Norm, make_lean


def draw(*shape: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(sum(shape))
    return torch.randn(*shape, dtype=torch.float64, generator=generator).requires_grad_()


def test_a_norms_gradients_are_those_of_finite_differences_and_of_torchs_own() -> None:
    x, weight = draw(2, 3, 8), draw(8)
    assert torch.autograd.gradcheck(lambda x, w: _Norm.apply(x, w, 1e-5), (x, weight))  # type: ignore[no-untyped-call]
    torch.testing.assert_close(_Norm.apply(x, weight, 1e-5), nnf.rms_norm(x, (8,), weight, 1e-5))  # type: ignore[no-untyped-call]


def test_a_gates_gradients_are_those_of_finite_differences() -> None:
    gate, up = draw(2, 5), draw(5, 2).T
    assert torch.autograd.gradcheck(_Gate.apply, (gate, up))
    torch.testing.assert_close(_Gate.apply(gate, up), gate * torch.sigmoid(gate) * up)  # type: ignore[no-untyped-call]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_lean_models_logits_are_the_same_to_the_bit_and_its_gradients_alike(family: str, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    make: Any = AutoModelForCausalLM.from_config
    plain = make(FAMILIES[family]).to(dtype).eval()
    lean = copy.deepcopy(plain)
    make_lean(lean)
    tokens = torch.randint(1, 50, (2, 7))
    logits = [model(input_ids=tokens).logits for model in (plain, lean)]
    assert torch.equal(*logits)
    for each in logits:
        each.float().logsumexp(-1).sum().backward()
    exact = copy.deepcopy(plain).to(torch.float64)
    exact(input_ids=tokens).logits.logsumexp(-1).sum().backward()
    for ours, theirs, true in zip(lean.parameters(), plain.parameters(), exact.parameters(), strict=True):
        # As near to float64's as automatic differentiation comes, or twice as far at most where both are near.
        scale = true.grad.norm()
        ours_off, theirs_off = ((each.grad.double() - true.grad).norm() / scale for each in (ours, theirs))
        assert ours_off <= 2 * theirs_off + torch.finfo(dtype).eps
