"""The reward stage: what its loss is, which weights it keeps, and that no validation prompt is trained on."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.testing import assert_close

from training.accuracy import accuracy_metrics, longer_wins
from training.comparisons import split_by_prompt
from training.config import RewardConfig
from training.ranking import listwise_loss, pairwise_loss
from training.records import DataError, PreferenceRow, read_judged
from training.reward import RewardTraining
from training.statistics import mean_interval

PAIR = {"prompt": "hi", "chosen": "aa", "rejected": "xyz"}


@pytest.fixture
def make_training(tiny: Path, write_rows: Any) -> Any:
    def make(rows: list[dict[str, Any]], **settings: Any) -> RewardTraining:
        torch.manual_seed(0)
        train, held = write_rows("train.jsonl", rows), write_rows("held.jsonl", [PAIR | {"prompt": "held"}])
        base: dict[str, Any] = {"dtype": "float64", "batch": 8, "validation": held}
        training = RewardTraining(RewardConfig(model=str(tiny), train=train, **(base | settings)))
        torch.nn.init.normal_(training.model.score.weight)
        return training

    return make


def test_the_first_scores_are_all_0_for_a_language_model_has_no_opinion_yet(tiny: Path, preferences: str) -> None:
    training = RewardTraining(RewardConfig(model=str(tiny), train=preferences))
    for scores in training.scores(training.train[:4]):
        assert not scores.any()


def test_the_loss_is_the_weighted_mean_of_pairs_with_their_margins(make_training: Any) -> None:
    rows = [PAIR | {"margin": 1 / 3, "weight": 1.0}, PAIR | {"chosen": "b", "margin": 1.0, "weight": 3.0}]
    training = make_training(rows, use_margin=True, label_smoothing=0.1, centre_coef=0.5)
    scores = training.scores(training.train)
    differences = [float((s[0] - s[1]).detach()) for s in scores]
    # Margins of 1/3 and 1 are Llama 2's 1 and 3; weights 1 and 3 make quarters.
    each = [
        float(pairwise_loss(torch.tensor(d).double(), torch.tensor(0.0).double(), torch.tensor(m).double(), 0.1))
        for d, m in zip(differences, (1.0, 3.0), strict=True)
    ]
    centred = sum(float(s.sum()) ** 2 for s in scores) / 2
    expected = (each[0] + 3 * each[1]) / 4 + 0.5 * centred
    assert float(training.loss(training.train, scores)) == pytest.approx(expected, rel=1e-5)


def test_a_ranking_counts_as_the_choices_it_holds_and_a_pair_as_one(make_training: Any) -> None:
    ranking = {"prompt": "hi", "responses": ["a", "bb", "ccc", "dd"], "ranks": [1, 0, 1, 2]}
    training = make_training([PAIR, ranking], centre_coef=0.0)
    pair, listed = training.scores(training.train)
    expected = (pairwise_loss(pair[0], pair[1]) + listwise_loss(listed, torch.tensor([1, 0, 1, 2]))) / (1 + 3)
    assert_close(training.loss(training.train, [pair, listed]), expected)


@pytest.mark.parametrize("cut", [{"micro_batch": 1}, {"micro_batch": 3}, {"micro_tokens": 150},
                                 {"micro_batch": 2, "micro_tokens": 1}])  # fmt: skip
def test_pieces_of_a_batch_give_the_step_of_the_whole(make_training: Any, cut: dict[str, int]) -> None:
    ranking = {"prompt": "hi", "responses": ["a", "bb", "ccc", "dd"], "ranks": [1, 0, 1, 2]}
    tie = {"prompt": "hi", "responses": ["a", "b"], "ranks": [0, 0]}
    rows = [PAIR | {"weight": 2.5}, ranking, tie, PAIR | {"chosen": "b", "margin": 1.0}, PAIR | {"rejected": "e"}]
    settings = {"use_margin": True, "lr": 1e-3, "centre_coef": 0.1, "lm_coef": 0.5}
    whole, cut_up = make_training(rows, **settings), make_training(rows, **cut, **settings)
    for step in range(2):
        assert cut_up.step(step) == pytest.approx(whole.step(step), rel=1e-9)
    for ours, theirs in zip(cut_up.model.parameters(), whole.model.parameters(), strict=True):
        assert_close(ours, theirs, atol=1e-8, rtol=0)


def test_a_ranking_of_two_teaches_what_the_pair_teaches(make_training: Any) -> None:
    as_ranking = {"prompt": "hi", "responses": ["aa", "xyz"], "ranks": [0, 1]}
    turned = {"prompt": "hi", "responses": ["xyz", "aa"], "ranks": [1, 0]}
    losses = []
    for row in (PAIR, as_ranking, turned):
        training = make_training([row])
        losses.append(float(training.loss(training.train, training.scores(training.train))))
    assert losses == pytest.approx([losses[0]] * 3, rel=1e-6)


def test_rankings_are_learned_and_held_out_pairs_follow(tiny: Path, write_rows: Any) -> None:
    # Longer is better, in lists of four, one of them tied; the pairs held out are of other prompts.
    rows = [
        {"prompt": f"Say {i}", "responses": ["e" * 9, "e" * 6, "o" * 6, "e" * 2], "ranks": [0, 1, 1, 2]}
        for i in range(12)
    ]
    held = [{"prompt": f"Tell {i}", "chosen": "e" * 8, "rejected": "e" * 3} for i in range(6)]
    config = RewardConfig(model=str(tiny), train=write_rows("r.jsonl", rows), validation=write_rows("h.jsonl", held),
                          lr=5e-3, batch=4, dtype="float32", epochs=8)  # fmt: skip
    training = RewardTraining(config)
    first = training.validate(0)
    watched = [training.step(step) for step in range(training.steps)]
    last = training.validate(training.steps)
    assert last["loss/validation"] < 0.3 < first["loss/validation"]
    assert last["reward/accuracy"] == 1.0
    assert watched[-1]["reward/train_accuracy"] == 1.0
    tied = training.scores(training.train[:1])[0]
    assert abs(float(tied[1] - tied[2])) < abs(float(tied[0] - tied[3]))


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"prompt": "a", "responses": ["b"], "ranks": [0]}, "responses: 2 to 9"),
        ({"prompt": "a", "responses": ["b"] * 10, "ranks": [0] * 10}, "responses: 2 to 9"),
        ({"prompt": "a", "responses": ["b", "c"], "ranks": [0]}, "ranks: a whole number is needed for each"),
        ({"prompt": "a", "responses": ["b", "c"], "ranks": [0, 1.5]}, "ranks: a whole number"),
        ({"prompt": "a", "responses": ["b", "c"], "ranks": [0, True]}, "ranks: a whole number"),
        ({"prompt": "a", "responses": ["b", 3], "ranks": [0, 1]}, r"responses\[1\]: text"),
        ({"responses": ["b", "c"], "ranks": [0, 1]}, "prompt: text"),
    ],
)
def test_a_ranking_that_cannot_be_used_is_named(row: dict[str, Any], reason: str, write_rows: Any) -> None:
    with pytest.raises(DataError, match=rf"r\.jsonl:2: {reason}"):
        read_judged(write_rows("r.jsonl", [PAIR, row]))


def test_validation_of_ties_alone_is_refused(tiny: Path, write_rows: Any) -> None:
    ties = write_rows("t.jsonl", [{"prompt": "a", "responses": ["b", "c"], "ranks": [0, 0]}])
    config = RewardConfig(model=str(tiny), train=write_rows("p.jsonl", [PAIR]), validation=ties)
    with pytest.raises(DataError, match=r"t\.jsonl: validation has ties alone"):
        RewardTraining(config)


def rows_of(prompts: list[str]) -> list[PreferenceRow]:
    return [PreferenceRow([], [], [], prompt_id=prompt) for prompt in prompts]


def test_a_prompt_stands_on_one_side_whatever_other_rows_there_are() -> None:
    few, many = [f"p{i}" for i in range(50)], [f"p{i}" for i in range(500)]
    held = [{row.prompt_id for row in split_by_prompt(rows_of(2 * names), 0.2)[1]} for names in (few, many)]
    train, _ = split_by_prompt(rows_of(2 * many), 0.2)
    assert held[0] == held[1] & set(few)
    assert not held[1] & {row.prompt_id for row in train}
    assert 60 < len(held[1]) < 140  # 100 of 500 expected; four deviations of 9


def test_neither_side_of_a_split_is_empty_and_one_prompt_cannot_be_split() -> None:
    for share in (1e-9, 1 - 1e-9):
        train, held = split_by_prompt(rows_of(["a", "b", "c"]), share)
        assert train
        assert held
    with pytest.raises(DataError, match="two prompts"):
        split_by_prompt(rows_of(["a", "a"]), 0.5)


def test_every_epoch_takes_every_comparison_once_in_another_order(tiny: Path, preferences: str) -> None:
    training = RewardTraining(RewardConfig(model=str(tiny), train=preferences, batch=5))
    epochs = []
    for epoch in range(2):
        steps = range(epoch * training.steps_per_epoch, (epoch + 1) * training.steps_per_epoch)
        epochs.append([id(comparison) for step in steps for comparison in training.batch_at(step)])
    assert sorted(epochs[0]) == sorted(epochs[1]) == sorted(map(id, training.train))
    assert epochs[0] != epochs[1]


def test_the_weights_kept_are_the_best_by_validation_loss(make_training: Any) -> None:
    training = make_training([PAIR, PAIR])
    good = training.validate(3)["loss/validation"]
    kept = [p.detach().clone() for p in training.model.parameters()]
    with torch.no_grad():
        training.model.score.weight.mul_(-1 if training.held_scores()[0] > training.held_scores()[1] else 100)
    assert training.validate(4)["loss/validation"] > good
    assert (training.best.step, training.best.worse) == (3, 1)
    training.restore_best()
    assert all(map(torch.equal, kept, training.model.parameters()))


def test_equal_scores_are_half_right_and_calibration_is_of_the_predicted_side() -> None:
    chosen, rejected = torch.tensor([1.0, 0.0, 2.0]), torch.tensor([0.0, 0.0, 3.0])
    metrics = accuracy_metrics(chosen, rejected, ["a", "b", "c"])
    assert metrics["reward/accuracy"] == pytest.approx(0.5)
    # sigmoid(1) = 0.731 of two, one right: |0.5 - 0.731| of weight 2/3; 0.5 of the tie, half right: 0.
    assert metrics["reward/ece"] == pytest.approx(2 / 3 * 0.231059, abs=1e-5)


def test_the_length_rule_counts_characters_and_halves_ties() -> None:
    def row(chosen: str, rejected: str) -> PreferenceRow:
        sides = [[{"role": "assistant", "content": text}] for text in (chosen, rejected)]
        return PreferenceRow([], *sides)  # type: ignore[arg-type]

    assert [longer_wins(row(*pair)) for pair in (("aa", "a"), ("a", "aa"), ("a", "b"))] == [1.0, 0.0, 0.5]


def test_an_interval_is_over_prompts_not_rows() -> None:
    # A hundred rows of two prompts, one all right and one all wrong: nothing is known of the mean but that.
    values, groups = [1.0] * 50 + [0.0] * 50, ["a"] * 50 + ["b"] * 50
    assert mean_interval(values, groups) == (0.5, 0.0, 1.0)
    assert mean_interval([1.0, 0.0], ["a", "a"]) == (0.5, 0.0, 1.0)  # one prompt: the whole range
    mean, low, high = mean_interval([float(i % 2) for i in range(400)], [str(i) for i in range(400)])
    # 400 prompts: 0.5 and 1.96 * sqrt(0.25 / 400) = 0.049 to either side.
    assert mean == 0.5
    assert [low, high] == pytest.approx([0.451, 0.549], abs=0.01)
