"""Batches cut into what one pass holds: gradients add up to the batch's, so a cut changes time and memory alone."""

from collections.abc import Sequence

from training.config import OptimiserConfig


def microbatches(config: OptimiserConfig, lengths: Sequence[int], texts: Sequence[int] | None = None
                 ) -> list[list[int]]:  # fmt: skip
    """Return the places of a batch's rows for one pass each, as micro_batch and micro_tokens bound them.

    With a bound on tokens rows of like length are together, so that little of it is padding. One row is a pass whatever
    its size.

    Args:
        lengths: the tokens of each row, of the longest text where it has several.
        texts: how many texts each row has; 1 where none is given.
    """
    places = range(len(lengths))
    cut: list[list[int]] = []
    for place in sorted(places, key=lambda each: lengths[each]) if config.micro_tokens else places:
        piece = [*cut[-1], place] if cut else []
        cells = sum(texts[each] if texts else 1 for each in piece) * max((lengths[each] for each in piece), default=0)
        fits = not config.micro_batch or len(piece) <= config.micro_batch
        if piece and fits and (not config.micro_tokens or cells <= config.micro_tokens):
            cut[-1] = piece
        else:
            cut.append([place])
    return cut
