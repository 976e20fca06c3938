"""Rows out of a file of any size, trusted in nothing: bounded memory, and a line number for whatever is wrong."""

import csv
import gzip
import io
import json
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import pyarrow
import pyarrow.parquet

from feedback_app.datasets.csv_cells import read_cell
from feedback_app.datasets.formats.base import FileRefused, SourceRow
from feedback_app.datasets.json_values import parse_json, refuse_constant

LONGEST_ROW = 16 * 2**20
CHUNK = 2**18
# JSON packs to a tenth or so; what unpacks to far more than that is made to fill a memory or a disk.
BOMB_FREE = 256 * 2**20
BOMB_RATIO = 200
DEEPEST = 100


class RowReader:
    """Reads a file's rows one by one; the first bytes say what it is, the name only tells CSV from JSON."""

    def __init__(self, path: Path, *, name: str = "") -> None:
        self.path = path
        self.name = (name or path.name).lower().removesuffix(".gz")
        self.bytes_total = path.stat().st_size
        self._file: IO[bytes] | None = None

    @property
    def bytes_read(self) -> int:
        """How far into the stored (compressed) file the reading is, for a progress bar."""
        return min(self._file.tell(), self.bytes_total) if self._file and not self._file.closed else self.bytes_total

    def __iter__(self) -> Iterator[SourceRow]:
        with self.path.open("rb") as self._file:
            head = self._file.read(4)
            self._file.seek(0)
            if head == b"PAR1":
                yield from _read_parquet(self._file)
                return
            plain: Any = _Unpacked(self._file, self.bytes_total) if head[:2] == b"\x1f\x8b" else self._file
            stream = io.BufferedReader(plain, CHUNK) if isinstance(plain, io.RawIOBase) else plain
            try:
                yield from self._read_text(stream)
            except (EOFError, zlib.error, gzip.BadGzipFile) as error:
                raise FileRefused(f"the gzip file is damaged or ends in the middle: {error}") from error

    def _read_text(self, stream: io.BufferedReader) -> Iterator[SourceRow]:
        head = stream.peek(4)[:4]
        if head[:2] in (b"\xff\xfe", b"\xfe\xff"):
            raise FileRefused("the file is UTF-16; UTF-8 is needed")
        if head[:4] == b"PK\x03\x04":
            raise FileRefused("the file is a zip archive: unpack it, or use gzip")
        if head[:3] == b"\xef\xbb\xbf":
            stream.read(3)
        if self.name.endswith((".csv", ".tsv")):
            return _read_csv(stream, "\t" if self.name.endswith(".tsv") else ",")
        if stream.peek(CHUNK).lstrip()[:1] == b"[":
            return _read_array(stream)
        return _read_lines(stream)


class _Unpacked(io.RawIOBase):
    """A gzip file's content, up to what honest content may come to."""

    def __init__(self, file: IO[bytes], packed: int) -> None:
        self._gzip = gzip.GzipFile(fileobj=file)
        self._most = max(BOMB_FREE, BOMB_RATIO * packed)
        self._given = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        count = self._gzip.readinto(buffer)
        self._given += count
        if self._given > self._most:
            raise FileRefused(f"the gzip file unpacks to more than {self._most} bytes: refused as a bomb")
        return count


def _read_lines(stream: io.BufferedReader) -> Iterator[SourceRow]:
    line = 0
    while raw := stream.readline(LONGEST_ROW + 1):
        line += 1
        if len(raw) > LONGEST_ROW and not raw.endswith(b"\n"):
            _skip_line(stream)
            yield SourceRow(line, problem=f"the line is longer than {LONGEST_ROW // 2**20} MB")
        elif not raw.isspace():
            yield _parse_row(line, raw)


def _skip_line(stream: io.BufferedReader) -> None:
    while (piece := stream.readline(CHUNK)) and not piece.endswith(b"\n"):
        pass


def _parse_row(line: int, raw: bytes) -> SourceRow:
    try:
        return SourceRow(line, parse_json(raw.decode()))
    except UnicodeDecodeError as error:
        return SourceRow(line, problem=f"not UTF-8 at byte {error.start + 1} of the line")
    except ValueError as error:
        return SourceRow(line, problem=f"not JSON: {error}")


def _read_array(stream: io.BufferedReader) -> Iterator[SourceRow]:
    """Yield the items of one JSON array; an item's number is the line on which it begins."""
    text = io.TextIOWrapper(stream, encoding="utf-8")
    decoder = json.JSONDecoder(parse_constant=refuse_constant)
    buffer, line, started = "", 1, False
    while True:
        stripped = buffer.lstrip(" \t\r\n," if started else " \t\r\n")
        line += buffer.count("\n", 0, len(buffer) - len(stripped))
        buffer = stripped
        if not started and buffer:
            buffer, started = buffer[1:], True
            continue
        if buffer.startswith("]"):
            return
        if not buffer:
            buffer = _more_text(text)
            if not buffer:
                raise FileRefused(f"line {line}: the file ends inside its array")
            continue
        item, buffer, taken = _next_item(decoder, buffer, text, line)
        yield SourceRow(line, item)
        line += taken.count("\n")


def _next_item(decoder: json.JSONDecoder, buffer: str, text: io.TextIOWrapper, line: int) -> tuple[Any, str, str]:
    """Return the item at the buffer's start, what follows it, and its text; reads on, doubling, until it is whole."""
    while True:
        try:
            item, end = decoder.raw_decode(buffer)
            if end < len(buffer):  # a number at the very end of what was read may have more digits
                return item, buffer[end:], buffer[:end]
            reason = "the file ends inside its array"
        except RecursionError:
            raise FileRefused(f"line {line}: nested too deeply") from None
        except ValueError as error:
            reason = f"not JSON: {error}"
        if len(buffer) > LONGEST_ROW:
            raise FileRefused(f"line {line}: an item is longer than {LONGEST_ROW // 2**20} MB, or {reason}")
        more = _more_text(text, max(CHUNK, len(buffer)))
        if not more:
            raise FileRefused(f"line {line}: {reason}")
        buffer += more


def _more_text(text: io.TextIOWrapper, count: int = CHUNK) -> str:
    try:
        return text.read(count)
    except UnicodeDecodeError as error:
        raise FileRefused(f"not UTF-8: {error.reason}") from error


def _read_csv(stream: io.BufferedReader, delimiter: str) -> Iterator[SourceRow]:
    csv.field_size_limit(LONGEST_ROW)
    lines = _csv_lines(stream)
    reader = csv.reader(lines, delimiter=delimiter, strict=True)
    try:
        header = [name.strip() for name in next(reader, [])]
        if len(set(header)) != len(header):
            raise FileRefused("line 1: a column's name stands twice")
        before = reader.line_num
        for cells in reader:
            line, before = before + 1, reader.line_num
            if not cells:
                continue
            if len(cells) != len(header):
                yield SourceRow(line, problem=f"{len(cells)} cells where the header has {len(header)}")
            else:
                yield SourceRow(line, dict(zip(header, map(read_cell, cells), strict=True)))
    except csv.Error as error:
        raise FileRefused(f"line {reader.line_num}: {error}") from error


def _csv_lines(stream: io.BufferedReader) -> Iterator[str]:
    number = 0
    while raw := stream.readline(LONGEST_ROW + 1):
        number += 1
        if len(raw) > LONGEST_ROW and not raw.endswith(b"\n"):
            raise FileRefused(f"line {number}: longer than {LONGEST_ROW // 2**20} MB")
        try:
            yield raw.decode()
        except UnicodeDecodeError as error:
            raise FileRefused(f"line {number}: not UTF-8 at byte {error.start + 1} of the line") from error


def _read_parquet(file: IO[bytes]) -> Iterator[SourceRow]:
    """Yield the rows of a Parquet file, numbered from 1."""
    number = 0
    try:
        parquet = pyarrow.parquet.ParquetFile(file)
        for batch in parquet.iter_batches(batch_size=1000):
            for value in batch.to_pylist():
                number += 1
                yield SourceRow(number, value)
    except (pyarrow.ArrowException, OSError) as error:
        raise FileRefused(f"the Parquet file is damaged after row {number}: {error}") from error
