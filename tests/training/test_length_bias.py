"""A reward that follows length is found out, beside annotators who follow it less."""

import pytest
import torch
from scipy import stats

from training.length_bias import length_bias
from training.records import Messages, PreferenceRow


def row(chosen: int, rejected: int) -> PreferenceRow:
    ours: Messages = [{"role": "assistant", "content": "a" * chosen}]
    theirs: Messages = [{"role": "assistant", "content": "a" * rejected}]
    return PreferenceRow([], ours, theirs)


ROWS = [row(4, 2), row(5, 1), row(2, 6), row(3, 3), row(1, 2)]
LENGTHS = [4, 5, 2, 3, 1, 2, 1, 6, 3, 2]


def test_a_reward_of_length_alone_prefers_every_longer_answer_and_is_wrong_where_the_shorter_was_chosen() -> None:
    found = length_bias(ROWS, torch.tensor([4.0, 5, 2, 3, 1]), torch.tensor([2.0, 1, 6, 3, 2]))
    assert found["reward/length_pearson"] == pytest.approx(1.0)
    assert found["reward/length_spearman"] == pytest.approx(1.0)
    # Of five pairs one is of equal length; annotators chose the longer in two of the other four.
    assert found["reward/longer_preferred"] == 1.0
    assert found["reward/longer_chosen"] == 0.5
    assert found["reward/accuracy_longer_chosen"] == 1.0
    assert found["reward/accuracy_shorter_chosen"] == 0.0
    assert found["reward/n_shorter_chosen"] == 2


def test_correlations_are_scipys_ties_and_all_and_equal_scores_are_half() -> None:
    chosen, rejected = torch.tensor([0.5, -1.0, 2.0, 0.0, 0.5]), torch.tensor([0.5, 3.0, 1.0, 0.0, -2.0])
    found = length_bias(ROWS, chosen, rejected)
    scores = torch.cat([chosen, rejected]).tolist()
    assert found["reward/length_pearson"] == pytest.approx(stats.pearsonr(scores, LENGTHS)[0])
    assert found["reward/length_spearman"] == pytest.approx(stats.spearmanr(scores, LENGTHS)[0])
    # Longer answers: half of the first pair, none of the second, third and fifth.
    assert found["reward/longer_preferred"] == 0.125
    assert found["reward/accuracy_shorter_chosen"] == 1.0


def test_what_cannot_be_said_is_left_out() -> None:
    found = length_bias([row(2, 2)], torch.tensor([1.0]), torch.tensor([0.0]))
    assert found == {"reward/n_shorter_chosen": 0.0}
