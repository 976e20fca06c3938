"""The export formats by name."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import pyarrow

from feedback_app.datasets.exporting.pairs import PairRules
from feedback_app.datasets.exporting.source import ExportTask
from feedback_app.datasets.formats import implicit, judgments, oasst, preference, ranked, ratings, sft, unpaired

Lines = Callable[[Sequence[ExportTask], PairRules], Iterator[str]]


@dataclass(frozen=True)
class ExportFormat:
    """A format: its rows as JSON lines from the judged tasks of one prompt, and their types.

    schema_of: the file's columns, given the project's attributes.
    default_split: a trainer would train on whatever its file holds, so its file holds the train split alone.
    as_given: it tells the judgments themselves, whatever a reviewer said of their task.
    as_text: fields inside of rows that typed files carry as JSON text, for their keys differ from row to row.
    """

    lines: Lines
    schema_of: Callable[[Sequence[str]], pyarrow.Schema]
    default_split: str = "train"
    as_text: tuple[str, ...] = ()
    as_given: bool = False


def _fixed(schema: pyarrow.Schema) -> Callable[[Sequence[str]], pyarrow.Schema]:
    return lambda attributes: schema


EXPORT_FORMATS: dict[str, ExportFormat] = {
    "judgments": ExportFormat(judgments.lines, _fixed(judgments.SCHEMA), "all", judgments.AS_TEXT, as_given=True),
    "preference": ExportFormat(preference.lines, _fixed(preference.SCHEMA)),
    "implicit": ExportFormat(implicit.lines, _fixed(implicit.SCHEMA)),
    "unpaired": ExportFormat(unpaired.lines, _fixed(unpaired.SCHEMA)),
    "ranked": ExportFormat(ranked.lines, _fixed(ranked.SCHEMA)),
    "ratings": ExportFormat(ratings.lines, ratings.schema_of),
    "sft": ExportFormat(sft.lines, _fixed(sft.SCHEMA)),
    "oasst": ExportFormat(oasst.lines, _fixed(oasst.SCHEMA), as_text=oasst.AS_TEXT),
}
