"""The interval of a win rate that is looked at after every verdict."""

import random
from functools import cache

import pytest

from feedback_app.rounds.win_rate import running_interval


def test_the_interval_is_where_the_mixture_is_less_than_twenty_times_as_likely_as_the_mean() -> None:
    # Eight wins of eight: the uniform mixture gives 1 / 9, a mean p gives p ** 8. They are 20 apart at 180 ** (-1 / 8).
    low, high = running_interval([1.0] * 8)
    assert low == pytest.approx(180 ** (-1 / 8), abs=1e-5)
    assert high == 1
    # Losses mirror wins, and before the first verdict nothing is known.
    assert running_interval([0.0] * 8)[0] == 0
    assert running_interval([0.0] * 8)[1] == pytest.approx(1 - low, abs=1e-5)
    assert running_interval([]) == (0.0, 1.0)


def test_two_ties_weigh_like_a_win_and_a_loss() -> None:
    assert running_interval([0.5] * 20) == pytest.approx(running_interval([1.0, 0.0] * 10))


def test_between_equal_policies_hardly_any_of_a_hundred_looks_decides() -> None:
    @cache
    def decides(wins: int, looks: int) -> bool:
        low, high = running_interval([1.0] * wins + [0.0] * (looks - wins))
        return low >= 0.5 or high < 0.5

    chance = random.Random(1)
    wrong = 0
    for _ in range(400):
        wins, decided = 0, False
        for looks in range(1, 101):
            wins += chance.random() < 0.5
            decided = decided or decides(wins, looks)
        wrong += decided
    # At most 5 % by Ville's inequality: 20 of 400, and three standard errors of sqrt(400 * 0.05 * 0.95) = 4.4 above it.
    assert wrong <= 33
