"""JSON lines into files of a type: as they are, as typed Parquet, or as CSV that no spreadsheet takes for a formula."""

import csv
import io
import json
from collections.abc import Iterable, Iterator
from typing import Any

import pyarrow
import pyarrow.json
import pyarrow.parquet

from feedback_app.datasets.csv_cells import write_cell

FILE_TYPES = {
    "jsonl": "application/jsonl",
    "parquet": "application/vnd.apache.parquet",
    "csv": "text/csv; charset=utf-8",
}
# Rows of one piece, which is a row group in Parquet.
PIECE = 1000
# JSON lines are sent on while the processor still has them at hand.
PIECE_OF_LINES = 100
# Characters of one piece, or one row more.
PIECE_SIZE = 8 * 2**20


def write_pieces(
    lines: Iterable[str], *, file_type: str, schema: pyarrow.Schema, as_text: tuple[str, ...] = ()
) -> Iterator[bytes]:
    """Yield a file's bytes piece by piece, of JSON lines that fit the schema."""
    rows = iter(lines)
    if file_type == "jsonl":
        for piece in _pieces(rows, PIECE_OF_LINES):
            piece.append("")  # ends the last line
            yield "\n".join(piece).encode()
    elif file_type == "parquet":
        yield from _parquet_pieces(rows, schema, as_text)
    else:
        yield from _csv_pieces(rows, schema)


def _pieces(rows: Iterator[str], most: int) -> Iterator[list[str]]:
    """Group rows by number and by size: what is held of them at once is bounded, however long they are."""
    piece: list[str] = []
    size = 0
    for row in rows:
        piece.append(row)
        size += len(row)
        if len(piece) >= most or size >= PIECE_SIZE:
            yield piece
            piece, size = [], 0
    if piece:
        yield piece


def _parquet_pieces(rows: Iterator[str], schema: pyarrow.Schema, as_text: tuple[str, ...]) -> Iterator[bytes]:
    sink = Drain()
    with pyarrow.parquet.ParquetWriter(sink, schema, compression="zstd") as writer:
        for piece in _pieces(rows, PIECE):
            writer.write_table(_table(piece, schema, as_text), row_group_size=PIECE)
            if taken := sink.take():
                yield taken
    if taken := sink.take():
        yield taken


def _table(piece: list[str], schema: pyarrow.Schema, as_text: tuple[str, ...]) -> pyarrow.Table:
    if as_text:
        values = [_with_texts(json.loads(line), as_text) for line in piece]
        return pyarrow.Table.from_pylist(values, schema=schema)
    content = "\n".join(piece).encode()
    return pyarrow.json.read_json(
        io.BytesIO(content),
        read_options=pyarrow.json.ReadOptions(block_size=len(content) + 1, use_threads=False),
        parse_options=pyarrow.json.ParseOptions(explicit_schema=schema, unexpected_field_behavior="error"),
    ).select(schema.names)


def _with_texts(value: Any, as_text: tuple[str, ...]) -> Any:
    """Return a value with every object under one of the names written as JSON text."""
    if isinstance(value, dict):
        return {
            name: json.dumps(part, ensure_ascii=False) if name in as_text else _with_texts(part, as_text)
            for name, part in value.items()
        }
    return [_with_texts(part, as_text) for part in value] if isinstance(value, list) else value


def _csv_pieces(rows: Iterator[str], schema: pyarrow.Schema) -> Iterator[bytes]:
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerow(schema.names)
    for piece in _pieces(rows, PIECE):
        for line in piece:
            values = json.loads(line)
            writer.writerow([write_cell(values.get(name)) for name in schema.names])
        yield text.getvalue().encode()
        text.seek(0)
        text.truncate()
    yield text.getvalue().encode()  # the header of no rows


class Drain(io.RawIOBase):
    """A file for a writer, emptied as it fills, so that a file of any size passes through in little memory."""

    def __init__(self) -> None:
        self._held: list[bytes] = []
        self._length = 0

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        self._held.append(bytes(data))
        self._length += len(data)
        return len(data)

    def tell(self) -> int:
        return self._length

    def take(self) -> bytes:
        taken = b"".join(self._held)
        self._held.clear()
        return taken
