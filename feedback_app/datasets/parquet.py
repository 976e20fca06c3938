"""Rows out of a Parquet file: what repeats stays a reference until it is known how much it comes to."""

from collections.abc import Iterator
from typing import IO, Any

import pyarrow
import pyarrow.compute
import pyarrow.parquet
from django.utils.translation import gettext as _

from feedback_app.datasets.formats.base import BOMB_FREE, BOMB_RATIO, LONGEST_ROW, FileRefused, SourceRow

# Rows held at once, fewer where they are large on average, and what they may come to; more is taken row by row.
MOST_ROWS = 128
MOST_BYTES = 32 * 2**20
# Of a column whose every value has one length; texts have none, so this is no text.
LONGEST_FIXED = 1024
NUMBER_BYTES = 8


def read_parquet(file: IO[bytes]) -> Iterator[SourceRow]:
    """Yield the rows of a Parquet file, numbered from 1.

    Raises:
        FileRefused: it is damaged, or made to unpack to far more than honest content does.
    """
    number = 0
    try:
        plain = pyarrow.parquet.ParquetFile(file)
        texts = _refuse_packed(plain.metadata)
        # Unpacked, a text that a file holds once and names a thousand times would be there a thousand times.
        parquet = pyarrow.parquet.ParquetFile(file, read_dictionary=texts)
        for group in range(parquet.num_row_groups):
            count = _rows_at_once(parquet.metadata.row_group(group))
            for batch in parquet.iter_batches(batch_size=count, row_groups=[group]):
                for row in _rows_of(batch, plain.schema_arrow, number):
                    number = row.line
                    yield row
    except (pyarrow.ArrowException, OSError) as error:
        raise FileRefused(
            _("the Parquet file is damaged after row %(number)s: %(error)s") % {"number": number, "error": error}
        ) from error


def _refuse_packed(metadata: pyarrow.parquet.FileMetaData) -> list[str]:
    """Return the columns of texts; raises FileRefused where one unpacks to far more than honest content does."""
    texts: dict[str, None] = {}
    for group in range(metadata.num_row_groups):
        for place in range(metadata.num_columns):
            column = metadata.row_group(group).column(place)
            # Repeated numbers and lists of them pack to next to nothing, before any compression.
            size = max(column.total_uncompressed_size, column.num_values * NUMBER_BYTES)
            kind = metadata.schema.column(place)
            fixed = kind.length or 0
            if size > max(BOMB_FREE, BOMB_RATIO * column.total_compressed_size) or fixed > LONGEST_FIXED:
                raise FileRefused(
                    _("column %(name)r unpacks to %(size)s bytes: refused as a bomb")
                    % {"name": column.path_in_schema, "size": max(size, fixed * column.num_values)}
                )
            if column.physical_type == "BYTE_ARRAY" and kind.logical_type.type != "DECIMAL":
                texts[column.path_in_schema] = None
    return list(texts)


def _rows_at_once(group: pyarrow.parquet.RowGroupMetaData) -> int:
    mean = int(group.total_byte_size) // max(1, int(group.num_rows))
    return max(1, min(MOST_ROWS, MOST_BYTES // (mean + 1)))


def _rows_of(batch: pyarrow.RecordBatch, plain: pyarrow.Schema, number: int) -> Iterator[SourceRow]:
    """Yield a batch's rows, numbered after number; one that unpacks to more than a row may hold is a problem."""
    size = _unpacked_size(batch)
    if size <= MOST_BYTES:
        for value in batch.cast(plain).to_pylist():
            number += 1
            yield SourceRow(number, value, size=size // max(1, batch.num_rows))
        return
    for place in range(batch.num_rows):
        number += 1
        row = batch.slice(place, 1)
        size = _unpacked_size(row)
        if size > LONGEST_ROW:
            problem = _("the row is longer than %(size)s MB") % {"size": LONGEST_ROW // 2**20}
            yield SourceRow(number, problem=problem, size=LONGEST_ROW)
        else:
            yield SourceRow(number, row.cast(plain).to_pylist()[0], size=size)


def _unpacked_size(batch: pyarrow.RecordBatch) -> int:
    return sum(_size_of(column) for column in batch.columns)


def _size_of(array: Any) -> int:
    """Return how many bytes an array comes to once each value stands by itself."""
    kind = array.type
    if pyarrow.types.is_dictionary(kind):
        lengths = pyarrow.compute.binary_length(array.dictionary).take(array.indices)
        return int(pyarrow.compute.sum(lengths).as_py() or 0) + NUMBER_BYTES * len(array)
    if pyarrow.types.is_struct(kind):
        return sum(_size_of(field) for field in array.flatten())
    if pyarrow.types.is_map(kind):
        # Its keys and items are of the whole array, whatever slice of it this is.
        start, end = array.offsets[0].as_py(), array.offsets[-1].as_py()
        parts = (array.keys, array.items)
        return sum(_size_of(part.slice(start, end - start)) for part in parts) + NUMBER_BYTES * len(array)
    if pyarrow.types.is_list(kind) or pyarrow.types.is_large_list(kind) or pyarrow.types.is_fixed_size_list(kind):
        return _size_of(array.flatten()) + NUMBER_BYTES * len(array)
    return int(array.nbytes)
