"""What keeps a reward model a language model, and scores centred by a number beside the model."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.testing import assert_close
from transformers import AutoModelForSequenceClassification

from tests.training.tiny import make_tiny_model
from training.__main__ import main
from training.chosen_language import ChosenLanguage, split_best
from training.comparisons import Comparison, tokenize
from training.config import ConfigError, RewardConfig
from training.models import load_causal, load_scorer, load_tokenizer
from training.records import read_judged
from training.rewards import ModelReward

ROWS = [
    {"prompt": "hi", "chosen": "aa", "rejected": "xyz"},
    {"prompt": "hello you", "responses": ["b", "cdef", "gg"], "ranks": [2, 0, 1]},
    {"prompt": "hey", "responses": ["k", "l"], "ranks": [0, 0]},
]
BEST = ["aa", "cdef"]  # the third row has no best answer


def comparisons_of(tiny: Path, write_rows: Any, max_length: int = 99) -> list[Comparison]:
    path = write_rows("rows.jsonl", ROWS)
    return tokenize(load_tokenizer(str(tiny)), read_judged(path), max_length, with_answers=True)


def test_the_loss_is_transformers_own_on_the_best_answers_tokens(tiny: Path, write_rows: Any) -> None:
    rows, config = comparisons_of(tiny, write_rows), RewardConfig(model=str(tiny), train="t", lm_coef=1.0)
    scorer, causal = load_scorer(str(tiny), torch.float64), load_causal(str(tiny), torch.float64)
    language = ChosenLanguage(config, scorer, 1, was_scorer=False)
    losses, count = [], 0
    for row, answer in zip(rows, BEST, strict=False):
        text = row.texts[row.ranks.index(0)]
        learned = len(answer) + 2  # a byte a token, the end of the turn, and the template's line break
        labels = [-100] * (len(text) - learned) + text[-learned:]
        output = causal(input_ids=torch.tensor([text]), labels=torch.tensor([labels]))
        losses.append(output.loss * learned)
        count += learned
    expected = sum(losses) / count
    loss = language.loss(rows, rows)
    assert loss is not None
    # Transformers takes its logits to float32.
    assert_close(loss.float(), expected, atol=1e-6, rtol=0)
    loss.backward()  # type: ignore[no-untyped-call]
    expected.backward()
    for name, parameter in causal.model.named_parameters():
        assert_close(scorer.model.get_parameter(name).grad, parameter.grad, atol=1e-6, rtol=0)
    assert language.loss(rows[2:], rows) is None


def test_where_output_embeddings_are_not_tied_the_language_models_are_used_and_a_reward_model_has_none(
    tmp_path: Path, write_rows: Any
) -> None:
    untied = load_causal(str(make_tiny_model(tmp_path / "tied")), torch.float64)
    untied.config.tie_word_embeddings = False
    untied.lm_head.weight = torch.nn.Parameter(2 * untied.lm_head.weight.detach())
    untied.save_pretrained(tmp_path / "untied")
    load_tokenizer(str(tmp_path / "tied")).save_pretrained(tmp_path / "untied")
    config = RewardConfig(model=str(tmp_path / "untied"), train="t", lm_coef=1.0, dtype="float64")
    scorer, causal = load_scorer(config.model, torch.float64), load_causal(config.model, torch.float64)
    rows = comparisons_of(tmp_path / "tied", write_rows)[:1]
    loss = ChosenLanguage(config, scorer, 1, was_scorer=False).loss(rows, rows)
    text = torch.tensor([rows[0].texts[0]])
    logprobs = causal(input_ids=text).logits.log_softmax(-1)[0, :-1].gather(-1, text[0, 1:, None])
    assert loss is not None
    assert float(loss.detach()) == pytest.approx(-float(logprobs[-4:].detach().mean()))
    with pytest.raises(ConfigError, match="lm_coef: 0"):
        ChosenLanguage(config, scorer, 1, was_scorer=True)


def test_a_pair_turned_round_turns_its_answers_too_and_a_cut_text_keeps_a_token_before_its_answer(
    tiny: Path, write_rows: Any
) -> None:
    pair = comparisons_of(tiny, write_rows)[0]
    assert pair.answers == (4, 5)
    turned = split_best(pair.turned())
    assert turned is not None
    assert turned[1] == pair.texts[1][-5:]
    cut = comparisons_of(tiny, write_rows, max_length=3)[0]
    assert cut.answers == (2, 2)


def test_a_centred_reward_model_scores_validation_answers_0_on_the_mean(
    tiny: Path, preferences: str, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    settings = {"model": tiny, "train": preferences, "validation": preferences, "centre_scores": "true", "lr": 1e-2,
                "epochs": 1, "threads": 1, "dtype": "float32", "lm_coef": 0.1}  # fmt: skip
    assert main(["reward", "--output", str(out), *(f"--set={k}={v}" for k, v in settings.items())]) == 0
    rows = [json.loads(line) for line in Path(preferences).read_text().splitlines()]
    answers = [(row["prompt"], row[side]) for row in rows for side in ("chosen", "rejected")]
    reward = ModelReward(str(out), "float32", 16)
    scores = reward([[{"role": "user", "content": prompt}] for prompt, _ in answers], [text for _, text in answers])
    assert sum(scores) / len(scores) == pytest.approx(0.0, abs=1e-6)
    assert abs(reward.mean) > 1e-3
    # What others load is the model as it was trained: the mean stands beside it, in its config.
    theirs = AutoModelForSequenceClassification.from_pretrained(out / "model")
    assert theirs.config.scores_mean == reward.mean
    lines = [json.loads(line) for line in (out / "progress.jsonl").read_text().splitlines()]
    assert lines[-1]["loss/language"] < lines[0]["loss/language"]
