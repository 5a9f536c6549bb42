"""Answers as tables: columns → the pieces of a CSV file or an Arrow stream, or Parquet."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

WRITTEN_CELLS = 2**16  # in a piece: about 1.3 MB of CSV
GROUP_CELLS = 2**20  # in a row group of Parquet: 8 MB of numbers
_FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r")  # OWASP: "CSV injection"


def write_csv(
    columns: Mapping[str, NDArray[Any]], *, header: bool = True, for_spreadsheet: bool = False
) -> Iterator[bytes]:
    """Yield the pieces of a CSV file.

    columns: name → (n_rows,) of float64, int64 or str, all equally long. Floats are written as
    the shortest text that reads back as the same bits. ``for_spreadsheet`` puts an apostrophe
    before text that a spreadsheet would run as a formula, such as ``=1+1``.
    """
    lines = io.StringIO(newline="")
    writer = csv.writer(lines, lineterminator="\n")
    if header:
        writer.writerow(columns)
    for block in _iterate_blocks(columns):
        if for_spreadsheet:
            block = {name: _quote_formulas(column) for name, column in block.items()}
        writer.writerows(zip(*(column.tolist() for column in block.values()), strict=True))
        yield lines.getvalue().encode()
        lines.seek(0)
        lines.truncate()


def write_arrow(columns: Mapping[str, NDArray[Any]]) -> Iterator[bytes]:
    """Yield the pieces of an Arrow stream, a record batch each; ``columns`` as for CSV."""
    import pyarrow as pa

    schema = _make_schema(columns)
    sink = io.BytesIO()
    with pa.ipc.new_stream(sink, schema) as stream:
        for block in _iterate_blocks(columns):
            stream.write_batch(pa.record_batch(list(block.values()), schema))
            yield sink.getvalue()
            sink.seek(0)
            sink.truncate()
    yield sink.getvalue()


def write_parquet(blocks: Iterable[Mapping[str, NDArray[Any]]], file: BinaryIO) -> None:
    """Write blocks of the same columns, as for CSV, as a Parquet file."""
    import pyarrow as pa
    from pyarrow import parquet

    with ExitStack() as stack:
        writer, held, n_cells = None, [], 0
        for columns in blocks:
            if writer is None:
                schema = _make_schema(columns)
                writer = stack.enter_context(parquet.ParquetWriter(file, schema))
            held.append(pa.record_batch(list(columns.values()), schema))
            n_cells += held[-1].num_rows * held[-1].num_columns
            if n_cells >= GROUP_CELLS:
                writer.write_table(pa.Table.from_batches(held))
                held, n_cells = [], 0
        if writer is not None and held:
            writer.write_table(pa.Table.from_batches(held))


def _make_schema(columns: Mapping[str, NDArray[Any]]) -> Any:
    import pyarrow as pa

    types = {"O": pa.string(), "U": pa.string(), "i": pa.int64(), "f": pa.float64()}
    types |= {"u": pa.int64(), "b": pa.bool_()}
    return pa.schema([(name, types[column.dtype.kind]) for name, column in columns.items()])


def _quote_formulas(column: NDArray[Any]) -> NDArray[Any]:
    if column.dtype.kind not in "OU":
        return column
    texts = column.tolist()
    return np.array([f"'{t}" if t.startswith(_FORMULA_STARTS) else t for t in texts], object)


def _iterate_blocks(columns: Mapping[str, NDArray[Any]]) -> Iterator[dict[str, NDArray[Any]]]:
    """Yield blocks of rows of at most ``WRITTEN_CELLS`` cells; at least one block."""
    n_rows = max(map(len, columns.values()), default=0)
    step = max(1, WRITTEN_CELLS // max(1, len(columns)))
    for start in range(0, max(1, n_rows), step):
        yield {name: column[start : start + step] for name, column in columns.items()}
