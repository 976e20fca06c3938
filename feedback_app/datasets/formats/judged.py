"""Judged rows: prompt, responses and the judgments already made of them, ranks being indexes into the responses."""

from collections.abc import Iterable, Iterator

from feedback_app.datasets.formats.base import SourceRow


def convert(rows: Iterable[SourceRow]) -> Iterator[SourceRow]:
    """Pass the rows on: this is the form that is stored."""
    yield from rows
