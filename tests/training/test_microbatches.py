"""Batches cut for one pass each: every row once, within its bounds, those of like length together."""

from hypothesis import given
from hypothesis import strategies as st

from training.config import SFTConfig
from training.microbatches import microbatches


def config(micro_batch: int = 0, micro_tokens: int = 0) -> SFTConfig:
    return SFTConfig(model="m", train="t", micro_batch=micro_batch, micro_tokens=micro_tokens)


def test_without_a_bound_a_batch_is_one_pass_in_its_order() -> None:
    assert microbatches(config(), [5, 1, 3]) == [[0, 1, 2]]
    assert microbatches(config(), []) == []


def test_rows_are_counted_and_tokens_with_their_padding() -> None:
    assert microbatches(config(micro_batch=2), [5, 1, 3]) == [[0, 1], [2]]
    # Shortest first: 1 and 3 are 2 rows of 3; 5 with them would be 3 rows of 5, that is 15.
    assert microbatches(config(micro_tokens=14), [5, 1, 3]) == [[1, 2], [0]]
    assert microbatches(config(micro_tokens=15), [5, 1, 3]) == [[1, 2, 0]]
    # Rows of two texts each fill twice as much, and one too large for the bound is a pass by itself.
    assert microbatches(config(micro_tokens=15), [5, 1, 3], [2, 2, 2]) == [[1, 2], [0]]
    assert microbatches(config(micro_tokens=2), [5, 1, 3]) == [[1], [2], [0]]
    # Pairs of 2, 3 and 3 are six texts of 3 cells; with 9 they would be eight of 9. 20 is too long, and alone.
    assert microbatches(config(micro_tokens=20), [9, 2, 3, 20, 3], [2] * 5) == [[1, 2, 4], [0], [3]]
    assert microbatches(config(micro_batch=2), [9, 2, 3, 20, 3], [2] * 5) == [[0, 1], [2, 3], [4]]


@given(st.lists(st.integers(1, 40), max_size=30), st.integers(0, 5), st.integers(0, 90))
def test_every_row_is_in_one_pass_within_the_bounds(lengths: list[int], rows: int, tokens: int) -> None:
    cut = microbatches(config(rows, tokens), lengths)
    assert sorted(place for piece in cut for place in piece) == list(range(len(lengths)))
    for piece in cut:
        assert not rows or len(piece) <= rows
        assert not tokens or len(piece) == 1 or len(piece) * max(lengths[place] for place in piece) <= tokens
