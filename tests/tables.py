"""Tables as bytes, in every format that the service reads."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable
from typing import Any

import pyarrow as pa
from pyarrow import ipc, parquet


def to_csv(table: pa.Table) -> bytes:
    """Return a table as CSV; null is empty."""
    lines = io.StringIO(newline="")
    writer = csv.writer(lines, lineterminator="\n")
    writer.writerow(table.column_names)
    writer.writerows(zip(*(column.to_pylist() for column in table.columns), strict=True))
    return lines.getvalue().encode()


def to_parquet(table: pa.Table, **options: Any) -> bytes:
    """Return a table as a Parquet file; ``options`` are those of pyarrow's writer."""
    sink = io.BytesIO()
    parquet.write_table(table, sink, **options)
    return sink.getvalue()


def to_arrow(table: pa.Table, *, file: bool = False, chunk: int = 100, **options: Any) -> bytes:
    """Return a table as an Arrow stream or file, in batches of ``chunk`` rows."""
    sink = io.BytesIO()
    new = ipc.new_file if file else ipc.new_stream
    with new(sink, table.schema, options=ipc.IpcWriteOptions(**options)) as writer:
        writer.write_table(table, max_chunksize=chunk)
    return sink.getvalue()


WRITERS: dict[str, Callable[..., bytes]] = {
    "csv": to_csv,
    "parquet": to_parquet,
    "arrow": to_arrow,
}
"""By the names of ``webapp.ml.core.tables.FORMATS``."""
