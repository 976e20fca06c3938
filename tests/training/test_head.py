"""Log-probabilities made a piece at a time equal those of whole logits, gradients included."""

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from training import head
from training.batches import Batch, make_batch
from training.divergence import sequence_kl
from training.head import state_entropies, state_logprobs
from training.losses import token_entropy, token_logprobs
from training.repetition import Repetition


def make_states(seed: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return (states, weight, tokens, mask) in float64: 3 rows of up to 5 tokens, 6 dimensions, 11 words."""
    generator = torch.Generator().manual_seed(seed)
    states = torch.randn(3, 5, 6, generator=generator, dtype=torch.float64)
    weight = torch.randn(11, 6, generator=generator, dtype=torch.float64)
    tokens = torch.randint(0, 11, (3, 5), generator=generator)
    mask = torch.arange(5)[None, :] < torch.tensor([[5], [1], [3]])
    return states, weight, tokens, mask


PROMPTS = [[1, 2], [3], [4, 5, 6, 4]]


def penalised_one_by_one(logits: Tensor, batch: Batch, penalty: float) -> Tensor:
    """Transformers' rule, a cell at a time: of a token that stands before, a score is divided, a negative one times."""
    rows = []
    for row, prompt in enumerate(PROMPTS):
        text = [*prompt, *batch.response_tokens_BT[row].tolist()]
        cells = []
        for place in range(logits.shape[1]):
            before = set(text[: len(prompt) + place])
            scores = logits[row, place]
            cells.append(torch.stack([
                (score * penalty if score < 0 else score / penalty) if token in before else score
                for token, score in enumerate(scores)
            ]))  # fmt: skip
        rows.append(torch.stack(cells))
    return torch.stack(rows)


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(head, "CHUNK", 4)  # nine tokens in three pieces


@pytest.mark.parametrize("temperature", [1.0, 0.7])
@pytest.mark.parametrize("with_nucleus", [False, True])
@pytest.mark.parametrize("penalty", [1.0, 1.5])
def test_logprobs_and_gradients_equal_those_of_whole_logits(
    temperature: float, with_nucleus: bool, penalty: float
) -> None:
    states, weight, tokens, mask = make_states(0)
    nucleus = None
    if with_nucleus:
        nucleus = torch.rand(3, 5, 11, generator=torch.Generator().manual_seed(1)) < 0.5
        nucleus.scatter_(-1, tokens[..., None], True)  # the drawn token was inside
    ours = states.clone().requires_grad_(), weight.clone().requires_grad_()
    theirs = states.clone().requires_grad_(), weight.clone().requires_grad_()
    logits = theirs[0] @ theirs[1].T
    batch = make_batch(PROMPTS, [tokens[row, : int(mask[row].sum())].tolist() for row in range(3)], pad=0)
    if penalty != 1:
        logits = penalised_one_by_one(logits, batch, penalty)
    if nucleus is not None:
        logits = logits.masked_fill(~nucleus, -torch.inf)
    expected = token_logprobs(logits, tokens, temperature).masked_fill(~mask, 0.0)
    repetition = Repetition.of(batch, penalty)
    got = state_logprobs(ours[0], ours[1], tokens, mask, temperature, nucleus, repetition)
    assert_close(got, expected, atol=1e-12, rtol=0)
    weights = torch.randn(3, 5, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    (got * weights).sum().backward()  # type: ignore[no-untyped-call]
    (expected * weights).sum().backward()  # type: ignore[no-untyped-call]
    for mine, plain in zip(ours, theirs, strict=True):
        assert mine.grad is not None
        assert plain.grad is not None
        assert_close(mine.grad, plain.grad, atol=1e-12, rtol=0)


def test_gradients_agree_with_finite_differences() -> None:
    states, weight, tokens, mask = make_states(3)
    states.requires_grad_()
    weight.requires_grad_()
    assert torch.autograd.gradcheck(lambda s, w: state_logprobs(s, w, tokens, mask, 1.3), (states, weight))


def test_what_stands_in_padding_changes_no_bit() -> None:
    states, weight, tokens, mask = make_states(4)
    dirty_states = states.masked_fill(~mask[..., None], 1e9)
    dirty_tokens = tokens.masked_fill(~mask, 0)
    assert torch.equal(
        state_logprobs(states, weight, tokens, mask), state_logprobs(dirty_states, weight, dirty_tokens, mask)
    )


def test_entropies_equal_those_of_whole_logits() -> None:
    states, weight, _, mask = make_states(5)
    expected = token_entropy(states @ weight.T, 0.8).masked_fill(~mask, 0.0)
    assert_close(state_entropies(states, weight, mask, 0.8), expected, atol=1e-12, rtol=0)
    states.requires_grad_()
    weight.requires_grad_()
    assert torch.autograd.gradcheck(lambda s, w: state_entropies(s, w, mask, 0.8), (states, weight))


def test_sequence_kl_is_the_sum_of_exact_kls_over_the_mask() -> None:
    states, weight, _, mask = make_states(6)
    other_states, other_weight, _, _ = make_states(7)
    ours, theirs = (states @ weight.T).log_softmax(-1), (other_states @ other_weight.T).log_softmax(-1)
    expected = ((ours.exp() * (ours - theirs)).sum(-1) * mask).sum(1)
    assert_close(sequence_kl(states, weight, other_states, other_weight, mask), expected, atol=1e-12, rtol=0)
    assert float(sequence_kl(states, weight, states, weight, mask).abs().max()) == 0.0
