"""Scores, log-probabilities and values belong to a row alone: padding, company and order change none of them."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close
from transformers import AutoModelForSequenceClassification

from training.batches import Batch, make_batch
from training.config import PPOConfig
from training.critic import make_critic
from training.experience import score_states
from training.head import state_logprobs
from training.models import (
    encode,
    load_causal,
    load_scorer,
    load_tokenizer,
    output_weight,
    render_dialogue,
    response_states,
)
from training.records import Message
from training.rewards import ModelReward, score_tokens

PROMPTS = [[5, 6, 7], [8], [9, 10, 11, 12, 13], [20, 21]]
# The second response ends with the token that padding is made of; the third has it in the middle.
RESPONSES = [[30, 31], [1], [33, 1, 34], [40, 41, 42, 43, 44, 45]]


@pytest.fixture(scope="module")
def causal(tiny: Path) -> Any:
    return load_causal(str(tiny), torch.float64)


@pytest.fixture(scope="module")
def scorer(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the directory of a reward model with random weights on its head."""
    torch.manual_seed(3)
    path = tmp_path_factory.mktemp("scorer")
    tokenizer = load_tokenizer(str(tiny))
    model = load_scorer(str(tiny), torch.float64)
    torch.nn.init.normal_(model.score.weight)
    model.config.pad_token_id = tokenizer.pad_token_id
    model.save_pretrained(path)
    tokenizer.save_pretrained(path)
    return path


def logprobs(model: Any, batch: Batch) -> Tensor:
    states = response_states(model, batch)
    return state_logprobs(states, output_weight(model), batch.response_tokens_BT, batch.mask_BT)


def test_a_row_has_the_same_logprobs_alone_and_among_others(causal: Any) -> None:
    together = logprobs(causal, make_batch(PROMPTS, RESPONSES, pad=1))
    for row, (prompt, response) in enumerate(zip(PROMPTS, RESPONSES, strict=True)):
        alone = logprobs(causal, make_batch([prompt], [response], pad=1))
        assert_close(together[row, : len(response)], alone[0], atol=1e-12, rtol=0)
        assert not together[row, len(response) :].any()


def test_logprobs_equal_transformers_own_with_padding_on_the_left(causal: Any) -> None:
    rows = [p + r for p, r in zip(PROMPTS, RESPONSES, strict=True)]
    longest = max(map(len, rows))
    tokens = torch.tensor([[1] * (longest - len(row)) + row for row in rows])
    attention = torch.tensor([[0] * (longest - len(row)) + [1] * len(row) for row in rows])
    positions = (attention.cumsum(-1) - 1).clamp(min=0)
    with torch.no_grad():
        logits = causal(input_ids=tokens, attention_mask=attention, position_ids=positions).logits.log_softmax(-1)
    ours = logprobs(causal, make_batch(PROMPTS, RESPONSES, pad=1))
    for row, response in enumerate(RESPONSES):
        expected = [logits[row, longest - len(response) + t - 1, token] for t, token in enumerate(response)]
        assert_close(ours[row, : len(response)], torch.stack(expected), atol=1e-10, rtol=0)


def test_the_padding_token_changes_no_bit(causal: Any) -> None:
    expected = logprobs(causal, make_batch(PROMPTS, RESPONSES, pad=1))
    assert torch.equal(expected, logprobs(causal, make_batch(PROMPTS, RESPONSES, pad=99)))


def test_rows_in_another_order_have_the_same_logprobs(causal: Any) -> None:
    order = [2, 0, 3, 1]
    batch = make_batch(PROMPTS, RESPONSES, pad=1)
    shuffled = logprobs(causal, batch.select(order))
    assert_close(shuffled, logprobs(causal, batch)[order], atol=1e-12, rtol=0)


def test_selected_rows_lose_padding_and_nothing_else() -> None:
    batch = make_batch(PROMPTS, RESPONSES, pad=1).select([1, 0])
    assert batch.tokens_BS.tolist() == [[8, 1, 1, 1, 1], [5, 6, 7, 30, 31]]
    assert batch.mask_BT.tolist() == [[True, False], [True, True]]
    assert batch.response_tokens_BT[0, 0] == 1  # a real end, though it is the padding token


@pytest.mark.parametrize("kind", ["head", "separate"])
def test_a_critic_values_a_row_alike_alone_and_among_others(kind: str, tiny: Path, scorer: Path) -> None:
    config = PPOConfig(policy=str(tiny), reward=str(scorer), prompts="unread", critic=kind, dtype="float64")  # type: ignore[arg-type]
    policy = load_causal(str(tiny), torch.float64)
    critic = make_critic(config, policy)
    if kind == "head":
        torch.nn.init.normal_(critic.parameters()[0])

    def values(batch: Batch) -> Tensor:
        return critic.values(batch, response_states(policy, batch) if critic.shares_trunk else None)

    together = values(make_batch(PROMPTS, RESPONSES, pad=1))
    assert float(together.detach().abs().max()) > 0.01
    for row, (prompt, response) in enumerate(zip(PROMPTS, RESPONSES, strict=True)):
        alone = values(make_batch([prompt], [response], pad=1))
        assert_close(together[row, : len(response)], alone[0], atol=1e-12, rtol=0)


def test_a_separate_critic_starts_as_the_reward_model(tiny: Path, scorer: Path) -> None:
    config = PPOConfig(policy=str(tiny), reward=str(scorer), prompts="unread", dtype="float64")
    critic = make_critic(config, load_causal(str(tiny), torch.float64))
    # The value before the last token is the reward model's score of the row without that token.
    values = critic.values(make_batch([[5, 6, 7]], [[30, 31]], pad=1), None)
    score = score_tokens(load_scorer(str(scorer), torch.float64), [[5, 6, 7, 30]], pad=1)
    assert float(values[0, 1].detach()) == pytest.approx(float(score[0].detach()), abs=1e-6)


@pytest.mark.parametrize("side", ["left", "right"])
def test_scores_are_those_of_the_class_that_others_load(side: str, scorer: Path) -> None:
    tokenizer = load_tokenizer(str(scorer))
    tokenizer.padding_side = side
    texts = [("Hi", "aeiou"), ("A longer question", "x"), ("?", "something else again")]
    dialogues = [[Message(role="user", content=q), Message(role="assistant", content=a)] for q, a in texts]
    rendered = [render_dialogue(tokenizer, dialogue) for dialogue in dialogues]
    model = AutoModelForSequenceClassification.from_pretrained(scorer, dtype=torch.float64).eval()
    inputs = tokenizer(rendered, padding=True, add_special_tokens=False, return_tensors="pt")
    with torch.no_grad():
        theirs = model(**inputs).logits.squeeze(-1)
    ours = ModelReward(str(scorer), "float64", batch=2)([d[:1] for d in dialogues], [a for _, a in texts])
    assert ours == pytest.approx(theirs.tolist(), abs=1e-5)


def test_a_score_stands_at_the_last_real_token_even_where_that_is_the_padding_token(scorer: Path) -> None:
    # transformers looks for the last token that differs from padding and would take the one before (#35352).
    model = load_scorer(str(scorer), torch.float64)
    with torch.no_grad():
        hidden = model.model(input_ids=torch.tensor([[5, 6, 1]])).last_hidden_state
        expected = float(model.score(hidden)[0, -1, 0])
        alone = score_tokens(model, [[5, 6, 1]], pad=1)
        padded = score_tokens(model, [[5, 6, 1], [7, 8, 9, 10, 11]], pad=1)
    assert float(alone[0]) == pytest.approx(expected, abs=1e-6)
    assert float(padded[0]) == pytest.approx(expected, abs=1e-6)


def test_scores_do_not_depend_on_company_or_order(scorer: Path) -> None:
    conversations = [[Message(role="user", content="ab" * i)] for i in range(1, 8)]
    responses = [f"{i}" * (8 - i) for i in range(1, 8)]
    expected = ModelReward(str(scorer), "float64", batch=7)(conversations, responses)
    assert ModelReward(str(scorer), "float64", batch=1)(conversations, responses) == pytest.approx(expected, abs=1e-6)
    backwards = ModelReward(str(scorer), "float64", batch=3)(conversations[::-1], responses[::-1])
    assert backwards[::-1] == pytest.approx(expected, abs=1e-6)


def test_a_pass_over_a_rollout_tells_the_tempered_from_the_plain(causal: Any) -> None:
    batch = make_batch(PROMPTS, RESPONSES, pad=1)
    config = PPOConfig(policy="p", reward="m:f", prompts="q", temperature=0.5)
    states = response_states(causal, batch)
    scored = score_states(states, output_weight(causal), batch, config, None)
    logits = states @ output_weight(causal).T
    tokens = batch.response_tokens_BT[..., None]
    tempered = (logits / 0.5).log_softmax(-1).gather(-1, tokens).squeeze(-1)
    plain = logits.log_softmax(-1).gather(-1, tokens).squeeze(-1)
    mask = batch.mask_BT
    assert_close(scored.logprobs_BT[mask], tempered[mask], atol=1e-12, rtol=0)
    assert_close(scored.full_logprobs_BT[mask], tempered[mask], atol=1e-12, rtol=0)
    assert_close(scored.plain_logprobs_BT[mask], plain[mask], atol=1e-12, rtol=0)


def test_tokens_of_a_dialogue_carry_nothing_that_the_template_did_not_write(tiny: Path) -> None:
    tokenizer = load_tokenizer(str(tiny))
    text = render_dialogue(tokenizer, [Message(role="user", content="hi")])
    assert text == "<|im_start|>user\nhi<|im_end|>\n"
    assert tokenizer.decode(encode(tokenizer, text)) == text
