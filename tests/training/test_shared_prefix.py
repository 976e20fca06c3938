"""Texts scored in one row, what they share computed once, have the scores and gradients that each has alone."""

from typing import Any

import pytest
import torch
from transformers import (
    AutoModelForSequenceClassification,
    GPTNeoXConfig,
    LlamaConfig,
    MistralConfig,
    Qwen2Config,
    Qwen3Config,
)

from training.rewards import score_tokens
from training.shared_prefix import can_pack, pack, packed_length, score_groups, shared_length, worth_packing

SIZES: Any = {
    "vocab_size": 50, "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2,
    "num_key_value_heads": 1, "num_labels": 1, "pad_token_id": 0, "max_position_embeddings": 64,
}  # fmt: skip
FAMILIES = {
    "llama": LlamaConfig(**SIZES),
    "qwen2": Qwen2Config(**SIZES),
    "qwen3": Qwen3Config(**SIZES, head_dim=8),
    "mistral": MistralConfig(**SIZES, sliding_window=None),
    "gpt_neox": GPTNeoXConfig(**{key: value for key, value in SIZES.items() if key != "num_key_value_heads"}),
}
PREFIX = [7, 3, 9, 4, 8, 6, 5, 2, 11, 12]
# A pair, a ranking of three, and a pair of which one text is where the other goes on.
GROUPS = [
    [[*PREFIX, 21, 22], [*PREFIX, 23, 24, 25]],
    [[*PREFIX, 31], [*PREFIX, 32, 33, 34], [*PREFIX, 35, 36]],
    [[*PREFIX, 41], [*PREFIX, 41, 42]],
]


def make_scorer(family: str) -> Any:
    torch.manual_seed(0)
    make: Any = AutoModelForSequenceClassification.from_config
    model = make(FAMILIES[family], attn_implementation="sdpa")
    return model.double().eval()


@pytest.mark.parametrize("family", FAMILIES)
def test_scores_and_gradients_are_those_of_each_text_alone(family: str) -> None:
    model = make_scorer(family)
    assert can_pack(model)
    assert worth_packing(GROUPS)
    alone = [torch.cat([score_tokens(model, [text], 0) for text in group]) for group in GROUPS]
    torch.stack([(scores**2).sum() for scores in alone]).sum().backward()  # type: ignore[no-untyped-call]
    expected = [None if p.grad is None else p.grad.clone() for p in model.parameters()]
    model.zero_grad()
    together = score_groups(model, GROUPS, 0)
    torch.stack([(scores**2).sum() for scores in together]).sum().backward()  # type: ignore[no-untyped-call]
    for mine, each in zip(together, alone, strict=True):
        torch.testing.assert_close(mine, each, atol=1e-8, rtol=1e-6)
    for parameter, gradient in zip(model.parameters(), expected, strict=True):
        # Norms and rotary positions are float32 inside transformers, whatever the model's dtype.
        torch.testing.assert_close(parameter.grad, gradient, atol=1e-7, rtol=1e-4)


def test_what_a_text_has_of_its_own_changes_no_other_score() -> None:
    model = make_scorer("llama")
    before = score_groups(model, GROUPS, 0)
    changed = [[GROUPS[0][0], [*PREFIX, 23, 49, 25]], *GROUPS[1:]]
    after = score_groups(model, changed, 0)
    assert torch.equal(before[0][0], after[0][0])
    assert not torch.equal(before[0][1], after[0][1])


def test_every_text_keeps_a_token_of_its_own() -> None:
    assert shared_length([[1, 2, 3], [1, 2, 3]]) == 2
    assert shared_length([[1, 2, 3], [1, 2, 3, 4]]) == 2
    assert shared_length([[5], [5, 6]]) == 0
    # 10 shared, then 2 and 3 of their own.
    assert packed_length(GROUPS[0]) == 15
    assert pack(GROUPS[:1], 0).positions_BS.tolist() == [[*range(10), 10, 11, 10, 11, 12]]


def test_texts_that_share_little_are_not_packed() -> None:
    # 1 + 5 + 5 tokens in a row against two rows of 6: fewer cells, but of attention 121 against 72.
    assert not worth_packing([[[1, 2, 3, 4, 5, 6], [1, 7, 8, 9, 10, 11]]])


def test_a_sliding_window_is_left_alone() -> None:
    windowed = MistralConfig(**SIZES, sliding_window=4)
    make: Any = AutoModelForSequenceClassification.from_config
    assert not can_pack(make(windowed))
