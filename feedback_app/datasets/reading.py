"""Rows out of a file of any size, trusted in nothing: bounded memory, and a line number for whatever is wrong."""

import codecs
import csv
import gzip
import io
import json
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from django.utils.translation import gettext as _
from django.utils.translation import gettext_noop

from feedback_app.datasets.csv_cells import read_cell
from feedback_app.datasets.encodings import CHUNK, Utf8Text, as_utf8, tell_broken
from feedback_app.datasets.formats.base import BOMB_FREE, BOMB_RATIO, LONGEST_ROW, FileRefused, SourceRow
from feedback_app.datasets.json_values import check_count, check_depth, explain, parse_json, refuse_constant
from feedback_app.datasets.parquet import read_parquet

# A file of more empty lines than these, nine of ten lines, is made to keep a worker busy.
MOST_BLANK = 1_000_000
# What a file of another kind begins with, and what to say of it.
OTHER_FILES = {
    codecs.BOM_UTF32_LE: gettext_noop("the file is UTF-32; UTF-8 or UTF-16 is needed"),
    codecs.BOM_UTF32_BE: gettext_noop("the file is UTF-32; UTF-8 or UTF-16 is needed"),
    b"PK\x03\x04": gettext_noop(
        "the file is a zip archive or an Excel workbook: unpack it, use gzip, or save it as CSV UTF-8"
    ),
    b"BZh": gettext_noop("the file is packed with bzip2: unpack it, or use gzip"),
    b"\xfd7zXZ": gettext_noop("the file is packed with xz: unpack it, or use gzip"),
    b"\x28\xb5\x2f\xfd": gettext_noop("the file is packed with zstd: unpack it, or use gzip"),
    b"\xd0\xcf\x11\xe0": gettext_noop("the file is an old Excel workbook: save it as CSV UTF-8"),
}


class RowReader:
    """Reads a file's rows one by one; the first bytes say what it is, the name only tells CSV from JSON."""

    def __init__(self, path: Path, *, name: str = "") -> None:
        self.path = path
        self.name = (name or path.name).lower().removesuffix(".gz")
        self.bytes_total = path.stat().st_size
        # Of all rows so far, unpacked: what those that are held in memory weigh.
        self.unpacked = 0
        self._file: IO[bytes] | None = None

    @property
    def bytes_read(self) -> int:
        """How far into the stored (compressed) file the reading is, for a progress bar."""
        return min(self._file.tell(), self.bytes_total) if self._file and not self._file.closed else self.bytes_total

    def __iter__(self) -> Iterator[SourceRow]:
        for row in self._rows():
            self.unpacked += row.size
            yield row

    def _rows(self) -> Iterator[SourceRow]:
        if not self.bytes_total:
            raise FileRefused(_("the file is empty"))
        with self.path.open("rb") as self._file:
            head = self._file.read(4)
            self._file.seek(0)
            if head == b"PAR1":
                yield from read_parquet(self._file)
                return
            plain: Any = _Unpacked(self._file, self.bytes_total) if head[:2] == b"\x1f\x8b" else self._file
            stream = io.BufferedReader(plain, CHUNK) if isinstance(plain, io.RawIOBase) else plain
            try:
                yield from self._read_text(stream)
            except (EOFError, zlib.error, gzip.BadGzipFile) as error:
                raise FileRefused(
                    _("the gzip file is damaged or ends in the middle: %(error)s")
                    % {"error": _("it ends too early") if isinstance(error, EOFError) else error}
                ) from error

    def _read_text(self, stream: io.BufferedReader) -> Iterator[SourceRow]:
        head = stream.peek(8)[:8]
        for start, reason in OTHER_FILES.items():
            if head.startswith(start):
                raise FileRefused(_(reason))
        stream = as_utf8(stream)
        start = stream.peek(CHUNK)
        if b"\x00" in start[:2]:
            raise FileRefused(_("the file begins with a NUL byte: it is no text in UTF-8"))
        first = start.lstrip()[:1]
        if self.name.endswith((".csv", ".tsv")):
            return _read_csv(stream, "\t" if self.name.endswith(".tsv") else "")
        if self.name.endswith(".txt") and first not in (b"[", b"{"):  # Excel's "Unicode text"
            return _read_csv(stream, "\t")
        return _read_array(stream) if first == b"[" else _read_lines(stream)


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
            raise FileRefused(
                _("the gzip file unpacks to more than %(most)s bytes: refused as a bomb") % {"most": self._most}
            )
        return count


def _read_lines(stream: io.BufferedReader) -> Iterator[SourceRow]:
    line = blank = 0
    while raw := stream.readline(LONGEST_ROW + 1):
        line += 1
        if len(raw) > LONGEST_ROW and not raw.endswith(b"\n"):
            _skip_line(stream)
            yield SourceRow(line, problem=_("the line is longer than %(size)s MB") % {"size": LONGEST_ROW // 2**20})
        elif not raw.isspace():
            yield _parse_row(line, raw)
        else:
            blank += 1
            _refuse_blank(blank, line)


def _refuse_blank(blank: int, line: int) -> None:
    if blank > MOST_BLANK and blank > 0.9 * line:
        raise FileRefused(_line_says(line, _("next to nothing but empty lines so far")))


def _skip_line(stream: io.BufferedReader) -> None:
    while (piece := stream.readline(CHUNK)) and not piece.endswith(b"\n"):
        pass


def _parse_row(line: int, raw: bytes) -> SourceRow:
    try:
        return SourceRow(line, parse_json(raw.decode()), size=len(raw))
    except UnicodeDecodeError as error:
        return SourceRow(line, problem=tell_broken(error))
    except ValueError as error:
        return SourceRow(line, problem=_("not JSON: %(error)s") % {"error": error})


def _read_array(stream: io.BufferedReader) -> Iterator[SourceRow]:
    """Yield the items of one JSON array; an item's number is the line on which it begins."""
    text = Utf8Text(stream)
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
            buffer = text.read()
            if not buffer:
                raise FileRefused(_line_says(line, _("the file ends inside its array")))
            continue
        item, buffer, taken = _next_item(decoder, buffer, text, line)
        try:
            check_depth(item)
            yield SourceRow(line, item, size=len(taken))
        except ValueError as error:
            yield SourceRow(line, problem=str(error))
        line += taken.count("\n")


def _next_item(decoder: json.JSONDecoder, buffer: str, text: Utf8Text, line: int) -> tuple[Any, str, str]:
    """Return the item at the buffer's start, what follows it, and its text; reads on, doubling, until it is whole."""
    while True:
        try:
            check_count(buffer)  # longer than a piece, it is one item for the most part
        except ValueError as error:
            raise FileRefused(_line_says(line, str(error))) from None
        try:
            item, end = decoder.raw_decode(buffer)
        except RecursionError:
            raise FileRefused(_line_says(line, _("nested too deeply"))) from None
        except ValueError as error:
            reason = _("not JSON: %(error)s") % {"error": explain(error)}
        else:
            if end < len(buffer):  # a number at the very end of what was read may have more digits
                return item, buffer[end:], buffer[:end]
            reason = _("the file ends inside its array")
        if len(buffer) > LONGEST_ROW:
            raise FileRefused(
                _("line %(line)s: an item is longer than %(size)s MB, or %(reason)s")
                % {"line": line, "size": LONGEST_ROW // 2**20, "reason": reason}
            )
        more = text.read(max(CHUNK, len(buffer)))
        if not more:
            raise FileRefused(_line_says(line, reason))
        buffer += more


def _line_says(line: int, reason: str) -> str:
    return _("line %(line)s: %(reason)s") % {"line": line, "reason": reason}


def _read_csv(stream: io.BufferedReader, delimiter: str) -> Iterator[SourceRow]:
    csv.field_size_limit(LONGEST_ROW)
    # Half of Europe's spreadsheets write semicolons, and some say so in a line of its own.
    first = stream.peek(CHUNK).split(b"\n", 1)[0].rstrip(b"\r")
    said = first[4:].decode("ascii", "replace") if first.startswith(b"sep=") and len(first) == 5 else ""
    if said:
        stream.readline()
    delimiter = delimiter or said or max(",;\t", key=lambda mark: first.count(mark.encode()))
    lines = _CsvLines(stream, 1 if said else 0)
    reader = csv.reader(lines, delimiter=delimiter, strict=True)
    try:
        header = [name.strip() for name in next(reader, [])]
        if len(set(header)) != len(header):
            raise FileRefused(_("line 1: a column's name stands twice"))
        skipped = 1 if said else 0
        before, blank = reader.line_num, 0
        for cells in reader:
            line, before = before + 1 + skipped, reader.line_num
            lines.row = 0
            if not cells:
                blank += 1
                _refuse_blank(blank, line)
                continue
            if len(cells) != len(header):
                yield SourceRow(
                    line,
                    problem=_("%(number)s cells where the header has %(columns)s")
                    % {"number": len(cells), "columns": len(header)},
                )
            else:
                yield SourceRow(line, dict(zip(header, map(read_cell, cells), strict=True)), size=sum(map(len, cells)))
    except csv.Error as error:
        raise FileRefused(_line_says(reader.line_num, _of_csv(str(error)))) from error


def _of_csv(said: str) -> str:
    """Return what Python says of a CSV file in the reader's language."""
    if "unexpected end of data" in said:
        return _("unexpected end of data")
    if "field larger" in said:
        return _("a cell is longer than %(size)s MB") % {"size": LONGEST_ROW // 2**20}
    if "expected after" in said:
        return _("a quotation mark inside of a quoted cell is not doubled")
    if "new-line character" in said:
        return _("a lone carriage return stands in a cell without quotation marks")
    return said


class _CsvLines:
    """The lines of a CSV file; a row may have many of them, in quoted cells, and is held until it is whole."""

    def __init__(self, stream: io.BufferedReader, number: int) -> None:
        self._stream, self._number = stream, number
        # Bytes of the row that is being read; whoever takes a row sets it back.
        self.row = 0

    def __iter__(self) -> Iterator[str]:
        while raw := self._stream.readline(LONGEST_ROW + 1):
            self._number += 1
            self.row += len(raw)
            if self.row > LONGEST_ROW:
                raise FileRefused(
                    _("line %(number)s: longer than %(size)s MB")
                    % {"number": self._number, "size": LONGEST_ROW // 2**20}
                )
            try:
                yield raw.decode()
            except UnicodeDecodeError as error:
                raise FileRefused(_line_says(self._number, tell_broken(error))) from error
