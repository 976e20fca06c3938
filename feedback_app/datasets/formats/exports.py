"""The export formats by name."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import pyarrow

from feedback_app.datasets.exporting.pairs import PairRules
from feedback_app.datasets.exporting.source import ExportTask
from feedback_app.datasets.formats import judgments, preference

Lines = Callable[[Sequence[ExportTask], PairRules], Iterator[str]]


@dataclass(frozen=True)
class ExportFormat:
    """A format: its rows as JSON lines from the judged tasks of one prompt, their types, and its own split.

    schema: of the file's columns; a ratings file has those of the project's attributes besides (see schema_of).
    default_split: a trainer would train on whatever its file holds, so its file holds the train split alone.
    as_text: fields inside of rows that typed files carry as JSON text, for their keys differ from row to row.
    """

    lines: Lines
    schema: pyarrow.Schema
    default_split: str = "train"
    as_text: tuple[str, ...] = ()


EXPORT_FORMATS: dict[str, ExportFormat] = {
    "judgments": ExportFormat(judgments.lines, judgments.SCHEMA, "all", judgments.AS_TEXT),
    "preference": ExportFormat(preference.lines, preference.SCHEMA),
}
